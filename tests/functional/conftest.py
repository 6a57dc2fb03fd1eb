"""The installed program as a subprocess, and services for it to talk to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KEY = "tml-functional-test"
MODEL = "tinkex/baker-street-2M"


@dataclass(frozen=True)
class Done:
    """What a finished command left behind."""

    stdout: str
    stderr: str
    code: int

    @property
    def rows(self) -> Any:
        return json.loads(self.stdout)


class Program:
    """``tinkex`` as a user starts it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.path = Path(sys.executable).parent / "tinkex"

    def __call__(
        self,
        *argv: str,
        code: int = 0,
        stdin: str = "",
        cwd: Path | None = None,
        timeout: float = 60,
        **environment: str,
    ) -> Done:
        """Run one command line, and check its exit code."""
        done = subprocess.run(
            [self.path, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            env={**os.environ, **self.environment, **environment},
        )
        assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return Done(done.stdout, done.stderr, done.returncode)


@dataclass(frozen=True)
class Service:
    """A running ``tinkex local serve``."""

    url: str
    home: Path


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve the embedded service over HTTP in a process of its own."""
    home = tmp_path_factory.mktemp("service")
    log = (home / "stderr").open("w")
    process = subprocess.Popen(
        [Path(sys.executable).parent / "tinkex", "local", "serve", "--port", "0", "--api-key", KEY],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, "TINKEX_LOCAL_HOME": str(home / "state"), "HOME": str(home)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        words = [word for word in line.split() if word.startswith("http://")]
        assert words, (line, (home / "stderr").read_text())
        yield Service(words[0].rstrip("/"), home / "state")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()
        log.close()


@pytest.fixture
def tinkex(tmp_path: Path) -> Program:
    """Return the program without any setting."""
    return Program({"TINKEX_LOCAL_HOME": str(tmp_path / "local")})


@pytest.fixture(params=["http", "in-process"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """Return the program, set to talk to the embedded service: over HTTP, then in-process."""
    if request.param == "in-process":
        return Program({"TINKEX_LOCAL_HOME": str(tmp_path / "local"), "TINKEX_PROFILE": "local"})
    service: Service = request.getfixturevalue("service")
    return Program({"TINKER_BASE_URL": service.url, "TINKER_API_KEY": KEY})


@pytest.fixture
def saved(served: Program, tmp_path: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint that was just saved."""
    output = tmp_path / "saved.json"
    served(
        "checkpoint", "--base-model", MODEL, "--rank", "4", "--seed", "1", "--output", str(output)
    )
    return json.loads(output.read_text())
