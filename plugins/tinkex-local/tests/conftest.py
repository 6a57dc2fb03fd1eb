"""A client that talks to the service without a network, and a clock that can be moved."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tinkex.plugins import HttpRequest, Timeouts
from tinkex_local.app import App, create_app
from tinkex_local.wire.wsgi import BASE_URL, WsgiSender

BASE_MODEL = "tinkex/baker-street-2M"


@dataclass
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", self.body[:200]
        return json.loads(self.body)


class Client:
    """Calls a WSGI application; ``c.post("create_session", {...})``."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.headers: dict[str, str] = {}

    def request(
        self, method: str, target: str, body: Any = None, raw: bytes | None = None, **headers: str
    ) -> Response:
        """Send a request to a path below the prefix, to another path, or to an address."""
        path = target if target.startswith("/") else f"/api/v1/{target}"
        url = target if target.startswith(BASE_URL) else BASE_URL + path
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        request = HttpRequest(method, url, {**self.headers, **headers}, data)
        response = WsgiSender(self.app).send(request, Timeouts(connect=5.0, read=60.0))
        try:
            return Response(response.status, response.headers, b"".join(response.chunks(65536)))
        finally:
            response.close()

    def get(self, target: str, **headers: str) -> Response:
        return self.request("GET", target, **headers)

    def post(self, target: str, body: Any = None, **headers: str) -> Response:
        return self.request("POST", target, {} if body is None else body, **headers)

    def put(self, target: str, body: Any) -> Response:
        return self.request("PUT", target, body)

    def delete(self, target: str) -> Response:
        return self.request("DELETE", target)

    # What a client does with these calls.

    def result(self, target: str, body: Any) -> Any:
        """Return the outcome of a long-running operation."""
        submitted = self.post(target, body)
        assert submitted.status == 200, submitted.body
        return self.retrieve(submitted.json["request_id"])

    def retrieve(self, request_id: str) -> Any:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            outcome = self.post("retrieve_future", {"request_id": request_id}).json
            if outcome.get("type") != "try_again":
                return outcome
        raise AssertionError("no outcome within a minute")

    def session(self, **more: Any) -> str:
        body = {"tags": [], "sdk_version": "0", **more}
        return str(self.post("create_session", body).json["session_id"])

    def model(self, session: str | None = None, number: int = 0, **lora: Any) -> str:
        body = {
            "session_id": session or self.session(),
            "model_seq_id": number,
            "base_model": BASE_MODEL,
            "lora_config": {"rank": 4, "seed": 1, **lora},
        }
        return str(self.result("create_model", body)["model_id"])

    def saved(self, model: str, kind: str = "sampler_weights", name: str = "a", **more: Any) -> str:
        """Save a checkpoint; return its path."""
        call = {
            "weights": "save_weights",
            "sampler_weights": "save_weights_for_sampler",
            "external_weights": "save_weights_external",
        }[kind]
        return str(self.result(call, {"model_id": model, "path": name, **more})["path"])

    def checkpoints(self, query: str = "") -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.get(f"checkpoints{query}").json["checkpoints"]
        return listed

    def sampler(self, number: int = 0, session: str | None = None, **target: str) -> str:
        body = {"session_id": session or self.session(), "sampling_session_seq_id": number}
        target = target or {"base_model": BASE_MODEL}
        answer = self.post("create_sampling_session", body | target)
        assert answer.status == 200, answer.body
        return str(answer.json["sampling_session_id"])


def sample_body(sampler: str, seq: int = 0, **changes: Any) -> dict[str, Any]:
    params = {"max_tokens": 8, "seed": 5} | changes.pop("params", {})
    tokens = changes.pop("tokens", [500, 600, 700])
    return {
        "sampling_session_id": sampler,
        "seq_id": seq,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": tokens}]},
        "sampling_params": params,
        **changes,
    }


class Clock:
    """Stands at 2027-01-15T08:00:00Z."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def opened(home: Path, clock: Clock) -> Iterator[Callable[..., Client]]:
    """Return a function that opens the service once more; its key and engines are arguments."""
    apps: list[App] = []

    def opened(api_key: str | None = None, **options: Any) -> Client:
        apps.append(create_app(home, api_key, clock=clock, **options))
        return Client(apps[-1])

    yield opened
    for app in apps:
        app.close()


@pytest.fixture(scope="session")
def client_of() -> type[Client]:
    """Return what calls an application, for those that a module shares."""
    return Client


@pytest.fixture
def client(opened: Callable[..., Client]) -> Client:
    return opened()


@pytest.fixture
def app(client: Client) -> Any:
    return client.app


@pytest.fixture
def sampling_body() -> Any:
    return sample_body
