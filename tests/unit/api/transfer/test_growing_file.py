"""Reading a file while it is being downloaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tinkex.api.http.concurrency import run_in_thread
from tinkex.api.transfer.ranges import Failed, GrowingFile, Restarted, Written


@pytest.fixture
def growing(tmp_path) -> Iterator[tuple[GrowingFile, Written, object]]:
    path, written = tmp_path / "file", Written()
    path.touch()
    with path.open("r+b", buffering=0) as out, path.open("rb", buffering=0) as file:
        yield GrowingFile(file, written, written.version), written, out


def test_a_read_waits_for_the_bytes_that_it_asks_for(growing):
    file, written, out = growing
    waiting = threading.Event()

    def read() -> bytes:
        waiting.set()
        return file.read(4)

    def write() -> None:
        waiting.wait(30)
        for end, part in ((2, b"ab"), (4, b"cd")):
            out.write(part)
            written.grow(end)

    threading.Thread(target=write, daemon=True).start()
    assert run_in_thread(read, timeout=30) == b"abcd"


def test_the_end_of_the_file_is_known_when_it_is_complete(growing):
    file, written, out = growing
    out.write(b"abc")
    written.end()
    buffer = bytearray(8)
    assert (file.readinto(memoryview(buffer)), file.read(8), buffer[:3]) == (3, b"", b"abc")


@pytest.mark.parametrize(("change", "raised"), [("fail", Failed), ("restart", Restarted)])
def test_a_download_that_fails_or_starts_over_ends_the_read(change, raised, growing):
    file, written, out = growing
    out.write(b"abc")
    written.grow(3)
    assert file.read(3) == b"abc"
    getattr(written, change)()
    with pytest.raises(raised):
        file.read(1)


def test_a_complete_file_stays_readable(growing):
    file, written, out = growing
    out.write(b"abc")
    written.end()
    written.fail()
    assert file.read(3) == b"abc"
