"""Sampling clients: drawing continuations from a model or a checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from tinkex.api import futures, lineage, protobuf, reading
from tinkex.api.paths import TinkerPath, served
from tinkex.api.retrying import LONGEST_WAIT
from tinkex.api.samples import SampleResponse, SamplingParams
from tinkex.api.sessions import Session, outcome_of
from tinkex.api.transport import Request, Transport
from tinkex.api.waiting import Deadline
from tinkex.exceptions import APIError, NotFound, TimedOut, UsageError

#: Asks the service to say 429 instead of queueing.
_BACKPRESSURE = {"X-Tinker-Sampling-Backpressure": "1"}
#: Bytes that a token is reckoned with, and up to which a request counts as small.
_TOKEN_BYTES, _SMALL = 10, 128 * 1024
#: Seconds to hold back after a 429, for small requests and for others.
_SMALL_PAUSE, _LARGE_PAUSE = 1.0, 5.0
#: Times that a sample whose operation the service has lost is asked for again.
_RESUBMISSIONS = 2


class SamplingClient:
    """Draws from one model; a context manager that finishes its session.

    Made by :meth:`tinkex.api.ServiceClient.create_sampling_client`. Threads may share it.

    :ivar sampling_session_id: the service's id.
    :ivar model_path: the checkpoint drawn from, or ``None`` for a base model.
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
        answer = transport.call(request, deadline).object()
        self.sampling_session_id = reading.text(answer, "sampling_session_id")
        self.model_path = model_path
        self._transport = transport
        self._session = session
        self._base_model = base_model
        self._next_seq_id = 0
        self._lock = threading.Lock()
        self._paused_until = 0.0

    def __enter__(self) -> SamplingClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.finish(outcome_of(kind))

    def close(self) -> None:
        """Finish the session."""
        self._session.finish()

    @property
    def base_model(self) -> str:
        """Name of the base model, asked of the service when first needed.

        :raises tinkex.exceptions.TinkexError: the service does not tell.
        """
        if self._base_model is None:
            deadline = self._transport.deadline("the name of the base model")
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
        if not all(isinstance(token, int) and token >= 0 for token in tokens):
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
            reading.refuse(f"{len(response.sequences)} sequences instead of {num_samples}")
        return response

    def _result(self, body: dict[str, Any], size: int, deadline: Deadline) -> dict[str, Any]:
        for resubmission in range(_RESUBMISSIONS + 1):
            # Whatever happens after acceptance, another try has another number.
            request_id = self._submit({**body, "seq_id": self._number()}, size, deadline)
            try:
                return futures.result(
                    self._transport, request_id, "Sample", deadline, protobuf.sample_response
                )
            except NotFound as error:
                if error.status != 410 or resubmission == _RESUBMISSIONS:
                    raise
                deadline.tell(reason="the service has lost the request; asking again")
        raise AssertionError("unreachable")

    def _submit(self, body: dict[str, Any], size: int, deadline: Deadline) -> str:
        """Hand the sample in, as often as the service is too busy to take it."""
        request = Request("POST", "asample", body, headers=_BACKPRESSURE, what="sampling")
        while True:
            self._hold_back(deadline)
            try:
                return futures.submitted(self._transport.call(request, deadline))
            except APIError as error:
                if error.status != 429:
                    raise
                pause = self._pause_for(error, size)
                if not deadline.allows(pause):
                    raise
                # All samples of this client hold back, not only the one that was told.
                with self._lock:
                    self._paused_until = max(self._paused_until, time.monotonic() + pause)
                deadline.tell(reason="the service is busy", retry_in=pause)

    def _pause_for(self, error: APIError, size: int) -> float:
        asked = getattr(error, "retry_after", None)
        if asked is not None and 0 < asked <= LONGEST_WAIT:
            return float(asked)
        return _SMALL_PAUSE if size * _TOKEN_BYTES <= _SMALL else _LARGE_PAUSE

    def _hold_back(self, deadline: Deadline) -> None:
        while (left := self._paused_until - time.monotonic()) > 0:
            deadline.sleep(left)

    def _number(self) -> int:
        with self._lock:
            self._next_seq_id += 1
            return self._next_seq_id - 1

    def _ask_base_model(self, deadline: Deadline) -> str:
        path = f"samplers/{served(self.sampling_session_id)}"
        try:
            answer = self._transport.call(Request("GET", path), deadline)
            name = reading.optional_text(answer.object(), "base_model")
        except TimedOut:
            raise
        except APIError:
            name = None
        if name:
            return name
        if self.model_path is None:
            reading.refuse("no 'base_model'")
        return lineage.base_model_of(self._transport, self.model_path, deadline)
