"""Every test has a separate home and an environment without our variables but the HTTP pool."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinkex import plugins
from tinkex.api.http import retry
from tinkex.testing import isolated

#: HTTP pools that keep to the same guarantees.
POOLS = ("default", "http2")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with the marker ``both_pools`` over each HTTP pool."""
    if metafunc.definition.get_closest_marker("both_pools"):
        only = metafunc.definition.get_closest_marker("only_pool")
        pools = POOLS if only is None else only.args[:1]
        metafunc.parametrize("http_pool", pools, indirect=True)


@pytest.fixture
def http_pool(request: pytest.FixtureRequest) -> str:
    """Return the name of the HTTP pool that sends the requests of the test."""
    pool: str = getattr(request, "param", "default")
    if pool == "http2":
        pytest.importorskip("tinkex_http2")
    return pool


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield paths without an end: pytest would look through all of them for the next number."""
    directory = tmp_path_factory.mktemp("homes")
    return (directory / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def home(homes: Iterator[Path], http_pool: str) -> Iterator[Path]:
    """Return an empty home directory, which HOME points to."""
    (directory := next(homes)).mkdir()
    with isolated(directory) as home:
        os.environ["COLUMNS"] = "200"
        os.environ["TINKEX_HTTP_POOL"] = http_pool
        os.environ["XDG_STATE_HOME"] = str(home / ".local" / "state")
        yield home


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scripted servers, which answer every poll at once, be polled again soon."""
    monkeypatch.setattr("tinkex.api.http.futures.INTERVAL", 0.05)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let every pause pass at once, and return how long each was meant to be."""
    naps: list[float] = []

    class Clock:
        offset = 0.0

        def sleep(self, seconds: float) -> None:
            naps.append(seconds)
            Clock.offset += seconds

        def monotonic(self) -> float:
            return time.monotonic() + Clock.offset

        def time(self) -> float:
            return time.time() + Clock.offset

    monkeypatch.setattr(retry, "time", Clock())
    return naps


@pytest.fixture
def config(home: Path):
    """Return a function that writes the configuration file and returns its path."""

    def write(text: str) -> Path:
        path = home / ".config" / "tinkex" / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)  # whatever the umask: one that others can write runs no command
        return path

    return write


class FakePlugins:
    """Distributions that exist only as metadata and modules in a temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, name: str, entry_points: str, code: str = "", version: str = "1.0") -> None:
        """Add the distribution *name*: its entry points, and the code of its module."""
        module = name.replace("-", "_")
        info = self.directory / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(entry_points)
        (self.directory / f"{module}.py").write_text(code)


@pytest.fixture
def fake_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return :class:`FakePlugins` on the import path of this process and of subprocesses."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setenv("PYTHONPATH", str(directory))
    before = set(sys.modules)
    plugins.installed.cache_clear()  # each path is read once
    yield FakePlugins(directory)
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if origin.startswith(str(directory)):
            del sys.modules[name]
