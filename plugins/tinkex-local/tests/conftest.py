"""A client that talks to the service without a network, and a clock that can be moved."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tinkex_local.app import App, create_app

BASE_MODEL = "tinkex/baker-street-2M"


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json", self.body[:200]
        return json.loads(self.body)


@dataclass
class Client:
    """Calls a WSGI application; ``c.post("create_session", {...})``."""

    app: Any
    headers: dict[str, str] = field(default_factory=dict)

    def request(
        self, method: str, target: str, body: Any = None, raw: bytes | None = None, **headers: str
    ) -> Response:
        parts = urlsplit(target)
        path = parts.path if parts.path.startswith("/") else f"/api/v1/{parts.path}"
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": parts.query,
            "CONTENT_LENGTH": str(len(data)),
            "CONTENT_TYPE": "application/json",
            "HTTP_HOST": "service.test",
            "SERVER_NAME": "service.test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(data),
            "wsgi.errors": io.StringIO(),
        }
        for name, value in {**self.headers, **headers}.items():
            environ[f"HTTP_{name.upper()}"] = value
        seen: list[Any] = []
        result = self.app(environ, lambda *args: seen.append(args))
        try:
            content = b"".join(result)
        finally:
            if hasattr(result, "close"):
                result.close()
        return Response(int(seen[0][0][:3]), dict(seen[0][1]), content)

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

    def session(self) -> str:
        return str(self.post("create_session", {"tags": [], "sdk_version": "0"}).json["session_id"])

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

    def sampler(self, number: int = 0, **target: str) -> str:
        body = {"session_id": self.session(), "sampling_session_seq_id": number}
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
def app(home: Path, clock: Clock) -> Iterator[App]:
    app = create_app(home, clock=clock)
    yield app
    app.close()


@pytest.fixture
def client(app: App) -> Client:
    return Client(app)


@pytest.fixture
def sampling_body() -> Any:
    return sample_body


@pytest.fixture
def client_of() -> type[Client]:
    return Client
