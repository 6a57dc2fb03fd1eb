"""Changes of many checkpoints that are interrupted: what was done is told, and is all that is told."""

from __future__ import annotations

import csv
import io
import itertools
import json
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.functional.conftest import Program
from tests.functional.test_interactive import Terminal
from tests.serving import Reply, Request, serving
from tests.until import idle, until

PATHS = [f"tinker://run-{number}:train:0/weights/final" for number in range(500)]
COMMANDS = {
    "delete": (["delete", "--yes"], "deleted"),
    "publish": (["publish"], "published"),
    "set-ttl": (["set-ttl", "--ttl", "7d"], "set"),
}
READERS = {
    "plain": lambda text: [word for word in text.split() if word.startswith("tinker://")],
    "json": lambda text: [row["tinker_path"] for row in json.loads(text) if not row["error"]],
    "csv": lambda text: [
        row["tinker_path"] for row in csv.DictReader(io.StringIO(text)) if not row["error"]
    ],
}


class Slow:
    """A service that refuses changes of some runs.

    :ivar limit: requests after so many get no answer until the test is over.
    """

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.limit = 70
        self.over = threading.Event()
        self._requests = itertools.count()

    def answer(self, request: Request) -> Reply:
        if next(self._requests) >= self.limit:
            self.over.wait()
        run = request.path.split("/")[4]
        if "7:" in run:
            return Reply({}, 403)
        self.changed.add(f"tinker://{run}/weights/final")
        return Reply({})


@pytest.fixture
def slow(tinkex: Program) -> Iterator[Slow]:
    slow = Slow()
    with serving(slow.answer) as url:
        tinkex.environment |= {"TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-bulk-changes"}
        yield slow
        slow.over.set()


@pytest.mark.parametrize(
    ("name", "form", "number"),
    [
        *(("delete", form, number) for form in READERS for number in (2, 15)),
        *((name, "plain", 2) for name in ("publish", "set-ttl")),
    ],
)
def test_an_interruption_tells_what_was_done(name, form, number, tinkex, slow):
    words, done = COMMANDS[name]
    process = tinkex.start("checkpoint", *words, *PATHS, "-f", form)
    until(lambda: len(slow.changed) >= 60 and idle(process))
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    told = READERS[form](stdout)
    assert set(told) <= slow.changed
    assert len(slow.changed) - len(told) <= 32  # those under way
    assert f"At least {len(told)} of 500 were {done} before that" in stderr


def test_on_a_terminal_as_well(tinkex, slow):
    terminal = Terminal("checkpoint", "publish", *PATHS, **tinkex.environment)
    until(lambda: len(slow.changed) >= 60 and idle(terminal.process))
    terminal.process.send_signal(signal.SIGINT)
    shown = terminal.expect(r"At least \d+ of 500 were published before that")
    told = READERS["plain"](shown.partition("At least")[0])
    assert f"At least {len(set(told) & slow.changed)} of" in shown
    assert terminal.process.wait(60) == 130


def test_one_that_fails_is_told_when_all_were_tried(tinkex, slow):
    done = tinkex("checkpoint publish", *PATHS[:40], "-f", "json", code=1)
    assert len(slow.changed) == 36
    assert [row["tinker_path"] for row in done.rows] == PATHS[:40]
    assert "4 of 40 checkpoints could not be published" in done.stderr
