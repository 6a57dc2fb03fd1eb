"""Training clients: start a training run, train it, save and load its weights."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tinkex.api.http import futures, protobuf, schema
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import UNKNOWN_FORM, TinkerPath, as_received, run_url, segment
from tinkex.api.resources.checkpoint_info import Lineage
from tinkex.api.resources.sessions import Session, explain_full, outcome_of
from tinkex.api.training.sending import ExampleSender, send_patiently
from tinkex.api.training.types import (
    AdamParams,
    Datum,
    ForwardBackwardResult,
    TrainingFuture,
    chunks_of,
    metrics_in,
)
from tinkex.exceptions import (
    BadRequest,
    ConnectionFailed,
    InvalidResponse,
    NotFound,
    NotOffered,
    OperationFailed,
    ServerError,
    TimedOut,
    TinkexError,
    Unreachable,
    UsageError,
)

#: Errors of servers that cannot start a run by loading a checkpoint.
NO_DIRECT_LOAD = (BadRequest, NotFound, NotOffered)
CREATE_BY_LOADING = "POST load_weights without a model"
#: Errors after which nothing was saved or loaded. Others leave that open: a conflict may be with an
#: earlier attempt.
_REFUSED = (BadRequest, OperationFailed, UsageError)
#: Errors after which the checkpoint may still have been saved.
_LOST = (ConnectionFailed, TimedOut, InvalidResponse, NotFound, ServerError)
#: Time limit in seconds for finding a checkpoint after the response was lost.
_PATIENCE = 1.0
#: Names that every known server accepts, and the pattern in which strict servers declare them.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_PLAIN_NAMES_ONLY = "^[a-zA-Z0-9_-]+$"
_SAVING = "SaveWeightsForSamplerRequest"
#: Part of the message of servers that only load into an existing model.
_WANTS_MODEL = "model_id"


#: Sends the body of a call and returns the response.
Send = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class LoraConfig:
    """The shape of the adapter to train.

    :ivar seed: makes the initial values reproducible.
    :ivar train_unembed: adapt the output layer.
    """

    rank: int = 32
    seed: int | None = None
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank must be at least 1, not {self.rank}")
        if not (self.train_mlp or self.train_attn or self.train_unembed):
            raise UsageError("at least one group of layers must be trained")

    def body(self) -> dict[str, Any]:
        """Return the JSON form, without members that have their default value."""
        default = vars(LoraConfig())
        given = {name: value for name, value in vars(self).items() if value != default[name]}
        return {"rank": self.rank, **given}


def shape_of(lineage: Lineage) -> LoraConfig:
    """Return the shape of a saved adapter, with defaults for unreported values."""
    known = {name: vars(lineage)[name] for name in ("train_mlp", "train_attn", "train_unembed")}
    known["rank"] = lineage.lora_rank
    return LoraConfig(**{name: value for name, value in known.items() if value is not None})


@dataclass(frozen=True)
class SavedWeights:
    """A saved checkpoint; *response* is the service's unchanged response."""

    model_id: str
    path: str
    response: dict[str, Any] = field(default_factory=dict)


class TrainingClient:
    """A model in training; a context manager that finishes its session.

    Returned by :meth:`tinkex.api.ServiceClient.create_lora_training_client`. The client sends its
    calls one at a time, because the service expects their numbers in order.

    If the server rejects the first save of the run and this error leaves the block, the client also
    unloads the run on a server that cannot finish sessions.

    :ivar model_id: the service's id of the model, which is also the id of the training run.
    :ivar base_model: name of the base model, ``None`` if unknown.
    :ivar lora_rank: rank of the adapter, ``None`` if unknown.
    """

    def __init__(
        self,
        transport: Transport,
        session: Session,
        model_id: str,
        base_model: str | None,
        lora_rank: int | None,
    ) -> None:
        self.model_id = model_id
        self.base_model = base_model
        self.lora_rank = lora_rank
        self._transport = transport
        self._session = session
        self._next_seq_id = 1
        self._has_saved = self._may_have_saved = False
        self._tried: set[str] = set()
        self._refusal: TinkexError | None = None
        self._examples = ExampleSender(transport)
        self._lock = threading.Lock()

    def __enter__(self) -> TrainingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        outcome = outcome_of(kind)
        if error is not None and error is self._refusal:
            self._session.unneeded.add(self.model_id)
        if outcome == "interrupted" and not self._has_saved:
            note = _left(self.model_id, is_known=False)
            self._transport.deadline("the new checkpoint").report(note=note)
        self._session.finish(outcome)

    def close(self) -> None:
        """Finish the session; the saved checkpoints are kept."""
        self._session.finish()

    def forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> TrainingFuture[ForwardBackwardResult]:
        """Compute a loss, and accumulate its gradients until the next optimizer step.

        Submit the :meth:`optim_step` before waiting for the result, so that the service performs
        them without a pause. Large data is sent in several requests.

        :param data: the examples; the loss is a sum over their tokens, not a mean.
        :param loss_fn: ``cross_entropy``, ``importance_sampling``, ``ppo``, ``cispo``, ``dro`` or
            another one that the service offers.
        :param loss_fn_config: parameters of the loss function.
        :raises tinkex.exceptions.UsageError: *data* is empty.
        :raises tinkex.exceptions.BadRequest: the service does not accept the examples or the loss.
        """
        return self._pass(data, loss_fn, loss_fn_config, forward_only=False)

    def forward(
        self,
        data: Sequence[Datum],
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> TrainingFuture[ForwardBackwardResult]:
        """Compute a loss without gradients; see :meth:`forward_backward`."""
        return self._pass(data, loss_fn, loss_fn_config, forward_only=True)

    def optim_step(self, params: AdamParams) -> TrainingFuture[dict[str, float]]:
        """Update the weights with the accumulated gradients, and reset the gradients.

        :return: metrics from the server; some servers send none.
        """
        deadline = self._training_deadline()
        body = {"adam_params": params.body()}
        send = partial(send_patiently, self._transport, "optim_step", deadline=deadline)
        accepted = self._submit(send, body)

        def wait() -> dict[str, float]:
            deadline = self._training_deadline()
            common = (self._transport, accepted, "OptimStep", deadline)
            return metrics_in(futures.outcome(*common, wanted="metrics", patient=True))

        return TrainingFuture(wait)

    def save_weights_for_sampler(
        self, name: str, *, ttl_seconds: int | None = None
    ) -> SavedWeights:
        """Save a checkpoint to sample from.

        :param name: every server accepts letters, digits, ``_`` and ``-``.
        :param ttl_seconds: seconds until it expires, within the service's limits.
        :raises tinkex.exceptions.Conflict: the name is in use; some servers report that as
            :class:`~tinkex.exceptions.OperationFailed`.
        """
        return self._save("save_weights_for_sampler", name, ttl_seconds, {})

    def save_state(
        self, name: str, *, ttl_seconds: int | None = None, overwrite: bool = False
    ) -> SavedWeights:
        """Save a checkpoint to resume training from.

        :param overwrite: allow replacing an existing checkpoint with this name.
        """
        extra = {"overwrite": True} if overwrite else {}
        return self._save("save_weights", name, ttl_seconds, extra)

    def load_state(
        self, path: str, *, optimizer: bool = False, deadline: Deadline | None = None
    ) -> None:
        """Load the weights of a training checkpoint into this model.

        :param optimizer: load the optimizer's state as well.
        :param deadline: deadline of the whole operation.
        """
        body = {"path": str(TinkerPath.from_string(path)), "optimizer": optimizer}
        deadline = deadline or self._transport.deadline("weight loading")
        self._run("load_weights", body, deadline)

    def save_external(self, name: str, ttl_seconds: int, deadline: Deadline) -> TinkerPath:
        """Save weights as separate files for download, for *ttl_seconds*.

        :raises tinkex.exceptions.NotOffered: the service does not offer this.
        """
        body = {"path": name, "ttl_seconds": ttl_seconds}
        result = self._run("save_weights_external", body, deadline)
        return TinkerPath.from_server(schema.text(result, "path"))

    def _pass(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None,
        *,
        forward_only: bool,
    ) -> TrainingFuture[ForwardBackwardResult]:
        if not data:
            raise UsageError("at least one example is required")
        deadline = self._training_deadline()
        send = partial(self._examples.send, forward_only=forward_only, deadline=deadline)
        accepted = []
        for part in chunks_of(data):
            examples: dict[str, Any] = {
                "data": [datum.body() for datum in part],
                "loss_fn": loss_fn,
            }
            if loss_fn_config:
                examples["loss_fn_config"] = dict(loss_fn_config)
            found = self._submit(send, {"forward_backward_input": examples})
            accepted.append((found, len(part)))

        def wait() -> ForwardBackwardResult:
            kind = "Forward" if forward_only else "ForwardBackward"
            parts = []
            for found, count in accepted:
                result = futures.outcome(
                    *(self._transport, found, kind, self._training_deadline()),
                    protobuf.forward_backward_output,
                    wanted="loss_fn_outputs",
                    patient=True,
                )
                parts.append(ForwardBackwardResult.from_json(result, count))
            return ForwardBackwardResult.combined(parts)

        return TrainingFuture(wait)

    def _training_deadline(self) -> Deadline:
        return self._transport.deadline("training", patience=math.inf)

    def _submit(self, send: Send, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call *send* with *body* and the number of the call; return the response."""
        with self._lock:
            accepted = send({"model_id": self.model_id, "seq_id": self._next_seq_id, **body})
            # The number of a rejected call is reused for the next one.
            self._next_seq_id += 1
        return accepted

    def _save(
        self, endpoint: str, name: str, ttl: int | None, extra: Mapping[str, Any]
    ) -> SavedWeights:
        kind = "weights" if endpoint == "save_weights" else "sampler_weights"
        body = {"path": name, **extra, **({} if ttl is None else {"ttl_seconds": ttl})}
        number, is_new = self._next_seq_id, f"{kind}/{name}" not in self._tried
        self._tried.add(f"{kind}/{name}")
        try:
            segment(name)  # raises for an invalid name
            if "/" in name:
                raise UsageError(f"a checkpoint name must not contain a slash: {name!r}")
            deadline = self._transport.deadline("the new checkpoint")
            result = self._run(endpoint, body, deadline)
        except TinkexError as error:
            is_lost = isinstance(error, _LOST) and not isinstance(error, Unreachable)
            # An earlier checkpoint with this name would prove nothing.
            if not (is_lost and is_new and self._lists(f"{kind}/{name}")):
                self._leave(error)
                raise
            self._next_seq_id = number + 1
            note = "The response was lost, but the checkpoint was saved: the server lists it."
            deadline.report(note=note)
            result = {}
        self._has_saved = True
        path = result.get("path")
        if not path or not isinstance(path, str):
            path = f"tinker://{self.model_id}/{kind}/{name}"
        path, is_known = as_received(path)
        if not is_known:
            deadline.report(note=UNKNOWN_FORM)
        return SavedWeights(self.model_id, path, result)

    def _leave(self, error: TinkexError) -> None:
        """Record whether *error* leaves the run without a checkpoint."""
        if self._has_saved:
            return
        self._may_have_saved |= not isinstance(error, _REFUSED)
        self._refusal = None if self._may_have_saved else error
        error.aftermath = _left(self.model_id, is_known=not self._may_have_saved)

    def _lists(self, checkpoint_id: str) -> bool:
        """Return whether the server lists a checkpoint of this run; never raises."""
        request = Request("GET", f"{run_url(self.model_id)}/checkpoints")
        deadline = self._transport.deadline("the list of checkpoints", _PATIENCE)
        try:
            rows = schema.items(self._transport.once(request, deadline).object(), "checkpoints")
        except TinkexError:
            return False
        paths = [str(row.get("tinker_path")) for row in rows if isinstance(row, dict)]
        return any(path.endswith(f"/{checkpoint_id}") for path in paths)

    def _run(self, endpoint: str, body: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        words = endpoint.replace("_", " ").replace("sampler", "a sampler")
        what = re.sub(r"^(sav|load)e? ", r"\1ing ", words)  # saving weights for a sampler

        def send(given: dict[str, Any]) -> dict[str, Any]:
            return self._transport.call(
                Request("POST", endpoint, given, what=what), deadline
            ).object()

        accepted = self._submit(send, body)
        kind = endpoint.title().replace("_", "")  # LoadWeights
        return futures.outcome(self._transport, accepted, kind, deadline, wanted="path")


def check_name(transport: Transport, name: str) -> None:
    """Check *name* against the service's description of its API (OpenAPI).

    :raises UsageError: the service does not accept *name*.
    """
    if _PLAIN_NAME.fullmatch(name) or transport.is_dry_run:
        return
    try:
        deadline = transport.deadline("the service description", _PATIENCE)
        found = transport.once(Request("GET", "/openapi.json"), deadline).object()
        member = found["components"]["schemas"][_SAVING]["properties"]["path"]
        patterns = [form.get("pattern") for form in member.get("anyOf", [member])]
    except (TinkexError, KeyError, TypeError, AttributeError):
        return  # it describes nothing
    if _PLAIN_NAMES_ONLY in patterns:
        raise UsageError(
            f"this service does not accept the checkpoint name {name[:80]!r}",
            hint="Use letters, digits, '_' and '-'.",
        )


def create_model(
    transport: Transport,
    session: Session,
    base_model: str,
    lora: LoraConfig,
    user_metadata: Mapping[str, str] | None,
    deadline: Deadline,
) -> TrainingClient:
    """Start a training run on *base_model*."""
    body = {**_body(session, user_metadata), "base_model": base_model, "lora_config": lora.body()}
    request = Request("POST", "create_model", body, what="training")
    model_id = _start(transport, session, request, "CreateModel", deadline)
    return TrainingClient(transport, session, model_id, base_model, lora.rank)


def create_and_load(
    transport: Transport,
    session: Session,
    path: TinkerPath,
    lineage: Lineage,
    deadline: Deadline,
    *,
    optimizer: bool = False,
    user_metadata: Mapping[str, str] | None = None,
) -> TrainingClient:
    """Start a training run from a checkpoint, in one call or in two.

    :param lineage: the base model and adapter of *path*.
    """
    try:
        return create_by_loading(
            *(transport, session, path, deadline), optimizer=optimizer, user_metadata=user_metadata
        )
    except NO_DIRECT_LOAD:
        if lineage.base_model is None:
            raise
    lora = shape_of(lineage)
    client = create_model(transport, session, lineage.base_model, lora, user_metadata, deadline)
    try:
        client.load_state(str(path), optimizer=optimizer, deadline=deadline)
    except TinkexError as error:
        client._leave(error)
        if client._refusal is not None:
            session.unneeded.add(client.model_id)
        raise
    return client


def create_by_loading(
    transport: Transport,
    session: Session,
    path: TinkerPath,
    deadline: Deadline,
    *,
    optimizer: bool = False,
    user_metadata: Mapping[str, str] | None = None,
) -> TrainingClient:
    """Start a training run from a checkpoint, in one call.

    :raises BadRequest, NotFound, NotOffered: one of :data:`NO_DIRECT_LOAD`; either the service
        does not offer this, or there is no such checkpoint.
    """
    body = {**_body(session, user_metadata), "path": str(path), "optimizer": optimizer}
    request = Request("POST", "load_weights", body, what="starting a run from a checkpoint")
    try:
        model_id = _start(transport, session, request, "LoadWeights", deadline)
    except BadRequest as error:
        # The message concerns the call, not this checkpoint.
        if _WANTS_MODEL in error.message:
            transport.missing.add(CREATE_BY_LOADING)
        raise
    transport.missing.discard(CREATE_BY_LOADING)
    return TrainingClient(transport, session, model_id, None, None)


def _body(session: Session, user_metadata: Mapping[str, str] | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "session_id": session.session_id,
        "model_seq_id": session.model_seq_id,
    }
    return body | ({"user_metadata": dict(user_metadata)} if user_metadata else {})


def _start(
    transport: Transport, session: Session, request: Request, kind: str, deadline: Deadline
) -> str:
    """Send a request that creates a model, and wait; return the model's id."""
    early: dict[str, Any] = {}
    try:
        early = transport.call(request, deadline).object()
        session.model_seq_id += 1
        result = futures.outcome(transport, early, kind, deadline, wanted="model_id")
    except BaseException as error:
        model_id = early.get("model_id")
        left = _left(model_id, is_known=True) if isinstance(model_id, str) else None
        if isinstance(error, TinkexError):
            _explain(error, left)
        elif left and outcome_of(type(error)) == "interrupted":
            deadline.report(note=left)
        raise
    model_id = schema.optional_text(result, "model_id") or schema.optional_text(early, "model_id")
    return model_id or schema.refuse("no 'model_id'")


def _explain(error: TinkexError, left: str | None) -> None:
    """Add a hint to *error*, raised while creating a training run.

    :param left: what remains on the server, if known.
    """
    explain_full(error)
    is_lost = isinstance(error, (ConnectionFailed, TimedOut))
    if left is None and is_lost and not isinstance(error, Unreachable):
        left = (
            "The server may have created the training run. Before you try again, check the list "
            "of runs."
        )
    error.aftermath = left


def _left(model_id: str, *, is_known: bool) -> str:
    has = "has no checkpoint" if is_known else "may have no checkpoint"
    return f"The training run {model_id} was created and {has}."
