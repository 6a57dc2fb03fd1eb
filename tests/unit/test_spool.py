"""Output that is complete before any of it is shown."""

from __future__ import annotations

import io
import tempfile

import pytest

from tinkex.cli.spool import spooled
from tinkex.exceptions import LocalError

TEXT = "tinker://run/weights/é\n\r\n\udc80\u2028" * 100_000


def test_nothing_is_shown_before_the_end():
    stdout = io.StringIO(newline="")

    with spooled(stdout) as stream:
        stream.write(TEXT)
        assert stdout.getvalue() == ""

    assert stdout.getvalue() == TEXT


def test_a_failure_leaves_nothing():
    stdout = io.StringIO()

    def work() -> None:
        with spooled(stdout) as stream:
            stream.write("half of it")
            raise ValueError

    with pytest.raises(ValueError):
        work()

    assert stdout.getvalue() == ""


def test_where_no_file_can_be_made_memory_serves(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    stdout = io.StringIO(newline="")

    with spooled(stdout) as stream:
        stream.write(TEXT)

    assert stdout.getvalue() == TEXT


def test_a_short_output_needs_no_file(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a file for a few lines")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    stdout = io.StringIO(newline="")

    with spooled(stdout) as stream:
        stream.write("a\r\nb\n")

    assert stdout.getvalue() == "a\r\nb\n"


def test_a_full_disk_is_told_and_nothing_shown(monkeypatch: pytest.MonkeyPatch):
    def full(mode: str, **options: object) -> object:
        return open("/dev/full", "w", encoding="utf-8", errors="surrogatepass")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    stdout = io.StringIO()

    def work() -> None:
        with spooled(stdout) as stream:
            stream.write(TEXT)

    with pytest.raises(LocalError, match="No space left on device"):
        work()

    assert stdout.getvalue() == ""
