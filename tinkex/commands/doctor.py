"""The examination of everything between this machine and the service."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinkex.cli.errors import hint_for
from tinkex.columns import plain_text
from tinkex.commands.base import Lister
from tinkex.exceptions import SettingsError, TinkexError

if TYPE_CHECKING:
    from tinkex.settings import Settings

#: SGR codes.
_COLOURS = {"ok": 32, "warning": 33, "fail": 31, "absent": 2, "skipped": 2}
#: Seconds for a check where nobody gives a time: a service that is up answers far sooner.
_SECONDS = 15.0


class Doctor(Lister):
    """Examine settings, key, network, service, tokenizers and disk; say what to do."""

    notes = "Nothing is created or changed. The exit code is 1 if a check fails."
    is_action = True  # a table has no room for whole sentences
    column_names = ("check", "status", "detail", "hint")
    examples = (
        "tinkex doctor",
        "tinkex --profile skyrl doctor --timeout 5s",
        "tinkex doctor --bundle report.json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--bundle",
            metavar="<file>",
            help="also write a report for whoever helps; it holds no key, and only you can read it",
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        code = super().run(parsed_args)
        if parsed_args.bundle:  # last: a full disk is no reason to keep the findings back
            self._write(parsed_args.bundle)
        self._tell_outcome()
        failed = any(finding.status == "fail" for finding in self.result or ())
        return code or int(failed)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.commands import checkup
        from tinkex.files import check_writable

        if parsed_args.bundle:
            check_writable(parsed_args.bundle)
        state = self._settings_or_error()
        settings = None if isinstance(state, TinkexError) else state
        self.app.display.expect("the results")
        found = checkup.examine(state, self._seconds(settings), self.app.pool)
        self.result = found
        return self.column_names, [
            (f.check, f.status, f.detail, (f.error and hint_for(f.error)) or f.hint) for f in found
        ]

    def _settings_or_error(self) -> Settings | TinkexError:
        try:
            return self.settings
        except TinkexError as error:
            return error

    def _seconds(self, settings: Settings | None) -> float:
        if settings is None or "timeout" not in settings.origins:
            return _SECONDS
        return float(settings.timeout)

    def _write(self, name: str) -> None:
        from tinkex.commands.bundle import report
        from tinkex.files import write_atomically

        state = self._settings_or_error()
        settings = None if isinstance(state, TinkexError) else state
        write_atomically(name, report(self.result, settings), private=True)
        self.status(f"Wrote the report to {name}. Look through it before you send it to anybody.")

    def _tell_outcome(self) -> None:
        failed = [f.check for f in self.result if f.status == "fail"]
        warned = [f.check for f in self.result if f.status == "warning"]
        if failed:
            self.status(f"Failed: {', '.join(failed)}.")
        elif warned:
            self.status(f"It works; look at: {', '.join(warned)}.")
        else:
            self.status("All is well.")

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        """Return a line of four fields; for people, in columns, with the hint below."""
        stream = self.app.stdout
        if not stream.isatty():
            return super().plain_row(record)
        import shutil
        import textwrap

        from tinkex.cli.terminal import wants_colour

        status, check = plain_text(record["status"]), plain_text(record["check"])
        width = max(shutil.get_terminal_size().columns, 40)
        margin = " " * 10
        text = textwrap.fill(
            f"{check}: {plain_text(record['detail'])}",
            width,
            initial_indent=margin,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
        colour = _COLOURS.get(status) if wants_colour(stream) else None
        shown = f"\x1b[{colour}m{status:<8}\x1b[0m" if colour else f"{status:<8}"
        lines = [f"{shown}  {text[10:]}"]
        if record["hint"] and status in ("fail", "warning"):
            hint = plain_text(record["hint"])
            lines.append(
                textwrap.fill(
                    f"-> {hint}", width, initial_indent=margin, subsequent_indent=margin + "   "
                )
            )
        return "\n".join(lines)

    def _default_format(self) -> str:
        try:
            return super()._default_format()
        except SettingsError:  # this is the command that tells
            return self.formatter_default
