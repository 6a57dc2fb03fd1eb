"""The service client, which gives access to all resources of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tinkex import settings as settings_module
from tinkex.api.http import schema
from tinkex.api.http.retry import Deadline, OnWait
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import TinkerPath
from tinkex.api.resources.sessions import Outcome, Sessions, outcome_of
from tinkex.exceptions import (
    APIError,
    BadRequest,
    InvalidResponse,
    NotFound,
    OperationFailed,
    TinkexError,
    UsageError,
    a_few,
)
from tinkex.plugins import HttpPool
from tinkex.settings import Settings

# Imported where they are used, so that a list does not load training and sampling.
if TYPE_CHECKING:
    from tinkex.api.http.transport import Response
    from tinkex.api.resources.auth import Auth
    from tinkex.api.resources.billing import Billing
    from tinkex.api.resources.checkpoints import Checkpoints
    from tinkex.api.resources.models import Models
    from tinkex.api.resources.runs import Runs
    from tinkex.api.resources.watch import Snapshot
    from tinkex.api.sampling.client import SamplingClient
    from tinkex.api.training.client import TrainingClient


class ServiceClient:
    """A client of one service with one key; a context manager.

    :param settings: the effective settings; by default those of the command line, with the
        following arguments as its options.
    :param api_key: the key, or ``@FILE``.
    :param base_url: base URL of the service.
    :param timeout: seconds that one operation may take, retries and polling included.
    :param http_pool: name of the HTTP pool that sends the requests.
    :param on_wait: called with a :class:`~tinkex.api.Wait` whenever the client waits.
    :param pool: the HTTP pool to send requests with, instead of the one that the settings name.
    :raises tinkex.exceptions.SettingsError: a setting is missing or malformed.

    :ivar sessions: see :class:`~tinkex.api.Sessions`.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = None,
        http_pool: str | None = None,
        on_wait: OnWait | None = None,
        pool: HttpPool | None = None,
    ) -> None:
        flags = {
            "api_key": api_key,
            "base_url": base_url,
            "timeout": None if timeout is None else f"{timeout * 1000:.3f}",
            "http_pool": http_pool,
        }
        if settings is None:
            settings = settings_module.resolve(flags)
        elif any(value is not None for value in flags.values()):
            raise UsageError("pass settings or individual arguments, not both")
        self.settings = settings
        self._transport = Transport(settings, on_wait=on_wait, pool=pool)
        self.sessions = Sessions(self._transport)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the account."""
        from tinkex.api.resources.checkpoints import Checkpoints

        return Checkpoints(self._transport, self.sessions)

    @cached_property
    def runs(self) -> Runs:
        """The training runs of the account."""
        from tinkex.api.resources.runs import Runs

        return Runs(self._transport)

    @cached_property
    def models(self) -> Models:
        """The models that the service can train or sample from."""
        from tinkex.api.resources.models import Models

        return Models(self._transport)

    @cached_property
    def auth(self) -> Auth:
        """The API key and the account that it belongs to."""
        from tinkex.api.resources.auth import Auth

        return Auth(self._transport)

    @cached_property
    def billing(self) -> Billing:
        """Usage and storage, with their prices."""
        from tinkex.api.resources.billing import Billing

        return Billing(self._transport)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(outcome_of(kind))

    def close(self) -> None:
        """Finish the open sessions and close the connections."""
        self._close("success")

    def _close(self, outcome: Outcome) -> None:
        self.sessions.finish_all(outcome)
        self._transport.close()

    def deadline(self, operation: str) -> Deadline:
        """Return a deadline shared by several calls, with the timeout of the settings.

        :param operation: a noun for messages: ``Timed out while awaiting <operation>``.
        """
        return self._transport.deadline(operation)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        paginate: bool = False,
    ) -> Response:
        """Send any request to the service, with the key; return its successful response.

        :param path: below ``/api/v1``; with a leading slash below the base URL; or a URL below the
            base URL. It may have a query.
        :param body: sent as JSON; bytes are sent unchanged.
        :param paginate: fetch all pages of a list and return them as one.
        :raises UsageError: the path is not below the base URL, or a request of this method has no
            pages.
        :raises tinkex.exceptions.APIError: the service rejected the request.
        """
        from tinkex.api.resources import raw

        call = Request(method, path, body, params or {}, headers or {})
        return raw.request(self._transport, call, paginate=paginate)

    def watch(
        self,
        run_id: str,
        *,
        interval: float,
        limit: float | None = None,
        on_trouble: Callable[[TinkexError, float], None],
    ) -> Iterator[Snapshot]:
        """Yield a snapshot of a training run now, and then one every *interval* seconds.

        After the first one, transient errors are passed to *on_trouble* and retried, with growing
        pauses.

        :param limit: maximum number of seconds in total; ``None`` for no limit.
        :param on_trouble: called with an error and the seconds until the next poll.
        :raises TimedOut: *limit* has passed.
        :raises tinkex.exceptions.TinkexError: the first poll failed, or a poll with a permanent
            error.
        """
        from tinkex.api.resources import watch

        return watch.snapshots(
            self._transport, run_id, interval=interval, limit=limit, on_trouble=on_trouble
        )

    def create_lora_training_client(
        self,
        base_model: str,
        *,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
    ) -> TrainingClient:
        """Start a training run: a new adapter for *base_model*.

        :param rank: rank of the adapter.
        :param seed: makes the initial values reproducible.
        :raises UsageError: the service does not offer the model or the rank, or a value is out of
            range.
        """
        from tinkex.api.training import client as training

        lora = training.LoraConfig(rank, seed, train_mlp, train_attn, train_unembed)
        deadline = self._transport.deadline("training run creation")
        self._refuse_unknown(base_model, rank, deadline)
        with self.sessions.begun(deadline, user_metadata=user_metadata) as session:
            return training.create_model(
                self._transport, session, base_model, lora, user_metadata, deadline
            )

    def create_training_client_from_checkpoint(
        self,
        path: str,
        *,
        optimizer: bool = False,
        user_metadata: Mapping[str, str] | None = None,
    ) -> TrainingClient:
        """Start a training run that continues from a training checkpoint.

        :param optimizer: load the optimizer's state as well.
        """
        from tinkex.api.resources.checkpoint_info import lineage_of
        from tinkex.api.training import client as training

        parsed = TinkerPath.from_string(path)
        deadline = self._transport.deadline("training run creation")
        lineage = lineage_of(self._transport, parsed, deadline)
        with self.sessions.begun(deadline, user_metadata=user_metadata) as session:
            client = training.create_and_load(
                *(self._transport, session, parsed, lineage, deadline),
                optimizer=optimizer,
                user_metadata=user_metadata,
            )
        client.base_model, client.lora_rank = lineage.base_model, lineage.lora_rank
        return client

    def create_sampling_client(
        self,
        *,
        base_model: str | None = None,
        model_path: str | None = None,
        deadline: Deadline | None = None,
    ) -> SamplingClient:
        """Start sampling from a base model or from a checkpoint, exactly one of them.

        :param base_model: name of a model of the service.
        :param model_path: ``tinker://`` path of a sampler checkpoint.
        :param deadline: see :meth:`deadline`.
        """
        from tinkex.api.sampling.client import SamplingClient

        if (base_model is None) == (model_path is None):
            raise UsageError("specify either a base model or a model path")
        path = None if model_path is None else TinkerPath.from_string(model_path)
        deadline = deadline or self.deadline("sampling")
        try:
            with self.sessions.begun(deadline) as session:
                return SamplingClient(
                    *(self._transport, session),
                    base_model=base_model,
                    model_path=path,
                    deadline=deadline,
                )
        except (BadRequest, NotFound, OperationFailed) as error:
            if path is not None and error.hint is None:
                error.hint = self.checkpoints.suggest(str(path), to_sample=True)
            raise

    def _refuse_unknown(self, base_model: str, rank: int, deadline: Deadline) -> None:
        """Raise an error for a model or rank that the service does not offer.

        Some servers train the model that they have, regardless of the name in the request, and some
        list a run although they rejected its rank.
        """
        from tinkex.api.resources.models import models_in

        try:
            request = Request("GET", "get_server_capabilities")
            data = self._transport.call(request, deadline).object()
            models, most = models_in(data), schema.optional_int(data, "max_rank")
        except (APIError, InvalidResponse):
            return
        if most is not None and rank > most:
            raise UsageError(f"rank must be at most {most} on this service, not {rank}")
        offered = [model.model_name for model in models]
        prefixes = tuple(model.model_name for model in models if model.is_prefix)
        names = {base_model, base_model.partition(":")[0]}
        if not offered or not names.isdisjoint(offered) or base_model.startswith(prefixes):
            return
        if prefixes:
            deadline.report(note=f"This server does not list the base model {base_model!r}.")
        else:
            raise UsageError(
                f"this service does not offer the base model {base_model!r}",
                hint=f"Available models: {a_few(offered, 6)}.",
            )
