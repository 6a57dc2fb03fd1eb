"""The program, and services for it to talk to."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Request, serving
from tinkex.api import ServiceClient
from tinkex.testing import invoke

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
    """``tinkex`` as a user sees it.

    :meth:`__call__` runs it in this process, which costs a tenth of a process's start; what needs
    a process (signals, terminals, closed pipes, what is left for the next one) starts
    :attr:`path`, by :meth:`start` for example.
    """

    path = Path(sys.executable).parent / "tinkex"

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(
        self,
        line: str,
        *words: str | Path,
        code: int = 0,
        stdin: str = "",
        cwd: Path | None = None,
        **environment: str,
    ) -> Done:
        """Run *line*, as a shell would split it, and further words; check the exit code."""
        argv = [*shlex.split(line), *map(str, words)]
        with contextlib.chdir(cwd or Path.cwd()):
            done = invoke(argv, stdin=stdin, environ=self.environment | environment)
        assert done.exit_code == code, (argv, done)
        assert "Traceback" not in done.stderr
        return Done(done.stdout, done.stderr, done.exit_code)

    def process(self, line: str, *words: str | Path, code: int = 0, **options: Any) -> Done:
        """Do the same in a process of its own."""
        process = self.start(line, *words, **options)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == code, (line, words, process.returncode, stdout, stderr)
        assert "Traceback" not in stderr
        return Done(stdout, stderr, process.returncode)

    def start(self, line: str, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a process with pipes for its output, unless *options* say otherwise."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        environ = {**os.environ, **self.environment}
        return subprocess.Popen([self.path, *shlex.split(line), *words], env=environ, **options)

    def peak(self, line: str, *words: str | Path, **options: Any) -> int:
        """Run a command line in a process; return the most memory that it had, in KB."""
        # A process begins with the memory of the one that started it: this one has a lot.
        script = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        )
        argv = [sys.executable, "-c", script, self.path, *shlex.split(line), *words]
        environ = {**os.environ, **self.environment}
        done = subprocess.run(
            argv, capture_output=True, text=True, env=environ, timeout=120, **options
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)


@dataclass(frozen=True)
class Service:
    """A running ``tinkex local serve``."""

    url: str
    home: Path


@contextlib.contextmanager
def serving_locally(home: Path, key: str, environ: Mapping[str, str]) -> Iterator[Service]:
    """Run ``tinkex local serve``, which asks for *key* and has its files below *home*."""
    log, environ = home / "stderr", {**environ, "HOME": str(home)}
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [Program.path, "local", "serve", "--api-key", key],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**environ, "TINKEX_LOCAL_HOME": str(home / "state")},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, log.read_text()
            yield Service(url, home / "state")
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve the embedded service over HTTP in a process of its own."""
    with serving_locally(tmp_path_factory.mktemp("service"), KEY, os.environ) as service:
        yield service


@pytest.fixture
def tinkex(tmp_path: Path) -> Program:
    """Return the program without any setting."""
    return Program({"TINKEX_LOCAL_HOME": str(tmp_path / "local")})


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """Return the program, set to talk to the service; ``embedded`` as parameter: in-process."""
    if getattr(request, "param", "") == "embedded":
        local = {"TINKEX_PROFILE": "local", "TINKEX_HTTP_POOL": ""}
        return Program({"TINKEX_LOCAL_HOME": str(tmp_path / "local"), **local})
    service: Service = request.getfixturevalue("service")
    return Program({"TINKER_BASE_URL": service.url, "TINKER_API_KEY": KEY})


@pytest.fixture
def client(service: Service) -> Iterator[ServiceClient]:
    """Return the SDK's client of the service."""
    with ServiceClient(base_url=service.url, api_key=KEY) as client:
        yield client


@pytest.fixture
def saved(served: Program, tmp_path: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint that was just saved."""
    output = tmp_path / "saved.json"
    served(f"checkpoint --base-model {MODEL} --rank 4 --seed 1 --output", output)
    return json.loads(output.read_text())


@dataclass(frozen=True)
class Silent:
    """A server that never answers; *asked* is set once a request has come."""

    url: str
    asked: threading.Event


@pytest.fixture
def silent() -> Iterator[Silent]:
    asked, ended = threading.Event(), threading.Event()

    def answer(_: Request) -> None:
        asked.set()
        ended.wait(120)

    with serving(answer) as url:
        yield Silent(url, asked)
        ended.set()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return where a test downloads a checkpoint to."""
    return tmp_path / "target"
