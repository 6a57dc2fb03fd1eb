"""The state of a download: small and complete, however many files there are and whatever is cut off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinkex.api.transfer import state
from tinkex.api.transfer.state import PartialFile, Segment, State, StateLog


@pytest.fixture
def log(tmp_path: Path) -> StateLog:
    return StateLog(tmp_path / "downloads" / "x.jsonl")


def partial(position: int, *more: Segment) -> PartialFile:
    return PartialFile(9, '"1"', [Segment(0, position, 9), *more])


def test_the_last_change_of_each_file_counts(log):
    files = {"a": partial(0), "b": partial(0)}
    found = State([1, 2], None, files)
    log.write(found, files)
    found.copy, files["a"] = "tinker://r/external_weights/download", partial(4)
    del files["b"]
    log.write(found, ["a", "b"])
    assert log.read() == found
    assert StateLog(log.path).read() == found


def test_a_line_that_a_kill_cut_off_is_ignored(log):
    found = State([1, 2], None, {"a": partial(4)})
    log.write(found, ["a"])
    with log.path.open("a") as file:
        file.write('["a", 9, "x", [[0, 8')
    assert log.read() == found


def test_a_log_that_has_been_removed_is_written_again(log):
    found = State([1, 2], None, {"a": partial(4), "b": partial(4)})
    log.write(found, ["a", "b"])
    log.path.unlink()
    log.write(found, ["a"])
    assert log.read() == found


def test_writing_ten_times_as_many_files_writes_ten_times_as_much(log, monkeypatch):
    """Each file is written three times, as on its start, its end, and a start over."""
    monkeypatch.setattr(state, "_SLACK", 1000)
    written, whole = [0], [0]
    real_append, real_whole = StateLog._append, state.write_private

    def append(self: StateLog, text: bytes, *, durable: bool) -> None:
        written[0] += len(text)
        real_append(self, text, durable=durable)

    def write(path: Path, text: str) -> None:
        written[0] += len(text)
        whole[0] += 1
        real_whole(path, text)

    monkeypatch.setattr(StateLog, "_append", append)
    monkeypatch.setattr(state, "write_private", write)
    sizes = []
    for count in (100, 1000):
        written[0] = whole[0] = 0
        fresh, found = StateLog(log.path), State([1, 2], None, {})
        for position in (0, 9, 0):
            for number in range(count):
                found.files[f"content/{number:04}"] = partial(position)
                fresh.write(found, [f"content/{number:04}"])
        sizes.append(written[0])
        assert whole[0] < 30
        assert log.path.stat().st_size < 2 * 150 * count + 1000
    assert sizes[1] < 15 * sizes[0]


@pytest.mark.parametrize("ranges", [1, 2])
def test_ranges_are_on_the_disk_before_their_bytes_are(ranges, log, monkeypatch):
    found = State([1, 2], None, {"a": partial(4, *[Segment(9, 9, 9)] * (ranges - 1))})
    log.write(found, ["a"])
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    log.write(found, ["a"])
    assert len(synced) == ranges - 1
