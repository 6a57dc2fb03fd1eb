"""Archives from storages of every kind of unreliability, interrupted and resumed.

What lands is exactly what is in an archive; or nothing does, and there is an error of ours.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import tempfile
import threading
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving import Reply, Request, serving
from tests.unit.api.transfer.lowered import LOWERED
from tinkex.api import ServiceClient
from tinkex.api.http import retry
from tinkex.api.transfer import manifest, ranges, streams
from tinkex.exceptions import TinkexError
from tinkex.settings import Settings

LARGE = 9_000
SIZES = st.sampled_from([0, 1, 511, 512, 513, LARGE - 1, LARGE, LARGE + 1, 10_240, 30_000])
NAMES = st.sampled_from(["tokenizer.json", "model", "d/x", "d/e/x", "n" * 150, "ß", "./y"])
#: What becomes of a request for the archive; how much of it comes, in eighths, if it is cut.
FAULTS = st.sampled_from(
    [
        *("good", "good", "cut", "cut", "503", "403", "404", "416", "gone", "changed", "whole"),
        *("another tag", "weak tag", "no tag", "no ranges", "chunked", "coded"),
        *("too short", "too long", "wrong start", "less", "wrong total", "no place"),
    ]
)
#: What a storage may be like to the end.
MANNERS = st.sampled_from(["good", "whole", "another tag", "weak tag", "no tag", "no ranges"])


class Stopped(BaseException):
    """The user presses Ctrl-C."""


class Store:
    """A storage with one archive; each request meets the next of :attr:`faults`, or :attr:`manner`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.url = ""

    def begin(
        self, sizes: dict[str, int], faults: list[tuple[str, int]], form: int, manner: str
    ) -> None:
        self.sizes, self.faults, self.form, self.manner = sizes, deque(faults), form, manner
        self.version = self.tags = 0

    def files(self, version: int) -> dict[str, bytes]:
        source = random.Random(version)
        return {name: source.randbytes(size) for name, size in self.sizes.items()}

    def archive(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=self.form) as tar:
            for name, content in self.files(self.version).items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(content), 1.5  # a fraction makes a pax header
                tar.addfile(info, io.BytesIO(content))
        return packed.getvalue()

    def answer(self, request: Request) -> Reply:
        if request.path.endswith("/archive"):
            return Reply({"url": f"{self.url}/a?signed"})
        with self.lock:
            fault, eighths = self.faults.popleft() if self.faults else (self.manner, 8)
            self.version += fault == "changed"
            self.tags += fault == "another tag"
            other = f"-{self.tags}" * (fault == "another tag")
            whole = self.archive()
        if fault.isdecimal():
            return Reply({}, int(fault))
        if fault == "gone":
            eighths = 0
        tag = f'"{hashlib.md5(whole).hexdigest()}{other}"'
        headers = {"ETag": "W/" * (fault == "weak tag") + tag, "Accept-Ranges": "bytes"}
        if fault == "no tag":
            del headers["ETag"]
        if fault == "no ranges":
            del headers["Accept-Ranges"]
        found, status, asked = whole, 200, request.headers.get("range")
        if asked and request.headers.get("if-range") == tag and fault not in ("whole", "no ranges"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else len(whole), len(whole))
            if start >= end:
                return Reply({}, 416)
            start -= 100 * (fault == "wrong start")
            end -= (end - start) // 2 * (fault == "less")
            total = len(whole) + (fault == "wrong total")
            found, status = whole[start:end], 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}" * (fault != "no place")
        if fault == "coded":
            found, headers["Content-Encoding"] = gzip.compress(found, 1), "gzip"
        length = len(found) + {"too short": -100, "too long": 100}.get(fault, 0)
        stop = len(found) * eighths // 8 if fault in ("cut", "gone") else len(found)
        if fault == "chunked":
            headers |= {"Transfer-Encoding": "chunked", "Content-Length": ""}
            return Reply(b"%x\r\n%s\r\n0\r\n\r\n" % (len(found), found), status, headers)
        if length != stop:
            headers["Content-Length"] = str(max(0, length))
            request.handler.close_connection = True
        return Reply(found[:stop], status, headers)


@pytest.fixture(scope="module")
def store():
    store = Store()
    with serving(store.answer) as store.url:
        yield store


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let small files take the ways of large ones, and no time pass between attempts."""
    for module, values in LOWERED.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    for name in ("_PROBE_BYTES", "_MIN_REST", "_PART"):
        monkeypatch.setattr(ranges, name, 3_000)
    monkeypatch.setattr(streams, "BLOCK", 700)
    monkeypatch.setattr(retry.Deadline, "pause", lambda *_: None)


@pytest.fixture
def stopping(monkeypatch):
    """Return a function that lets the writes after so many raise :class:`Stopped`."""
    left = [0]

    def counted(write):
        def writing(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return write(*arguments)

        return writing

    monkeypatch.setattr(ranges, "_write_all", counted(ranges._write_all))
    return lambda writes: left.__setitem__(0, writes)


@given(
    sizes=st.dictionaries(NAMES, SIZES, min_size=1, max_size=5),
    faults=st.lists(st.tuples(FAULTS, st.integers(0, 7)), max_size=25),
    stops=st.lists(st.integers(0, 60), max_size=4),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    manner=MANNERS,
)
def test_an_extracted_archive_equals_its_contents(
    tried, store, stopping, sizes, faults, stops, form, manner
):
    tried()
    store.begin(sizes, faults, form, manner)
    settings = Settings(base_url=store.url, timeout=60, api_key="tml-test", allow_http=True)
    with tempfile.TemporaryDirectory() as home, ServiceClient(settings) as client:
        target = Path(home) / "target"
        for writes in (*stops, 1_000_000):
            stopping(writes)
            if writes == 1_000_000:
                store.faults.clear()
            try:
                client.checkpoints.download("tinker://r:train:0/sampler_weights/final", target)
                break
            except (TinkexError, Stopped):
                assert writes < 1_000_000
                assert not target.exists()
        check(target, [store.files(version) for version in range(store.version + 1)])


def check(target: Path, archives: list[dict[str, bytes]]) -> None:
    found = {
        file.relative_to(target).as_posix(): file.read_bytes()
        for file in target.rglob("*")
        if file.is_file() and file.name != manifest.NAME
    }
    assert found in [
        {name.removeprefix("./"): content for name, content in files.items()} for files in archives
    ]
    lock = manifest.read(target)
    assert lock is not None
    assert lock.files == {
        name: manifest.ManifestFile(len(content), hashlib.sha256(content).hexdigest())
        for name, content in found.items()
    }
    assert [path.name for path in target.parent.iterdir()] == ["target"]
