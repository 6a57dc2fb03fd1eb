"""Files of the cache: small, private, and never in the way."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from tinkex.cli.cachefile import CacheFile, cache_directory


def cache(directory: Path | None, about: str = "http://127.0.0.1:1") -> CacheFile:
    return CacheFile(directory, about, expiry=100, longest=1000)


def test_what_is_written_can_be_read_and_removed(tmp_path):
    cache(tmp_path / "kind").write({"a": [1]})

    assert cache(tmp_path / "kind").read() == {"a": [1]}
    assert cache(tmp_path / "kind", "http://127.0.0.1:2").read() is None
    cache(tmp_path / "kind").remove()
    cache(tmp_path / "kind").remove()
    assert cache(tmp_path / "kind").read() is None


def test_only_its_owner_can_read_it_and_its_name_tells_nothing(tmp_path):
    cache(tmp_path / "kind", "http://ada:secret@tinker.test").write([])

    (path,) = (tmp_path / "kind").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "tinker" not in path.name


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 900, b"[" + b" " * 1000 + b"]"])
def test_what_cannot_be_read_counts_as_empty(tmp_path, content):
    cache(tmp_path).write([])
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)

    assert cache(tmp_path).read() is None


def test_what_cannot_be_written_is_left(tmp_path):
    (tmp_path / "file").write_text("mine")

    cache(tmp_path / "file").write([])
    cache(tmp_path / "file").remove()

    assert (tmp_path / "file").read_text() == "mine"


def test_old_files_of_others_go(tmp_path):
    cache(tmp_path, "old").write([])
    (old,) = tmp_path.iterdir()
    os.utime(old, (time.time() - 101,) * 2)

    cache(tmp_path).write([])

    assert not old.exists()
    assert cache(tmp_path).read() == []


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)

    assert cache_directory("kind") is None
    cache(None).write([])
    cache(None).remove()
    assert cache(None).read() is None
