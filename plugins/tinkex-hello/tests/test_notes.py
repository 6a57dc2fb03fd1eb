"""``tinkex note add``, ``list`` and ``show``, and ``checkpoint list --notes``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tinkex.testing import invoke, isolated, local_service

PATH = "tinker://run-1/weights/first"
SAVE = ["checkpoint", "--base-model", "tinkex/baker-street-2M", "--rank", "4"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with isolated(tmp_path) as home:
        yield home


def test_a_note_is_added_listed_and_shown(home: Path) -> None:
    assert invoke(["note", "list", "-f", "json"]).rows == []

    added = invoke(["note", "add", PATH, "best so far"])

    assert (added.stdout, added.stderr) == (f"Annotated {PATH}\n", "")
    assert invoke(["note", "list", "-f", "plain"]).stdout == f"{PATH}\tbest so far\n"
    assert invoke(["note", "show", PATH, "-f", "json"]).rows["note"] == "best so far"


def test_a_narrow_terminal_shows_short_names(home: Path) -> None:
    path = "tinker://699b8252-713d-44a5-9c0e-57d01a03b3c1:train:0/sampler_weights/first"
    invoke(["note", "add", path, "best so far"])

    done = invoke(["note", "list"], terminal=True, environ={"COLUMNS": "80", "NO_COLOR": "1"})

    assert "| 699b8252:sampler/first | best so far | " in done.stdout


def test_the_newest_notes_come_first(home: Path) -> None:
    for name in ("a", "b", "c"):
        invoke(["note", "add", f"tinker://run-1/weights/{name}", name])

    done = invoke(["note", "list", "--limit", "2", "-f", "value", "-c", "note"])

    assert done.stdout == "c\nb\n"
    assert done.stderr == "2 of 3 notes shown; --limit 0 shows all.\n"


def test_a_checkpoint_without_a_note(home: Path) -> None:
    done = invoke(["note", "show", PATH])

    assert (done.stdout, done.exit_code) == ("", 1)
    assert f"there is no note on {PATH}\nHint: See: tinkex note list\n" in done.stderr


def test_notes_are_a_column_of_the_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("tinkex_local")
    with local_service(tmp_path):
        saved = invoke([*SAVE, "--output", str(tmp_path / "saved.json")])
        assert saved.exit_code == 0, saved.stderr
        invoke(["note", "add", "@latest", "best so far"])
        plain = invoke(["checkpoint", "list", "--notes", "-f", "plain"]).stdout
        notes = [
            row["note"] for row in invoke(["checkpoint", "list", "--notes", "-f", "json"]).rows
        ]
        without = invoke(["checkpoint", "list", "-f", "json"]).rows

    assert plain.endswith("\tbest so far\n")
    assert notes == ["best so far"]
    assert "note" not in without[0]
