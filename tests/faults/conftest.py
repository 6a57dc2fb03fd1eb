"""Fixtures: the faulty server, the real service behind it, and the table of results."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.faults import table
from tests.faults.writes import WRITERS, Elsewhere, Place, Spot
from tests.functional.conftest import KEY, MODEL, service
from tests.serving import Reply, Request, serving
from tinkex.testing import invoke

__all__ = ["service"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--all-faults", action="store_true", help="also the slow part of the matrix")
    group.addoption("--kill-table", metavar="FILE", help="write how often each was killed to FILE")
    group.addoption("--kills", type=int, default=5, metavar="N", help="kills of each command")
    group.addoption("--fault-table", metavar="FILE", help="write the table of the manual to FILE")
    group.addoption("--write-table", metavar="FILE", help="write that of full disks to FILE")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    for name in table.TABLES:
        if path := config.getoption(f"--{name}-table"):
            config.pluginmanager.register(table.Recorder(name, Path(path)))


@dataclass(frozen=True)
class Faulty:
    """The ports of a running :mod:`tests.faults.server`."""

    ports: dict[str, int]
    certificates: Path
    upstream: str

    def url(self, fault: str) -> str:
        return f"http://127.0.0.1:{self.ports['http']}/{fault}"

    def stolen(self) -> list[dict[str, str]]:
        """Return the headers of every request that reached the place no key may reach."""
        url = f"http://127.0.0.1:{self.ports['canary']}/seen"
        with urllib.request.urlopen(url) as response:
            seen: list[dict[str, str]] = json.load(response)
        return [headers for headers in seen if headers["path"] != "/seen"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make certificates for each way in which TLS can fail; ``ca.crt`` is the one to trust."""
    directory = tmp_path_factory.mktemp("certificates")
    trusted, stranger = trustme.CA(), trustme.CA()
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    trusted.cert_pem.write_to_path(directory / "ca.crt")
    for name, certificate in {
        "good": trusted.issue_cert("127.0.0.1"),
        "unknown": stranger.issue_cert("127.0.0.1"),
        "expired": trusted.issue_cert("127.0.0.1", not_after=yesterday),
        "elsewhere": trusted.issue_cert("tinker.example"),
    }.items():
        certificate.private_key_and_cert_chain_pem.write_to_path(directory / f"{name}.pem")
    return directory


@pytest.fixture(scope="session")
def faulty(service, certificates, request) -> Iterator[Faulty]:
    """Run the faulty server in front of an embedded service, both in processes of their own."""
    life = "7200" if request.config.getoption("--all-faults") else "900"  # seconds
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.faults.server"),
            *("--upstream", service.url, "--certificates", str(certificates)),
            *("--life", life),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert process.stdout is not None
    yield Faulty(json.loads(process.stdout.readline()), certificates, service.url)
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def renew(service, tmp_path_factory) -> Callable[[], tuple[str, str]]:
    """Return a function that saves a checkpoint and returns its path and its run."""

    def save() -> tuple[str, str]:
        output = tmp_path_factory.mktemp("saved") / "saved.json"
        done = invoke(
            [
                *("checkpoint", "--base-model", MODEL, "--rank", "1", "--output", str(output)),
                *("--base-url", service.url, "--api-key", KEY),
            ]
        )
        assert done.exit_code == 0, done.stderr
        metadata = json.loads(output.read_text())
        return metadata["weights_path"], metadata["model_id"]

    return save


@pytest.fixture
def saved(renew) -> tuple[str, str]:
    """Save a checkpoint; returns its path and its run."""
    path, run = renew()
    return path, run


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    process = Elsewhere()
    yield process
    process.close()


@pytest.fixture(scope="session")
def powerless() -> Iterator[Elsewhere]:
    process = Elsewhere("--powerless")
    yield process
    process.close()


@pytest.fixture(scope="session")
def place(service, tmp_path_factory, elsewhere) -> Iterator[Place]:
    """Return where writers go: the service has a checkpoint, another server the trace of a session."""
    spot = Spot(tmp_path_factory.mktemp("before")).make(saver := WRITERS["checkpoint"])
    done = elsewhere(saver, spot, Place({"service": service.url}, ""), again=False)
    assert done.exit_code == 0, done

    def trace(request: Request) -> Reply:
        if "/api/" in request.path:
            url = f"http://{request.headers['host']}/trace"
            return Reply({"status": "ready", "url": url})
        return Reply(b"perfetto" * 5000)

    with serving(trace) as url:
        urls = {"service": service.url, "traces": url}
        yield Place(urls, json.loads(spot.text("work/saved.json"))["weights_path"])
