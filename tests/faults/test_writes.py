"""If a file cannot be written, existing files are unchanged and the error is reported.

A limit on the length of files, and directories without permission to write, serve everywhere. With
``--all-faults``, where file systems can be mounted, the disk itself is full after each page and after
each file that a command writes, and then mounted read-only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.faults.writes import WRITERS, Elsewhere, Place, Spot, Writer
from tinkex.testing import Invocation

#: Bytes that no file may exceed, in every run.
LONGEST = (0, 10)
#: What has a disk of its own in every run.
QUICK = ("config set", "run batch")
#: Of the whole sweep: free pages, and free files, until the command succeeds.
STEPS = (*range(12), 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
PAGE = 4096


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recorded" in metafunc.fixturenames:
        all_of_them = metafunc.config.getoption("--all-faults")
        metafunc.parametrize("name", WRITERS if all_of_them else QUICK)


# ------------------------------------------------------------------ what came of it


def assert_kept(
    writer: Writer,
    spot: Spot,
    before: dict[str, bytes],
    done: Invocation,
    *,
    goes_on: bool | None = None,
) -> bool:
    """Check what a try left behind; return whether it succeeded.

    :param goes_on: whether it has to, or must not; ``None`` where both are right.
    """
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr, done
    assert goes_on in (None, done.exit_code == 0), done
    if done.exit_code == 0:
        writer.after(spot)
        return True
    assert done.exit_code == 1, done
    assert done.stdout == "" or writer.prints
    after = spot.written()
    assert {name: after.get(name) for name in before} == before
    new = set(after) - set(before)
    assert new == {name for name in new if any(fnmatch(name, one) for one in writer.leaves)}
    for name in new:
        for line in after[name].splitlines() if name.endswith("l") else ():
            json.loads(line)
    lines = done.stderr.splitlines()
    failed = [number for number, line in enumerate(lines) if " failed" in line and ": " in line]
    assert failed, done
    assert any(line.startswith("Hint: ") for line in lines[failed[0] :]), done
    return False


def goes_on_afterwards(writer: Writer, spot: Spot, place: Place, elsewhere: Elsewhere) -> None:
    """Check that the same succeeds when there is room again."""
    done = elsewhere(writer, spot, place, again=True)
    assert done.exit_code == 0, done
    writer.after(spot)


def forbid(directory: Path, mode: int) -> None:
    for path in [directory, *directory.rglob("*")]:
        if not path.is_symlink():
            path.chmod(mode | (0o555 if path.is_dir() else 0o444))


@pytest.fixture
def recorded(record_property) -> Callable[[str, str, int], None]:
    """Return a function that records what came of one kind of trouble."""

    def record(name: str, trouble: str, tries: int) -> None:
        record_property("write", (name, trouble, "tried", tries))

    return record


# ------------------------------------------------------------------ in every run


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_grow(name, place, elsewhere, tmp_path):
    writer = WRITERS[name]
    for longest in LONGEST:
        spot = Spot(tmp_path / str(longest)).make(writer)
        before = spot.written()
        done = elsewhere(writer, spot, place, longest=longest, again=False)
        assert_kept(writer, spot, before, done, goes_on=writer.goes_on)
    if not writer.goes_on:
        goes_on_afterwards(writer, spot, place, elsewhere)


@pytest.mark.parametrize("name", WRITERS)
def test_directories_that_forbid_writing(name, place, powerless, tmp_path):
    writer = WRITERS[name]
    spot = Spot(tmp_path / "spot").make(writer)
    before = spot.written()
    forbid(spot.directory, 0)
    try:
        done = powerless(writer, spot, place, again=False)
    finally:
        forbid(spot.directory, 0o700)
    assert_kept(writer, spot, before, done, goes_on=writer.goes_on and not writer.asked_for)


# ------------------------------------------------------------------ with a disk of its own


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[None]:
    """Mount 8 MiB of memory at *directory* during the block."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=1200", "none", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill_pages(directory: Path, free: int) -> None:
    state = os.statvfs(directory)
    rest = (state.f_bavail - free * PAGE // state.f_bsize) * state.f_bsize
    with (directory / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, rest)


def fill_files(directory: Path, free: int) -> None:
    (directory / "fillers").mkdir()
    for number in range(os.statvfs(directory).f_favail - free):
        (directory / "fillers" / str(number)).touch()


@pytest.mark.parametrize("fill", [fill_pages, fill_files], ids=["pages", "files"])
def test_a_disk_that_is_full_at_every_write(name, fill, place, elsewhere, tmp_path, recorded):
    writer = WRITERS[name]
    told = 0
    for step in STEPS:
        with disk(tmp_path / str(step)):
            spot = Spot(tmp_path / str(step)).make(writer)
            before = spot.written()
            fill(spot.directory, step)
            done = elsewhere(writer, spot, place, again=False)
            must = True if writer.goes_on and not writer.asked_for else None
            succeeded = assert_kept(writer, spot, before, done, goes_on=must)
            subprocess.run(f"rm -rf {spot.directory}/filler*", shell=True, check=True)
            if not succeeded:
                told += 1
                goes_on_afterwards(writer, spot, place, elsewhere)
        if succeeded and not writer.goes_on:
            break
    else:
        assert writer.goes_on
    assert told or writer.goes_on
    recorded(name, "full" if fill is fill_pages else "files", told or len(STEPS))


def test_a_disk_that_is_mounted_read_only(name, place, elsewhere, tmp_path, recorded):
    writer = WRITERS[name]
    with disk(directory := tmp_path / "disk"):
        spot = Spot(directory).make(writer)
        before = spot.written()
        subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
        done = elsewhere(writer, spot, place, again=False)
        assert_kept(writer, spot, before, done, goes_on=writer.goes_on and not writer.asked_for)
    recorded(name, "read-only", 1)
