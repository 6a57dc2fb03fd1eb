"""Hints about files: each says what is to be done about what happened."""

from __future__ import annotations

import errno

import pytest

import tinkex
from tinkex.cli.errors import as_tinkex_error
from tinkex.exceptions import LocalError
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


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "--base-model", "m", "--prompt", ""], "For example: --prompt 'Once upon"),
        (["run", "--base-model", "m", "--model-path", "p"], "Leave one of them out."),
        (["run", "list", "--api-key", "a b"], "It is one word"),
        (["run", "list", "--api-key", "-"], "The first line of standard input"),
        (["run", "list", "--base-url", "https://me:secret@host"], "The key is given by --api-key"),
        (["checkpoint", "download", "x", "--type", "sampler"], "A path names its type"),
    ],
)
def test_hints_say_what_to_type(words, hint):
    assert f"\nHint: {hint}" in invoke(words).stderr


@pytest.mark.parametrize(
    "text", ["profiles: [", "- x", "a: !!timestamp 99", "a: !!bool z", "a: !!int x", "a: &b [*b]"]
)
def test_hint_about_a_configuration_file_that_cannot_be_read(text, config):
    config(text)
    done = invoke(["run", "list"])
    assert "\nHint: Mend it in an editor, or let TINKEX_CONFIG name another file.\n" in done.stderr


@pytest.mark.parametrize("words", [["version"], ["plugin", "list"], ["help"], ["--version"]])
def test_what_a_report_of_a_fault_needs_works_whatever_the_settings(words, config, monkeypatch):
    config("profiles: [")
    assert invoke(words).exit_code == 0
    monkeypatch.setenv("TINKER_BASE_URL", "none")
    assert invoke(words).exit_code == 0


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
