"""A scripted service that samples."""

from __future__ import annotations

import threading

import pytest

from tests.unit.api.conftest import Reply, Seen, Server
from tinkex.api import SamplingClient, ServiceClient


class Sampler:
    """The sampling part of a service; each sample is its prompt, reversed.

    :ivar submitted: the submissions so far.
    :ivar refuse: number of submissions to refuse.
    :ivar busy: the reply to those.
    :ivar fail: first token of a prompt → the reply in place of its sample.
    :ivar hold: seconds before a sample is returned.
    """

    def __init__(self, server: Server) -> None:
        self.submitted: list[Seen] = []
        self.refuse = 0
        self.busy = Reply({"detail": "Busy"}, 429)
        self.fail: dict[int, Reply] = {}
        self.hold = 0.0
        self._lock = threading.Lock()
        server.on("POST", "create_session", {"session_id": "s"})
        server.on("POST", "create_sampling_session", {"sampling_session_id": "x"})
        server.on("POST", "sessions/s/finish", {})
        server.on("POST", "asample", self.submit)
        server.on("POST", "retrieve_future", self.retrieve)

    def submit(self, seen: Seen) -> Reply:
        with self._lock:
            self.submitted.append(seen)
            refused = self.refuse > 0
            self.refuse -= refused
        if refused:
            return self.busy
        prompt = seen.body["prompt"]["chunks"][0]["tokens"]
        return Reply({"request_id": f"{seen.body['seq_id']}:{','.join(map(str, prompt))}"})

    def retrieve(self, seen: Seen) -> Reply:
        _, _, prompt = seen.body["request_id"].partition(":")
        tokens = list(map(int, prompt.split(",")))
        if tokens[0] in self.fail:
            return self.fail[tokens[0]]
        sequence = {"tokens": tokens[::-1], "logprobs": None, "stop_reason": "stop"}
        return Reply({"sequences": [sequence]}, delay=self.hold)


@pytest.fixture
def sampler(server: Server) -> Sampler:
    return Sampler(server)


@pytest.fixture
def sampling(sampler: Sampler, client: ServiceClient) -> SamplingClient:
    return client.create_sampling_client(base_model="m")


class Meeting:
    """Counts the threads that are in its block; each stays until *size* of them were."""

    def __init__(self, size: int) -> None:
        self.most = self._inside = 0
        self._lock, self._together = threading.Lock(), threading.Barrier(size)

    def attend(self, *_: object, **__: object) -> None:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self._together.wait(60)
        with self._lock:
            self._inside -= 1
