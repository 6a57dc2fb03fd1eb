"""What is remembered for completion."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tinkex.cli import remembered
from tinkex.cli.remembered import Remembered


@pytest.fixture
def known(tmp_path: Path) -> Remembered:
    return Remembered("http://127.0.0.1:1", None, tmp_path / "cache")


def test_names_come_back_the_latest_first(known):
    known.add("runs", ["a", "b"])
    known.add("runs", ["c", None, "a"])
    known.add("checkpoints", ["p"])
    assert known.names("runs") == ["c", "a", "b"]
    assert known.names("checkpoints") == ["p"]
    assert known.names("models") == []


def test_a_whole_list_replaces_what_was_known(known):
    known.add("runs", ["a", "b"])
    known.add("runs", ["b"], whole=True)
    assert known.names("runs") == ["b"]
    known.drop("runs", ["b", "never there"])
    assert known.names("runs") == []


def test_the_same_list_is_not_written_again_at_once(known, monkeypatch):
    known.add("runs", ["a", "b"], whole=True)
    before = known.path.stat()
    known.add("runs", ["a", "b"], whole=True)
    assert known.path.stat().st_ino == before.st_ino
    known.add("runs", ["b", "a"], whole=True)
    assert known.names("runs") == ["b", "a"]
    now = remembered.time.time()
    monkeypatch.setattr(remembered.time, "time", lambda: now + remembered.FRESH + 1)
    known.add("runs", ["b", "a"], whole=True)
    assert known.is_fresh("runs")


def test_names_expire(known, monkeypatch):
    known.add("runs", ["a"])
    assert known.is_fresh("runs")
    now = remembered.time.time()
    monkeypatch.setattr(remembered.time, "time", lambda: now + remembered.FRESH + 1)
    assert not known.is_fresh("runs")
    assert known.names("runs") == ["a"]
    known.mark_asked("runs")
    assert known.is_fresh("runs")
    monkeypatch.setattr(remembered.time, "time", lambda: now + remembered.EXPIRY + 1)
    assert known.names("runs") == []
    known.add("runs", ["b"])
    assert "a" not in json.loads(known.path.read_text())["runs"]


def test_servers_and_profiles_are_kept_apart(known, tmp_path):
    known.add("runs", ["a"])
    for url, profile in (("http://127.0.0.1:2", None), ("http://127.0.0.1:1", "work")):
        assert Remembered(url, profile, tmp_path / "cache").names("runs") == []
    assert Remembered("http://127.0.0.1:1", None, tmp_path / "cache").names("runs") == ["a"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"runs": []}', '{"runs": {"a": "x"}}', '{"runs": null}', "[" * 100_000],
)
def test_a_damaged_file_counts_as_empty(known, content):
    known.add("runs", ["a"])
    known.path.write_text(content)
    assert known.names("runs") == []
    known.add("runs", ["b"])
    assert known.names("runs") == ["b"]


def test_only_its_owner_reads_the_file_and_nothing_else_is_left(known):
    known.add("runs", ["a"])
    assert stat.S_IMODE(known.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(known.path.parent.stat().st_mode) == 0o700
    assert list(known.path.parent.iterdir()) == [known.path]


def test_a_place_that_cannot_be_written_to_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    known = Remembered("http://127.0.0.1:1", None, tmp_path / "file")
    known.add("runs", ["a"])
    assert known.names("runs") == []


def test_the_number_of_names_is_limited(known):
    known.add("runs", [f"r{n}" for n in range(remembered.KEPT + 5)])
    assert len(known.names("runs")) == remembered.KEPT
    assert known.names("runs")[0] == "r0"
