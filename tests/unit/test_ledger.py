"""Results in a file that no end of the program can spoil."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tinkex.commands.ledger import Ledger
from tinkex.exceptions import LocalError, TinkexError

MADE_BY = {"prompts": "d1", "temperature": 1.0}


def record(index: int, **more: object) -> dict[str, object]:
    return {"id": f"r{index}", "index": index, **more}


def begin(path: Path, *, resume: bool = False, force: bool = False, total: int = 9, **other):
    ledger = Ledger(str(path), MADE_BY | other, total)
    ledger.check(resume=resume, force=force)
    ledger.open(resume=resume)
    return ledger


def indexes(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in path.read_text().splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a file with the results of rows 4, 0 and 2."""
    path = tmp_path / "out.jsonl"
    ledger = begin(path)
    for index in (4, 0, 2):
        ledger.write(index, record(index))
    ledger.close()
    return path


def test_results_are_there_at_once(tmp_path):
    ledger = begin(tmp_path / "o.jsonl")
    ledger.write(3, record(3, text="é\ud800\n"))

    (line,) = (tmp_path / "o.jsonl").read_bytes().splitlines()
    assert json.loads(line) == {"id": "r3", "index": 3, "text": "é\ud800\n"}
    ledger.close()


def test_going_on(out):
    ledger = begin(out, resume=True)

    assert (ledger.done, [n for n in range(9) if n in ledger]) == (3, [0, 2, 4])
    ledger.write(1, record(1))
    ledger.close()
    assert indexes(out) == [4, 0, 2, 1]


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(out):
    whole = out.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        out.write_bytes(whole[:end])
        ledger = begin(out, resume=True)
        assert (ledger.done, 2 in ledger) == (2, False)
        ledger.write(2, record(2))
        ledger.close()
        assert out.read_bytes() == whole


@pytest.mark.parametrize("line", ["{}", "x", '{"index": 9}', '{"index": -1}', '{"index": true}'])
def test_a_line_that_is_no_result(out, line):
    out.write_text(f"{line}\n{out.read_text()}")
    content = out.read_bytes()
    with pytest.raises(LocalError, match="line 1 is no result"):
        begin(out, resume=True)
    assert out.read_bytes() == content


def test_a_file_that_is_there_is_neither_replaced_nor_gone_on_with(out):
    content = out.read_bytes()
    with pytest.raises(TinkexError, match="exists already"):
        begin(out)
    assert out.read_bytes() == content


def test_a_run_goes_on_only_with_the_same_options(out):
    with pytest.raises(TinkexError, match=r"--temperature 1.0, and now it is 0.5"):
        begin(out, resume=True, temperature=0.5)
    with pytest.raises(TinkexError, match="other prompts"):
        begin(out, resume=True, prompts="d2")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"made_by": 3}'])
def test_nothing_tells_how_it_was_made(out, content):
    path = out.with_name("out.batch.json")
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(TinkexError, match="nothing tells how"):
        begin(out, resume=True)


def test_replacing(out):
    ledger = begin(out, force=True, temperature=0.5)
    ledger.close()

    assert out.read_bytes() == b""
    begin(out, resume=True, temperature=0.5).close()


def test_checking_changes_nothing(out):
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    Ledger(str(out), MADE_BY, 9).check(resume=False, force=True)
    Ledger(str(out.with_name("new.jsonl")), MADE_BY, 9).check(resume=True, force=False)

    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


def test_going_on_with_what_is_not_there_begins(tmp_path):
    ledger = begin(tmp_path / "deep" / "o.jsonl", resume=True)
    ledger.write(0, record(0))
    ledger.close()

    assert indexes(tmp_path / "deep" / "o.jsonl") == [0]


def test_failures_lie_beside(tmp_path, out):
    ledger = begin(out, resume=True)
    assert not ledger.failed_path.exists()
    ledger.fail(record(5, error={"message": "no"}))
    ledger.close()
    assert ledger.failed == 1
    assert indexes(out.with_name("out.failed.jsonl")) == [5]

    begin(out, resume=True).close()
    assert not out.with_name("out.failed.jsonl").exists()  # they are tried again


def test_putting_into_order(out):
    mode = out.stat().st_mode
    ledger = begin(out, resume=True)
    ledger.write(1, record(1, text="x" * 100))
    ledger.sort()
    ledger.close()

    assert indexes(out) == [0, 1, 2, 4]
    assert out.stat().st_mode == mode
    assert len(list(out.parent.iterdir())) == 2


def test_two_runs_do_not_write_one_file(out):
    first = begin(out, resume=True)
    with pytest.raises(LocalError, match="another run is writing"):
        begin(out, resume=True)
    first.close()
    begin(out, resume=True).close()


def test_a_file_that_another_run_put_into_order_meanwhile(out, monkeypatch):
    import fcntl

    lock = fcntl.flock

    def late(file, how) -> None:
        other = out.with_name("other")
        other.write_bytes(out.read_bytes())
        other.replace(out)
        lock(file, how)

    monkeypatch.setattr("fcntl.flock", late)
    with pytest.raises(LocalError, match="another run is writing"):
        begin(out, resume=True)
    assert indexes(out) == [4, 0, 2]


def test_what_cannot_be_a_file_of_results(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TinkexError, match="no regular file"):
        begin(tmp_path / "pipe", force=True)
    with pytest.raises(LocalError, match="directory"):
        begin(tmp_path)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    ledger = begin(tmp_path / "o.jsonl")
    ledger.write(0, record(0))
    file = ledger._file

    class Full:
        """Takes a few bytes more, and then none."""

        def __init__(self) -> None:
            self.room = 5

        def write(self, data: memoryview) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            self.room = 0
            return file.write(data[:5])

        def __getattr__(self, name: str):
            return getattr(file, name)

    monkeypatch.setattr(ledger, "_file", Full())
    with pytest.raises(LocalError, match="No space left on device"):
        ledger.write(1, record(1))
    assert indexes(tmp_path / "o.jsonl") == [0]
    assert 1 not in ledger
    file.close()


def test_a_run_that_ended_before_its_first_word_is_begun_anew(tmp_path):
    out = tmp_path / "o.jsonl"
    out.touch()  # a full disk, or a kill, between the file and the record of how it was made

    begin(out, resume=True).close()
    out.write_bytes(b"")
    out.with_name("o.batch.json").unlink()
    begin(out).close()

    assert out.with_name("o.batch.json").exists()
