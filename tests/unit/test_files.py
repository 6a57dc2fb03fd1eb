"""Writing without losing what was there."""

from __future__ import annotations

import os
import stat

import pytest

from tinkex.exceptions import LocalError
from tinkex.files import check_writable, write_atomically


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "dir" / "f.json"
    write_atomically(str(path), "one")
    path.chmod(0o600)
    write_atomically(str(path), "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["f.json"]


def test_follows_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(str(tmp_path / "link"), "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalError, match="No space left on device"):
        write_atomically(str(path), "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_devices_are_written_directly():
    write_atomically("/dev/null", "text")
    with pytest.raises(LocalError, match="No space left"):
        write_atomically("/dev/full", "text")


def test_check_writable(tmp_path):
    with pytest.raises(LocalError, match="it is a directory"):
        check_writable(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="cannot make the directory"):
        check_writable(str(tmp_path / "file" / "below"))
    check_writable(str(tmp_path / "made" / "f"))
    assert (tmp_path / "made").is_dir()
    assert not (tmp_path / "made" / "f").exists()
