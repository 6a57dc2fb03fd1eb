"""Sphinx configuration of the manual; ``make docs`` builds it and takes warnings as errors."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import Any

from cliff.command import Command
from cliff.sphinxext import AutoprogramCliffDirective
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import tinkex
from tinkex.cli.app import TinkexApp
from tinkex.commands.base import Lister, ShowOne

project = "tinkex"
author = "the tinkex authors"
project_copyright = "the tinkex authors"
version = release = tinkex.__version__

# The manual describes these plugins; tinkex-hello is an example.
os.environ["TINKEX_PLUGINS"] = "tinkex-local,tinkex-hub,tinkex-train,tinkex-lab"

extensions = ["cliff.sphinxext", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"tinkex {release}"
html_show_copyright = False
highlight_language = "none"
smartquotes = False  # options are typed as they stand

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"

# tinkex(1) lists all commands. Each noun also has a separate page: tinkex-checkpoint(1).
_NOUNS = sorted(p.stem for p in (Path(__file__).parent / "reference" / "cli").glob("*.rst"))
man_pages = [
    ("reference/cli/index", "tinkex", "command-line client for the Tinker API", author, 1),
    *(
        (f"reference/cli/{noun}", f"tinkex-{noun}", f"tinkex {noun} commands", author, 1)
        for noun in _NOUNS
        if noun != "index"
    ),
    ("reference/shell", "tinkex-shell", "tinkex interactive shell", author, 1),
    ("reference/settings", "tinkex-settings", "tinkex settings", author, 5),
    ("reference/formats", "tinkex-formats", "tinkex output formats", author, 7),
    ("reference/exit-codes", "tinkex-exit-codes", "tinkex exit codes and errors", author, 7),
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
    (r"py:class", r"(R|T|.*\.[RT]|OnWait|.*\.Category|tinkex\.api\.waiting\.Deadline)"),
    (r"py:data", r"DEFAULT_MAX_TOKENS"),
]

autoprogram_cliff_application = "tinkex"


def _shared_options() -> list[str]:
    """Return the options that every command has, and those of the output formats."""
    app = TinkexApp()
    commands = [type("Any", (base,), {"take_action": None}) for base in (Lister, ShowOne)]
    parsers = [app.parser, *(command(app, None).get_parser("") for command in commands)]
    return sorted({option for parser in parsers for option in parser.option_strings()})


# reference/settings and reference/formats describe them once.
autoprogram_cliff_ignored = _shared_options()


class CommandPages(AutoprogramCliffDirective):
    """cliff's directive for the commands of TinkexApp, their examples kept line by line."""

    def _load_commands(self) -> dict[str, type[Command]]:
        commands = TinkexApp().command_manager.commands
        names = fnmatch.filter(commands, self.options["command"])
        return {name: _with_literal_examples(commands[name].load()) for name in names}


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


def without_addresses(app: Sphinx, doctree: nodes.document, _: str) -> None:
    """Make links between pages plain text in manual pages, which have no addresses."""
    if app.builder.name == "man":
        for link in list(doctree.findall(nodes.reference)):
            if not link.get("refuri"):
                link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    """Register the directives; the first in the place of cliff's."""
    app.connect("doctree-resolved", without_addresses)
    app.add_directive("output-shapes", OutputShapes)
    app.add_directive("autoprogram-cliff", CommandPages, override=True)
