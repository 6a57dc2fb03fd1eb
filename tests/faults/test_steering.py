"""No text from a server controls the terminal, in any format, in errors and in status lines."""

from __future__ import annotations

import re
from itertools import product

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.steering import STEERING
from tests.faults.test_matrix import filled
from tests.functional.conftest import KEY
from tinkex.api.resources import watch
from tinkex.testing import Invocation, invoke

#: Begins a sequence, alone or as one character; turns the direction; goes back. tinkex itself writes
#: sequences to a terminal, but none of these.
RAW = re.compile(
    r"\x1b\[666|\x1b\]0;|\x1bc|\x07|[\x80-\x9f]|[\u202a-\u202e\u2066-\u2069]|F\x08|G\rH|\x7f"
)
#: Show texts of the server where they succeed.
SHOWING = (
    *("checkpoint list", "checkpoint info", "run list", "run info", "model list", "run wait"),
    *("session list", "session show", "billing usage", "auth whoami", "api"),
)
FORMATS = ("", "table", "plain", "value", "json", "yaml", "csv", "shell")
#: Formats, and whether on a terminal, of every run.
QUICK = (("", False), ("", True), ("json", True))
#: What it asks for is gone afterwards.
DESTROYERS = ("checkpoint delete", "checkpoint prune")


def test_the_search_finds_what_it_is_for():
    for part in STEERING.split(" "):
        assert (len(part) == 1 and part.isascii() and part.isprintable()) or RAW.search(part), part
    assert not RAW.search("tinker://run/weights/é\n\t'…' \x1b[1mbold\x1b[0m")


#: A command that has no such format, or none at all.
_NO_FORMAT = re.compile(r"invalid choice|option\(s\) for [a-z ]+: -f|does not support the format")


class Asking:
    """Runs one command of the matrix against the true service, through the evil one."""

    def __init__(self, faulty, name: str, saved, renew) -> None:
        self._faulty, self._name, self._saved, self._renew = faulty, name, saved, renew

    def __call__(self, fault: str, format_: str, *, terminal: bool) -> Invocation | None:
        command = COMMANDS[self._name]
        if self._name in DESTROYERS:
            self._saved = self._renew()
        words = filled(command.words, *self._saved, session=self._session())
        words += ["--force"] if "--output" in words and "download" in words else []
        words += ["--yes"] if self._name == "checkpoint delete" else []  # on a terminal it asks
        words += ["-f", format_] if format_ else []
        words += ["--base-url", self._faulty.url(fault), "--api-key", KEY, "--timeout", "20s"]
        done = invoke(words, terminal=terminal)
        return None if format_ and _NO_FORMAT.search(done.stderr) else done

    def _session(self) -> str:
        rows = invoke(
            ["session", "list", "-f", "json", "--base-url", self._faulty.upstream, "--api-key", KEY]
        ).rows
        return str(rows[0]["session_id"])


@pytest.fixture
def asking(faulty, saved, renew, tmp_path, monkeypatch, naps):
    """Return a function that makes an :class:`Asking`; whatever polls is interrupted then."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "sleep", interrupt)
    monkeypatch.chdir(tmp_path)
    return lambda name: Asking(faulty, name, saved, renew)


def assert_harmless(done: Invocation | None, *what: str) -> None:
    if done is not None:
        for text in (done.stdout, done.stderr):
            found = RAW.search(text)
            assert not found, (*what, text[max(0, found.start() - 80) :][:200])


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_that_steer(name, asking):
    ask = asking(name)
    for format_, terminal in product(("", "json"), (False, True)):
        done = ask("evil-error", format_, terminal=terminal)
        assert_harmless(done, format_)
        assert done is None or " A " in done.stdout + done.stderr, done


@pytest.mark.parametrize("name", COMMANDS)
def test_texts_that_steer(name, asking, saved, service, request):
    ask = asking(name)
    if before := COMMANDS[name].before:
        invoke([*filled(before, *saved), "--base-url", service.url, "--api-key", KEY])
    whole = ask("evil-none", "", terminal=False)
    assert whole is not None
    assert whole.exit_code in (0, 130) or COMMANDS[name].unserved, whole
    thorough = request.config.getoption("--all-faults")
    shown = 0
    for fault in ("evil-shown", "evil-all"):
        for format_, terminal in product(FORMATS, (False, True)) if thorough else QUICK:
            done = ask(fault, format_, terminal=terminal)
            assert_harmless(done, fault, format_)
            shown += done is not None and " A " in done.stdout
    assert shown or name not in SHOWING, "nothing evil was shown"
