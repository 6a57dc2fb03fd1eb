"""The sampling client, for base models and checkpoints, with back-pressure.

A service that is too busy returns 429 when a sample is submitted. As in the official SDK (0.38,
``internal_client_holder``), this is not a failure. All samples of the client wait briefly, the
rejected one is sent again unchanged, and for some seconds fewer are submitted at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from tinkex.api.http import futures, protobuf, schema
from tinkex.api.http.retry import LONGEST_WAIT, Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import TinkerPath, segment_from_server
from tinkex.api.resources import checkpoint_info
from tinkex.api.resources.sessions import Session, explain_full, outcome_of
from tinkex.api.sampling import logprobs
from tinkex.api.sampling.types import (
    TAIL,
    Logprobs,
    Prompt,
    SampledRow,
    SampleResponse,
    SampleRow,
    SamplingParams,
    are_token_ids,
    is_chat,
    why_not_token_ids,
)
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
    from tinkex.api.sampling.tokenizer import Tokenizer

#: Header that asks the service to return 429 instead of queueing.
_BACKPRESSURE = {"X-Tinker-Sampling-Backpressure": "1"}
#: Statuses of a rejected sample, which this module handles instead of the transport.
_BUSY = frozenset({429})
#: Maximum number of resubmissions of a sample that the service lost or failed to compute.
_RESUBMISSIONS = 2
#: Seconds before the first resubmission; doubled for the next.
_RESUBMISSION_DELAY = 0.5
#: Maximum number of seconds that a busy service may add to the timeout of one of many samples.
PATIENCE = 3600.0
#: Maximum number of concurrent submissions: normally, and for a while after a rejection.
USUAL, NARROW = 400, 10
#: Seconds for which the lower maximum applies after the pause for a rejection.
NARROW_SECONDS = 10.0
#: Estimated bytes of a token in a request, and the largest size of a small request.
_TOKEN_BYTES, _SMALL = 10, 128 * 1024
#: Pause in seconds after the rejection of a small request, and of a large one.
_SMALL_PAUSE, _LARGE_PAUSE = 1.0, 5.0


class SamplingClient:
    """Samples from one model; a context manager that finishes its session.

    Created by :meth:`tinkex.api.ServiceClient.create_sampling_client`. It is thread-safe.

    :ivar sampling_session_id: the service's id.
    :ivar model_path: the sampled checkpoint, or ``None`` for a base model.
    :ivar backpressure: shared by all samples of this client; see
        :class:`~tinkex.api.sampling.client.Backpressure`.
    :ivar resubmissions: number of samples submitted again because the service lost or failed them.
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
            "sampling_session_seq_id": next(session.sampler_seq_ids),
        }
        if model_path is not None:
            body["model_path"] = str(model_path)
        else:
            body["base_model"] = base_model
        request = Request("POST", "create_sampling_session", body, what="sampling")
        try:
            created = transport.call(request, deadline).object()
            if created.get("sampling_session_id") is None:  # some servers respond slowly
                kind, wanted = "CreateSamplingSession", "sampling_session_id"
                created = futures.outcome(transport, created, kind, deadline, wanted=wanted)
        except TinkexError as error:
            explain_full(error)
            if model_path is None and isinstance(error, (BadRequest, NotFound)):
                error.resource = "model"
            raise
        self.sampling_session_id = schema.text(created, "sampling_session_id")
        self.model_path = model_path
        self._transport = transport
        self._session = session
        said = created.get("base_model")  # hatchery reports the base model only here
        self._base_model = base_model or (said if isinstance(said, str) else None)
        self._next_seq_id = 0
        self._lock = threading.Lock()
        self._scores_last_n = True
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
        """Name of the base model; see :meth:`find_base_model`."""
        return self.find_base_model()

    def find_base_model(self, deadline: Deadline | None = None) -> str:
        """Return the name of the base model; requested on first use.

        :param deadline: see :meth:`sample`.
        :raises tinkex.exceptions.TinkexError: the service does not report it.
        """
        if self._base_model:
            return self._base_model
        deadline = deadline or self._transport.deadline("the base model name")
        path = f"samplers/{segment_from_server(self.sampling_session_id)}"
        with suppress(APIError):
            found = self._transport.call(Request("GET", path), deadline).object()
            self._base_model = schema.optional_text(found, "base_model")
        if not self._base_model:
            if self.model_path is None:
                schema.refuse("no 'base_model'")
            self._base_model = checkpoint_info.base_model_of(
                self._transport, self.model_path, deadline
            )
        return self._base_model

    def sample(
        self,
        tokens: Sequence[int],
        params: SamplingParams | None = None,
        num_samples: int = 1,
        *,
        prompt_logprobs: bool = False,
        prompt_logprobs_last_n: int | None = None,
        topk_prompt_logprobs: int = 0,
        topk_logprobs: int = 0,
        deadline: Deadline | None = None,
    ) -> SampleResponse:
        """Return *num_samples* continuations of the prompt *tokens*.

        :param prompt_logprobs: also return the logprob of each token of the prompt.
        :param prompt_logprobs_last_n: return logprobs only for this number of tokens at the end of
            the prompt; the others are ``None``.
        :param topk_prompt_logprobs: number of most likely tokens to return for each position of the
            prompt.
        :param topk_logprobs: number of most likely tokens to return for each sampled position.
        :param deadline: the deadline of a larger operation; see
            :meth:`tinkex.api.ServiceClient.deadline`.
        :raises tinkex.exceptions.UsageError: the prompt is empty or contains an invalid token id.
        :raises tinkex.exceptions.LogprobsUnavailable: the service does not return the requested
            logprobs.
        :raises tinkex.exceptions.OperationFailed: the service failed to compute it.
        :raises tinkex.exceptions.TimedOut: the timeout of the settings passed.
        """
        _check(tokens, num_samples)
        body = {
            "sampling_session_id": self.sampling_session_id,
            "num_samples": num_samples,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(tokens)}]},
            "sampling_params": (params or SamplingParams()).body(),
        }
        deadline = deadline or self._transport.deadline("sampling")
        wanted = Logprobs(
            prompt_logprobs, prompt_logprobs_last_n, topk_prompt_logprobs, topk_logprobs
        )
        response = self._sampled(body, wanted, len(tokens), deadline)
        # Protobuf that was cut off between two fields parses without an error.
        if len(response.sequences) < num_samples:
            schema.refuse(f"only {len(response.sequences)} of {num_samples} sequences")
        return logprobs.checked(response, wanted, len(tokens))

    def _sampled(
        self, body: dict[str, Any], wanted: Logprobs, size: int, deadline: Deadline
    ) -> SampleResponse:
        """Send *body* with the members that request *wanted*; return the response."""
        while True:
            more = logprobs.request_members(wanted, size, last_n=self._scores_last_n)
            try:
                return SampleResponse.from_json(self._result(body | more, size, deadline), size)
            except (BadRequest, OperationFailed) as error:
                refused = logprobs.refused_member(error, more)
                if refused is None:
                    raise
                if refused != logprobs.LAST_N:
                    raise logprobs.unavailable(refused, error) from error
                self._scores_last_n = False  # the server scores the whole prompt instead

    def sample_many(
        self,
        rows: Iterable[SampleRow],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
        tokenizer: Tokenizer | None = None,
    ) -> Generator[SampledRow, None, None]:
        """Sample many prompts concurrently; yield results as they complete.

        Rows are read from *rows* as needed, in other threads but one at a time, so their number is
        not limited. A row that fails yields a result with an error, and the others continue. After
        the generator is closed, no further row is started.

        :param concurrency: number of concurrent samples; by default it adapts to the service, up to
            ``tinkex.api.sampling.batch.MAX_CONCURRENCY``.
        :param ordered: yield results in the order of *rows*; early ones are held back.
        :param tokenizer: for prompts that are text or messages; see
            :func:`tinkex.api.load_tokenizer`. A reply to messages ends at the end of turn of the
            chat template.
        :raises UsageError: *concurrency* is out of range.
        """
        from tinkex.api.sampling.batch import ConcurrencyLimit, sample_rows

        def sample(row: SampleRow) -> tuple[SampleResponse, Sequence[int]]:
            deadline = self._transport.deadline("sampling", patience=PATIENCE)
            tokens = encode_prompt(tokenizer, row.prompt, deadline.remaining())
            params = row.params or SamplingParams()
            if tokenizer is not None and is_chat(row.prompt):
                params = tokenizer.stop_sequences.added_to(params)
            wanted = vars(row.logprobs or Logprobs())
            response = self.sample(tokens, params, row.num_samples, deadline=deadline, **wanted)
            return response, tokens[-TAIL:]

        gate, limit = self.backpressure, ConcurrencyLimit(concurrency)
        return sample_rows(rows, sample, lambda: gate.spells, limit, ordered=ordered)

    def _result(self, body: dict[str, Any], size: int, deadline: Deadline) -> dict[str, Any]:
        for resubmission in range(_RESUBMISSIONS + 1):
            # After acceptance, another attempt always needs another number.
            with self._lock:
                number = self._next_seq_id
                self._next_seq_id += 1
            accepted = self._submit({**body, "seq_id": number}, size, deadline)
            decode = protobuf.sample_response
            try:
                return futures.outcome(
                    self._transport, accepted, "Sample", deadline, decode, wanted="sequences"
                )
            except TinkexError as error:
                reason = _resubmission_reason(error)
                delay = _RESUBMISSION_DELAY * 2**resubmission
                if reason is None or resubmission == _RESUBMISSIONS or not deadline.allows(delay):
                    raise
                with self._lock:
                    self.resubmissions += 1
                deadline.pause(delay, f"{reason}; resubmitting the request")
        raise AssertionError("unreachable")

    def _submit(self, body: dict[str, Any], size: int, deadline: Deadline) -> dict[str, Any]:
        """Submit the sample, again after each rejection; return the response."""
        # With the same number, the service treats repeated submissions as one sample.
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
                    response = self._transport.call(request, deadline)
                return response.object()
            except APIError as error:
                if error.status != 429:
                    raise
                pause = getattr(error, "retry_after", None) or 0.0
                if not 0 < pause <= LONGEST_WAIT:
                    pause = _SMALL_PAUSE if size * _TOKEN_BYTES <= _SMALL else _LARGE_PAUSE
                # All samples of this client wait, not only the rejected one.
                self.backpressure.refused(pause)
                if not deadline.allows(pause) and deadline.patience < pause:
                    raise
                deadline.report(reason="the service is busy", retry_in=pause)


def _check(tokens: Sequence[int], num_samples: int) -> None:
    if num_samples < 1:
        raise UsageError(f"the number of samples must be at least 1, not {num_samples}")
    if not tokens:
        raise UsageError("the prompt is empty")
    if not are_token_ids(tokens):
        why = why_not_token_ids(tokens)
        raise UsageError(f"the prompt must be a list of token ids, but {why}")


def encode_prompt(
    tokenizer: Tokenizer | None, prompt: Prompt, timeout: float | None = None
) -> Sequence[int]:
    """Return the token ids of *prompt*, which may be token ids already.

    :param tokenizer: for text and messages.
    :param timeout: see :meth:`tinkex.api.Tokenizer.encode`.
    :raises UsageError: there is no tokenizer, or the messages are not valid for its template.
    """
    if isinstance(prompt, str) or is_chat(prompt):
        if tokenizer is None:
            raise UsageError("a text or message prompt requires a tokenizer")
        if isinstance(prompt, str):
            return tokenizer.encode(prompt, timeout=timeout)
        return tokenizer.encode_messages(prompt, timeout=timeout)
    return prompt  # type: ignore[return-value]


def _resubmission_reason(error: TinkexError) -> str | None:
    """Return why to resubmit an accepted sample after *error*; ``None``: do not resubmit."""
    if isinstance(error, NotFound) and error.status == 410:
        return "the service lost the request"
    if isinstance(error, OperationFailed) and error.category == "server":
        return "the service failed to generate the sample"
    if isinstance(error, ServerError):
        return f"HTTP {error.status}"
    return None


class Backpressure:
    """Pauses and limits the submissions of a sampling client after the server rejects some.

    :ivar refusals: number of submissions that the server rejected (429).
    :ivar spells: number of periods with rejected submissions. A period ends when the client submits
        at its normal rate again.
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
        """Whether all submissions are currently paused."""
        return time.monotonic() < self._closed_until

    @contextmanager
    def passing(self, deadline: Deadline) -> Iterator[None]:
        """Wait until a sample may be submitted; the block submits it.

        :raises tinkex.exceptions.TimedOut: submissions are still paused at *deadline*.
        """
        self._enter(deadline)
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()

    def refused(self, pause: float) -> None:
        """Pause submissions for *pause* seconds, then use the lower maximum for a while."""
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
