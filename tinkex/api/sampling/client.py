"""Sampling clients: drawing continuations from a model or a checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinkex.api.http import futures, protobuf, schema
from tinkex.api.http.retry import LONGEST_WAIT, Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import TinkerPath, served
from tinkex.api.resources import lineage
from tinkex.api.resources.sessions import Session, outcome_of
from tinkex.api.sampling.types import SampleResponse, SamplingParams
from tinkex.exceptions import (
    APIError,
    BadRequest,
    NotFound,
    OperationFailed,
    ServerError,
    TinkexError,
    UsageError,
)

if TYPE_CHECKING:
    from tinkex.api.sampling.batch import SampledRows, SampleRow
    from tinkex.api.sampling.tokenizer import Tokenizer

#: Asks the service to say 429 instead of queueing.
_BACKPRESSURE = {"X-Tinker-Sampling-Backpressure": "1"}
#: Statuses of a refused sample that are looked at here, not repeated below.
_BUSY = frozenset({429})
#: Times that a sample is asked for again that the service has lost or failed to compute.
_RESUBMISSIONS = 2
#: Seconds before it is; twice as long the next time.
_RESUBMISSION_DELAY = 0.5
#: Samples being handed in at once: normally, and for a while after a refusal.
USUAL, NARROW = 400, 10
#: Seconds, after the wait that follows a refusal, for which few are handed in.
NARROW_SECONDS = 10.0
#: Bytes that a token is reckoned with, and up to which a request counts as small.
_TOKEN_BYTES, _SMALL = 10, 128 * 1024
#: Seconds to hold back after a refusal, for small requests and for others.
_SMALL_PAUSE, _LARGE_PAUSE = 1.0, 5.0


class SamplingClient:
    """Draws from one model; a context manager that finishes its session.

    Made by :meth:`tinkex.api.ServiceClient.create_sampling_client`. Threads may share it.

    :ivar sampling_session_id: the service's id.
    :ivar model_path: the checkpoint drawn from, or ``None`` for a base model.
    :ivar backpressure: what all samples of this client heed, see
        :class:`Backpressure`.
    :ivar resubmissions: samples asked for again because the service lost or failed them.
    """

    def __init__(
        self,
        transport: Transport,
        session: Session,
        *,
        base_model: str | None,
        model_path: TinkerPath | None,
        deadline: Deadline,
    ) -> None:
        body: dict[str, Any] = {
            "session_id": session.session_id,
            "sampling_session_seq_id": session.next_sampler(),
        }
        if model_path is not None:
            body["model_path"] = str(model_path)
        else:
            body["base_model"] = base_model
        request = Request("POST", "create_sampling_session", body, what="sampling")
        try:
            answer = transport.call(request, deadline).object()
        except (BadRequest, NotFound) as error:
            if model_path is None:
                error.hint = "See which models there are: tinkex model list"
            raise
        self.sampling_session_id = schema.text(answer, "sampling_session_id")
        self.model_path = model_path
        self._transport = transport
        self._session = session
        self._base_model = base_model
        self._next_seq_id = 0
        self._lock = threading.Lock()
        self.backpressure = Backpressure()
        self.resubmissions = 0

    def __enter__(self) -> SamplingClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._session.finish(outcome_of(kind))

    def close(self) -> None:
        """Finish the session."""
        self._session.finish()

    @property
    def base_model(self) -> str:
        """Name of the base model, asked of the service when first needed.

        :raises tinkex.exceptions.TinkexError: the service does not tell.
        """
        return self.find_base_model()

    def find_base_model(self, deadline: Deadline | None = None) -> str:
        """Return the name of the base model, asked of the service when first needed.

        :param deadline: see :meth:`sample`.
        :raises tinkex.exceptions.TinkexError: the service does not tell.
        """
        if self._base_model is None:
            deadline = deadline or self._transport.deadline("the name of the base model")
            self._base_model = self._ask_base_model(deadline)
        return self._base_model

    def sample(
        self,
        tokens: Sequence[int],
        params: SamplingParams | None = None,
        num_samples: int = 1,
        *,
        deadline: Deadline | None = None,
    ) -> SampleResponse:
        """Return *num_samples* continuations of the prompt *tokens*.

        :param deadline: what is left of a larger operation's time; see
            :meth:`tinkex.api.ServiceClient.deadline`.
        :raises tinkex.exceptions.OperationFailed: the service could not do it.
        :raises tinkex.exceptions.TimedOut: it took longer than the settings allow.
        """
        if num_samples < 1:
            raise UsageError(f"the number of samples must be at least 1, not {num_samples}")
        if not tokens:
            raise UsageError("the prompt is empty")
        if not _are_token_ids(tokens):
            raise UsageError("the prompt holds something that is no token id")
        prompt = {"chunks": [{"type": "encoded_text", "tokens": list(tokens)}]}
        body = {
            "sampling_session_id": self.sampling_session_id,
            "num_samples": num_samples,
            "prompt": prompt,
            "sampling_params": (params or SamplingParams()).body(),
        }
        deadline = deadline or self._transport.deadline("sampling")
        response = SampleResponse.from_json(self._result(body, len(tokens), deadline), len(tokens))
        # Protobuf that was cut between two fields reads as if it were whole.
        if len(response.sequences) < num_samples:
            schema.refuse(f"{len(response.sequences)} sequences instead of {num_samples}")
        return response

    def deadline(self, *, patience: float = 0.0) -> Deadline:
        """Start the time allowance of one sample, that of the settings.

        :param patience: seconds that waiting for a busy service may add to it.
        """
        return self._transport.deadline("sampling", patience=patience)

    def sample_many(
        self,
        rows: Iterable[SampleRow],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        tokenizer: Tokenizer | None = None,
    ) -> SampledRows:
        """Sample many prompts side by side; yields results as they complete.

        Rows are taken from *rows* as there is room for them, so there may be any number of them.
        They are taken in the thread that asks for results: rows that come slowly hold these back.
        A row that fails is a result with an error, and the others go on.

        :param concurrency: rows under way at once; by default as many as the service takes
            without complaint, at most ``tinkex.api.sampling.batch.MOST``.
        :param ordered: yield results in the order of *rows*; those that come early are held.
        :param tokenizer: for prompts that are text or messages; see
            :func:`tinkex.api.load_tokenizer`.
        :raises UsageError: *concurrency* is out of range.
        """
        from tinkex.api.sampling.batch import SampledRows

        return SampledRows(self, rows, concurrency, ordered=ordered, tokenizer=tokenizer)

    def _result(self, body: dict[str, Any], size: int, deadline: Deadline) -> dict[str, Any]:
        for resubmission in range(_RESUBMISSIONS + 1):
            # Whatever happens after acceptance, another try has another number.
            request_id = self._submit({**body, "seq_id": self._number()}, size, deadline)
            try:
                return futures.result(
                    self._transport, request_id, "Sample", deadline, protobuf.sample_response
                )
            except TinkexError as error:
                why = _why_again(error)
                delay = _RESUBMISSION_DELAY * 2**resubmission
                if why is None or resubmission == _RESUBMISSIONS or not deadline.allows(delay):
                    raise
                with self._lock:
                    self.resubmissions += 1
                deadline.pause(delay, f"{why}; asking again")
        raise AssertionError("unreachable")

    def _submit(self, body: dict[str, Any], size: int, deadline: Deadline) -> str:
        """Hand the sample in, as often as the service is too busy to take it."""
        # Its number makes it the same sample however often it is sent.
        request = Request(
            "POST",
            "asample",
            body,
            headers=_BACKPRESSURE,
            repeatable=True,
            final=_BUSY,
            what="sampling",
        )
        while True:
            try:
                with self.backpressure.passing(deadline):
                    answer = self._transport.call(request, deadline)
                return futures.submitted(answer)
            except APIError as error:
                if error.status != 429:
                    raise
                pause = _asked_pause(error) or pause_after_refusal(size)
                # All samples of this client hold back, not only the one that was told.
                self.backpressure.refused(pause)
                if not deadline.allows(pause) and deadline.patience < pause:
                    raise
                deadline.report(reason="the service is busy", retry_in=pause)

    def _number(self) -> int:
        with self._lock:
            self._next_seq_id += 1
            return self._next_seq_id - 1

    def _ask_base_model(self, deadline: Deadline) -> str:
        path = f"samplers/{served(self.sampling_session_id)}"
        try:
            answer = self._transport.call(Request("GET", path), deadline)
            name = schema.optional_text(answer.object(), "base_model")
        except APIError:
            name = None
        if name:
            return name
        if self.model_path is None:
            schema.refuse("no 'base_model'")
        return lineage.base_model_of(self._transport, self.model_path, deadline)


def _are_token_ids(tokens: Sequence[int]) -> bool:
    if set(map(type, tokens)) == {int}:  # as good as always, and ten times as quick
        return min(tokens) >= 0
    return all(isinstance(token, int) and token >= 0 for token in tokens)


def _asked_pause(error: APIError) -> float | None:
    asked = getattr(error, "retry_after", None)
    return float(asked) if asked is not None and 0 < asked <= LONGEST_WAIT else None


def _why_again(error: TinkexError) -> str | None:
    """Return why an accepted sample that failed with *error* is worth another try, or ``None``."""
    if isinstance(error, NotFound) and error.status == 410:
        return "the service has lost the request"
    if isinstance(error, OperationFailed) and error.category == "server":
        return "the service failed to compute it"
    if isinstance(error, ServerError):
        return f"HTTP {error.status}"
    return None


def pause_after_refusal(prompt_tokens: int) -> float:
    """Return the seconds to hold back when a prompt of so many tokens was refused."""
    return _SMALL_PAUSE if prompt_tokens * _TOKEN_BYTES <= _SMALL else _LARGE_PAUSE


class Backpressure:
    """A gate through which samples are handed in.

    :ivar refusals: answers of 429 so far.
    :ivar spells: times that the service began to refuse: refusals while everybody holds back
        already belong to the same one.
    """

    def __init__(self) -> None:
        self.refusals = 0
        self.spells = 0
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._closed_until = 0.0
        self._narrow_until = 0.0

    @property
    def is_shut(self) -> bool:
        """Whether everybody waits at the moment."""
        return time.monotonic() < self._closed_until

    @contextmanager
    def passing(self, deadline: Deadline) -> Iterator[None]:
        """Wait for the gate; who is inside the block is handing a sample in.

        :raises tinkex.exceptions.TimedOut: the gate stays shut for longer than *deadline*.
        """
        self._enter(deadline)
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()

    def refused(self, pause: float) -> None:
        """Shut the gate for *pause* seconds, and open it only a little after that."""
        now = time.monotonic()
        with self._changed:
            self.refusals += 1
            if now >= self._narrow_until:
                self.spells += 1
            self._closed_until = max(self._closed_until, now + pause)
            self._narrow_until = self._closed_until + NARROW_SECONDS

    def _enter(self, deadline: Deadline) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                shut = self._closed_until - now
                narrow = self._narrow_until - now
                if shut <= 0 and self._inside < (NARROW if narrow > 0 else USUAL):
                    self._inside += 1
                    return
                wait = shut if shut > 0 else narrow if narrow > 0 else None
                left = deadline.remaining()
                self._changed.wait(left if wait is None else min(wait, left))
                deadline.excuse(time.monotonic() - now)
