"""Archives: what is extracted and what is refused, resumed after a kill, and fetched in ranges."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.unit.api.transfer.lowered import LOWERED
from tests.unit.api.transfer.test_download import SAMPLER, arrived, leftovers, member, offer, tar
from tests.weights import weights
from tinkex.api import verify
from tinkex.api.transfer import archive, staging
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.manifest import ManifestFile
from tinkex.exceptions import InvalidResponse, LocalError

SIZE = 100_000
FILES = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": weights(random.Random(3).randbytes(SIZE)),
    "more/model": random.Random(4).randbytes(SIZE),
}
AT = "/files/a.tar"
NOISE = random.Random(0).randbytes(300_000)


# Extraction ------------------------------------------------------------------------------------


@pytest.fixture
def extract(tmp_path: Path) -> Callable[[bytes], dict[Path, ManifestFile]]:
    """Return a function that extracts an archive into ``out``."""
    (tmp_path / "out").mkdir()

    def extract(packed: bytes) -> dict[Path, ManifestFile]:
        (tmp_path / "packed").write_bytes(packed)
        with open(tmp_path / "packed", "rb", buffering=0) as file:
            directory = Directory.at(tmp_path / "out")
            try:
                return archive.extract(
                    file,
                    directory,
                    admit=lambda _: None,
                    check_space=lambda _: None,
                    creating=nullcontext,
                )
            finally:
                directory.close()

    return extract


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        lambda packed: gzip.compress(packed[:700]) + gzip.compress(packed[700:]),
        lambda packed: gzip.compress(packed, mtime=0) + bytes(600),
    ],
    ids=["tar", "gzip", "two members", "padded"],
)
def test_sizes_and_sums_of_what_is_extracted(pack, extract, tmp_path):
    files = {"noise": NOISE, "zeros": bytes(5_000_000), "nothing": b"", "n" * 150: b"x"}
    assert extract(pack(tar(files))) == {
        Path(name): ManifestFile(len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    }
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files


def test_owners_modes_and_times_are_not_taken_over(extract, tmp_path):
    info = member("file")
    info.mode, info.uid, info.mtime = 0o6777, 4711, 1
    extract(tar({}, info))
    status = (tmp_path / "out" / "file").stat()
    assert status.st_mode & 0o7133 == 0
    assert (status.st_uid, status.st_mtime > 1) == (os.geteuid(), True)


ONE = {"a": NOISE}
WHOLE = tar(ONE)
PACKED = gzip.compress(WHOLE, mtime=0)
#: The archive without its last two empty blocks; zeros end the content of its last file, too.
CUT = tar({"a": bytes(5000)})[: 512 + 5120]


def with_pax(record: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    header = tarfile.TarInfo("p")
    header.type, header.size = kind, len(record)
    padded = record.ljust(-(-len(record) // 512) * 512, b"\0")
    return header.tobuf() + padded


REFUSED = {
    "is damaged or incomplete": [
        *(PACKED[:-1], PACKED[:1000], PACKED[:5], PACKED + b"garbage", PACKED[:-8] + bytes(8)),
        *(bz2.compress(WHOLE), b"\x1f\x8b hello"),
    ],
    "archive is an HTML page": [b"<html>" * 500],
    "archive is an XML document": [b"<Error><Code>NoSuchKey</Code></Error>"],
    "archive is plain text": [b"hello"],
    "archive is an empty file": [b""],
    "incomplete": [
        *(WHOLE[:5000], WHOLE[: -tarfile.RECORDSIZE], CUT, WHOLE[:1024] + b"garbage!" * 3000),
    ],
    "damaged|incomplete|no files": [tar({})],
    "not a regular file or directory": [
        tar(ONE, member("x", kind, "a"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    ],
    "unsafe name": [
        tar(ONE, member("../out", tarfile.DIRTYPE)),
        *(tar({**ONE, name: b"x"}) for name in ("../out", "/tmp/out", "b/../../out", "b\\c")),
        tar(ONE, member("tinkex.lock.json", tarfile.DIRTYPE)),
    ],
    "conflicting names": [tar({**ONE, name: b"x"}) for name in ("a/x", "./a")],
    "too large": [
        with_pax(b"20 comment=xxxxxxxx\n" * 5000) + WHOLE,
        member("p", tarfile.GNUTYPE_LONGNAME).tobuf() * 100 + WHOLE,  # each is read in another
    ],
    "too many global headers": [
        with_pax(b"".join(b"8 k%d=\n" % n for n in range(100, 201)), tarfile.XGLTYPE) + WHOLE,
    ],
    "number out of range": [with_pax(b"1" * 10_000) + WHOLE],
    "name that is too long": [
        *(tar({**ONE, name: b"x"}) for name in ("a/" * 255 + "b", "n" * 200 + "/é" * 2000)),
        tar(ONE, member("a/" * 256, tarfile.DIRTYPE)),
    ],
    "data follows the end": [gzip.compress(WHOLE + bytes(archive._MAX_PADDING + 1), 1)],
    ".": [  # numbers in headers
        with_pax(record) + member("a").tobuf() + bytes(1024)
        for record in (
            *(b"22 GNU.sparse.map=a,b\n", b"24 GNU.sparse.size=xyz\n"),
            *(b"20 size=-5555555555\n", b"19 GNU.sparse.map=\n\n"),
        )
    ],
}


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        pytest.param(packed, words, id=f"{words}-{number}")
        for words, archives in REFUSED.items()
        for number, packed in enumerate(archives)
    ],
)
def test_damaged_incomplete_and_unsafe_archives_are_refused(packed, words, extract, tmp_path):
    with pytest.raises(InvalidResponse, match=words):
        extract(packed)
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "packed"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_huge_header_is_not_read_into_memory(kind, pack, extract):
    header = tarfile.TarInfo("p")
    header.type, header.size = kind, 1 << 40
    packed = pack(header.tobuf(tarfile.GNU_FORMAT) + bytes(4 * archive.MAX_HEADERS))
    with pytest.raises(InvalidResponse, match="header that is too large"):
        extract(packed)


def test_the_number_of_members_is_limited(extract, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    assert len(extract(tar({str(n): b"" for n in range(3)}))) == 3
    with pytest.raises(InvalidResponse, match="more than 3 files"):
        extract(tar({f"other{n}": b"" for n in range(4)}))
    with pytest.raises(InvalidResponse, match="more than 3 files or directories"):
        extract(tar({"deep/d/d/file": b""}))
    with pytest.raises(InvalidResponse, match="more than 3 files or directories"):
        extract(tar({}, member("deeper/d/d", tarfile.DIRTYPE)))


def test_headers_of_many_members_do_not_add_up_in_memory(extract):
    one = with_pax(b"15007 comment=" + b"x" * 14_992 + b"\n")
    packed = b"".join(one + member(str(n)).tobuf() for n in range(1000)) + bytes(1024)
    tracemalloc.start()
    try:
        extract(packed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_python_without_the_data_filter(extract, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with pytest.raises(InvalidResponse, match="unsafe name"):
        extract(tar({"../out": b"x"}))
    assert set(extract(tar({"a": b"x"}))) == {Path("a")}


# Downloads of archives -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Treat small files as large ones."""
    for module, values in LOWERED.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


def ranged(server, body: bytes, tag: str = '"1"'):
    """Return the script of a storage that sends ranges of *body*."""

    def answer(seen):
        headers = {"ETag": tag, "Accept-Ranges": "bytes"}
        if "range" not in seen.headers:
            return server.reply(body, headers=headers)
        first, last = seen.headers["range"].removeprefix("bytes=").split("-")
        start, end = int(first), int(last) + 1 if last else len(body)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        return server.reply(body[start:end], 206, headers)

    return answer


def asked(server) -> list[str]:
    return [seen.headers.get("range", "all") for seen in server.requests(AT)]


def check(target: Path) -> None:
    assert arrived(target) == FILES
    assert all(file.good for file in verify(target))
    assert not leftovers(target.parent)


@pytest.mark.parametrize("lie", ["no ranges", "other tags"])
def test_an_archive_whose_parts_do_not_fit_together_is_fetched_whole(lie, server, client, target):
    body, tags = tar(FILES), iter(range(100))
    offer(server, None, at=AT)

    def answer(seen):
        if lie == "other tags":
            return ranged(server, body, f'"{next(tags)}"')(seen)
        return server.reply(body, headers={"ETag": '"1"', "Accept-Ranges": "bytes"})

    server.on("GET", AT, answer)
    client.checkpoints.download(SAMPLER, target)
    check(target)
    assert [words for words in asked(server) if words == "all"] == ["all", "all"]


BOMB = member("bomb")
BOMB.size = 1 << 50


@pytest.mark.parametrize(
    ("body", "free"),
    [(tar(FILES), len(tar(FILES))), (gzip.compress(BOMB.tobuf() + bytes(100_000), mtime=0), 10**6)],
    ids=["archive and content", "a file of a compressed archive"],
)
def test_space_is_checked_first(body, free, server, client, target, monkeypatch):
    found = os.statvfs_result((1, 1, 100, 100, free, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda handle: found)
    offer(server, body, at=AT)
    with pytest.raises(
        LocalError, match=r"not enough disk space for .* are still needed, but .* free"
    ):
        client.checkpoints.download(SAMPLER, target)
    assert not target.exists()
    assert leftovers(target.parent) == []


def test_what_is_extracted_is_not_fetched_again(server, client, target, monkeypatch):
    offer(server, None, at=AT)
    server.on("GET", AT, ranged(server, tar(FILES)))
    with monkeypatch.context() as patch:
        patch.setattr(staging.StagingDirectory, "install", interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.checkpoints.download(SAMPLER, target)
    server.seen.clear()
    client.checkpoints.download(SAMPLER, target)
    check(target)
    last = len(tar(FILES)) - 1
    assert asked(server) == [f"bytes={last}-{last}"]


def interrupt(*_):
    raise KeyboardInterrupt
