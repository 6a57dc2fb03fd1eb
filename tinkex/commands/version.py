"""The command ``version``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tinkex.commands.base import ShowOne
from tinkex.version import __version__, commit, line


class Version(ShowOne):
    """Show the version and the commit it was built from."""

    is_action = True
    tolerates_bad_settings = True  # needed first to report a problem
    column_names = ("version", "commit")
    examples = ("tinkex version --json",)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        self.result = {"version": __version__, "commit": commit()}
        return self.column_names, tuple(self.result.values())

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [line()]
