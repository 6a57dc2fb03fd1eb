"""Sphinx configuration of the manual; ``make docs`` builds it and takes warnings as errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cliff.command import Command
from cliff.sphinxext import AutoprogramCliffDirective
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import tinkex
from tinkex.cli.app import TinkexApp
from tinkex.commands.base import Lister

project = "tinkex"
author = "the tinkex authors"
project_copyright = "the tinkex authors"
version = release = tinkex.__version__

extensions = ["cliff.sphinxext", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"tinkex {release}"
html_show_copyright = False
highlight_language = "none"
smartquotes = False  # options are typed as they stand

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"

# tinkex(1) has all commands; each noun has a page of its own besides: tinkex-checkpoint(1).
_NOUNS = sorted(p.stem for p in (Path(__file__).parent / "reference" / "cli").glob("*.rst"))
man_pages = [
    ("reference/cli/index", "tinkex", "the command line for the Tinker API", author, 1),
    *(
        (f"reference/cli/{noun}", f"tinkex-{noun}", f"the tinkex commands of {noun}", author, 1)
        for noun in _NOUNS
        if noun != "index"
    ),
    ("reference/shell", "tinkex-shell", "the interactive shell of tinkex", author, 1),
    ("reference/settings", "tinkex-settings", "settings of tinkex", author, 5),
    ("reference/formats", "tinkex-formats", "output formats of tinkex", author, 7),
    ("reference/exit-codes", "tinkex-exit-codes", "exit codes and errors of tinkex", author, 7),
]
man_show_urls = True

# Names that this manual has no page for: the standard library (its inventory would have to be
# fetched), the libraries below us, and types written in annotations only.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(argparse|collections|concurrent|contextlib|datetime|importlib|logging|os|pathlib|typing)\..*",
    ),
    (r"py:.*", r"(cliff|requests|tokenizers|urllib3)\..*"),
    (r"py:class", r"(Category|Path|datetime|optional|Any|Callable|Iterator|Mapping|Sequence)"),
    (r"py:class", r"(T|R|.*\.R|OnWait|.*\.Category|tinkex\.api\.waiting\.Deadline)"),
    (r"py:data", r"DEFAULT_MAX_TOKENS"),
]

autoprogram_cliff_application = "tinkex"
# Options that every command has: reference/settings and reference/formats describe them once.
autoprogram_cliff_ignored = [
    "--help",
    "--api-key",
    "--base-url",
    "--timeout",
    "--profile",
    "--http-pool",
    "--verbose",
    "--quiet",
    "--log-file",
    "--debug",
    "--format",
    "--column",
    "--quote",
    "--noindent",
    "--max-width",
    "--fit-width",
    "--print-empty",
    "--prefix",
    "--variable",
    "--sort-column",
    "--sort-ascending",
    "--sort-descending",
]


class CommandPages(AutoprogramCliffDirective):
    """cliff's directive, with the examples at the end of a command's help kept line by line."""

    def _load_commands(self) -> dict[str, type[Command]]:
        return {name: _with_literal_examples(cls) for name, cls in super()._load_commands().items()}


def _with_literal_examples(command: type[Command]) -> type[Command]:
    def get_epilog(self: Any) -> str:
        text: str = command.get_epilog(self)
        return text.replace("examples:\n", "Examples::\n\n", 1)

    members = {"get_epilog": get_epilog, "__doc__": command.__doc__}
    return type(command.__name__, (command,), members)


class OutputShapes(SphinxDirective):
    """The members of every command's JSON, from the commands themselves."""

    def run(self) -> list[nodes.Node]:
        """Return a definition for each command that has a result of fields."""
        commands = TinkexApp().command_manager.commands
        lines = []
        for name in sorted(commands):
            command = commands[name].load()
            fields = getattr(command, "column_names", ())
            if fields:
                kind = "an array of objects" if issubclass(command, Lister) else "one object"
                lines += [f"``{name}``: {kind}", f"    {', '.join(f'``{x}``' for x in fields)}", ""]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> None:
    """Register the directives; the first in the place of cliff's."""
    app.add_directive("output-shapes", OutputShapes)
    app.add_directive("autoprogram-cliff", CommandPages, override=True)
