"""The commands for notes on checkpoints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinkex.columns import Time
from tinkex.commands import arguments
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import UsageError
from tinkex.files import locked, replacing
from tinkex.options import non_empty

_COLUMNS = ("tinker_path", "note", "created_at")


class AddNote(ShowOne):
    """Add or replace the note on a checkpoint."""

    is_action = True
    column_names = _COLUMNS
    examples = ("tinkex note add @latest 'best so far'",)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_path(parser)
        parser.add_argument("note", metavar="<text>", type=non_empty, help="note text")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        path = arguments.checkpoint_path(self, parsed_args.tinker_path)
        note = {"note": parsed_args.note, "created_at": datetime.now(UTC).isoformat()}
        file = self.data_dir / "notes.json"
        with locked(file):  # another command may be writing
            notes = {**read_notes(self.data_dir), path: note}
            with replacing(file) as stream:  # a command that is killed leaves the old file
                stream.write(json.dumps(notes).encode())
        return self.column_names, _row(path, note)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Annotated {record['tinker_path']}"]


class ListNote(Lister):
    """List the notes on checkpoints, newest first."""

    column_names = _COLUMNS
    plain_columns = ("tinker_path", "note")
    droppable = ("tinker_path", "created_at")
    examples = ("tinkex note list", "tinkex note list -f json")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_limit(parser, "notes")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        arguments.shorten_paths(self)  # on narrow terminals; every command accepts them
        notes = read_notes(self.data_dir)
        paths = sorted(notes, key=lambda path: notes[path]["created_at"], reverse=True)
        shown = paths[: parsed_args.limit or None]
        if len(shown) < len(paths):
            self.status(f"{len(shown)} of {len(paths)} notes shown; --limit 0 shows all.")
        return self.column_names, [_row(path, notes[path]) for path in shown]


class ShowNote(ShowOne):
    """Show the note on a checkpoint."""

    column_names = _COLUMNS
    examples = ("tinkex note show @latest",)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_path(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        path = arguments.checkpoint_path(self, parsed_args.tinker_path)
        notes = read_notes(self.data_dir)
        if path not in notes:
            raise UsageError(f"there is no note on {path}", hint="See: tinkex note list")
        return self.column_names, _row(path, notes[path])


def read_notes(directory: Path) -> dict[str, dict[str, str]]:
    """Return the notes in *directory*, by the path of their checkpoint."""
    file = directory / "notes.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _row(path: str, note: Mapping[str, str]) -> tuple[Any, ...]:
    return path, note["note"], Time(note["created_at"])
