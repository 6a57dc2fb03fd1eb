"""``session export-trace`` against the embedded service."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from tests.functional.conftest import Program
from tinkex.testing import invoke
from tinkex_local.app import create_app

#: How a trace of Perfetto begins: a packet with a snapshot of clocks.
PACKET = b"\x0a"


def session_of(saved: dict[str, Any]) -> str:
    return str(saved["model_id"]).partition(":")[0]


def test_a_trace_becomes_a_file(served, saved, tmp_path):
    session = session_of(saved)
    done = served(f"session export-trace {session}", cwd=tmp_path)
    file = tmp_path / f"{session}.pftrace"
    content = file.read_bytes()
    assert content[:1] == PACKET
    assert saved["weights_path"].encode() in content
    assert done.stdout == f"Saved {len(content)} B to {session}.pftrace\n"
    again = served(f"session export-trace {session}", cwd=tmp_path, code=1)
    assert f"{session}.pftrace exists" in again.stderr
    assert "--force" in again.stderr
    named = tmp_path / "new" / "sweep.pftrace"
    (row,) = [served(f"session export-trace {session} --output {named} --json").rows]
    assert row == {
        "session_id": session,
        "url": None,
        "destination": str(named),
        "file_size_bytes": len(content),
    }
    assert named.read_bytes() == content


def test_a_session_that_is_not_there(served, tmp_path):
    done = served("session export-trace nope --output x", cwd=tmp_path, code=1)
    assert "'nope'" in done.stderr
    assert done.stderr.endswith("Hint: See 'tinkex session list'.\n")
    assert not (tmp_path / "x").exists()


def test_only_the_address(served, saved, tmp_path):
    session = session_of(saved)
    done = served(f"session export-trace {session} --url-only", cwd=tmp_path)
    (url,) = done.stdout.splitlines()
    assert list(tmp_path.glob("*.pftrace")) == []
    if "TINKER_BASE_URL" in served.environment:  # embedded, nobody else can fetch it
        assert url.startswith(served.environment["TINKER_BASE_URL"])
        with urllib.request.urlopen(url) as response:
            assert response.read(1) == PACKET
    both = served(f"session export-trace {session} --url-only --output x", code=1)
    assert "Leave out --output" in both.stderr


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Building:
    """The embedded service as one that builds a trace for two looks, or never can."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.answers: list[dict[str, str]] = [{"status": "pending"}, {"status": "pending"}]

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if environ["PATH_INFO"].endswith("/trace_export") and self.answers:
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self.answers.pop(0)).encode()]
        return self._app(environ, start)


@pytest.fixture
def building(tmp_path: Path) -> Iterator[tuple[Program, Building]]:
    """Serve the embedded service with a builder before it; returns the program set to it."""
    app = create_app(tmp_path / "state")
    building = Building(app)
    server: WSGIServer = make_server("127.0.0.1", 0, building, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield Program({"TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-x"}), building
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.close()


def new_session(program: Program) -> str:
    words = ["api", "POST", "create_session", "-F", "tags=[]", "--field", "sdk_version=v"]
    done = invoke(words, environ=program.environment)
    return str(json.loads(done.stdout)["session_id"])


def test_what_is_still_built_is_waited_for_and_told_on_a_terminal(building, tmp_path):
    program, service = building
    session = new_session(program)
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [program.path, "session", "export-trace", session],
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, **program.environment, "TERM": "xterm"},
        )
        told = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, told
    assert service.answers == []
    assert "the service builds it" in told
    file = tmp_path / f"{session}.pftrace"
    assert file.read_bytes()[:1] == PACKET
    assert done.stdout.decode() == f"Saved {file.stat().st_size} B to {file.name}\n"


def test_what_cannot_be_built_or_takes_too_long(building, tmp_path):
    program, service = building
    session = new_session(program)
    service.answers[:] = [{"status": "failed", "error": "too old"}]
    done = program(f"session export-trace {session}", cwd=tmp_path, code=1)
    assert "the trace could not be built: too old" in done.stderr
    service.answers[:] = [{"status": "pending"}] * 9
    words = ("session", "export-trace", session, "--timeout", "1s")
    done = program(*words, cwd=tmp_path, code=1)
    assert "Timed out while awaiting the trace" in done.stderr
    assert list(tmp_path.glob("*.pftrace*")) == []
