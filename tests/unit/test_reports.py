"""Hints about files: each says what is to be done about what happened."""

from __future__ import annotations

import errno

import pytest

import tinkex
from tinkex.exceptions import LocalError
from tinkex.reports import as_tinkex_error
from tinkex.testing import invoke


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("none", "No such file or directory", "Check the name."),
        ("file/none", "Not a directory", "Check the name."),
        ("", "is empty", "Give it a name."),
        (".", "Is a directory", "Name a file in it."),
        ("x" * 300, "File name too long", "Choose a shorter name."),
    ],
)
def test_hint_about_a_file_that_cannot_be_read(name, what, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    words = ["run", "--base-model", "m", "--prompt-file", name]
    done = invoke(words)
    assert what in done.stderr
    assert done.stderr.endswith(f"Hint: {hint}\n")
    with pytest.raises(LocalError) as caught:
        tinkex.run(words)
    assert caught.value.hint == hint


def test_hint_about_a_full_disk(tmp_path):
    words = ["config", "show", "--log-file", str(tmp_path)]
    assert invoke(words).stderr.endswith("Hint: Name a file in it.\n")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert as_tinkex_error(full).hint == "Free some space, or choose another place."


def test_a_current_directory_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = invoke(["run", "--base-model", "m", "--prompt", "x", "--output", "file"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the current directory is not there any more\nHint: Go to another" in done.stderr
