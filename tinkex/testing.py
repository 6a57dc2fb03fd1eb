"""Helpers for the tests of plugins.

:func:`invoke` runs a command line in this process and returns its output. :func:`isolated` hides
the developer's settings and files, and :func:`local_service` connects commands to the embedded
service, so that no network is needed. :func:`check_distribution` checks the entry points of a
distribution against the conventions for all commands of tinkex.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tinkex import plugins
from tinkex.exceptions import PluginError

__all__ = ["Invocation", "check_distribution", "invoke", "isolated", "local_service"]

#: Variables that tinkex, its libraries and the local service read.
_READ = ("TINKER_", "TINKEX_", "HF_", "HUGGING_FACE_", "CLOUDFLARE_", "CLIFF_", "XDG_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CERTIFICATES = ("requests_ca_bundle", "curl_ca_bundle", "ssl_cert_file", "ssl_cert_dir")


@dataclass(frozen=True)
class Invocation:
    """The outcome of one command line.

    :ivar stdout: the result, and nothing else.
    :ivar stderr: status lines and errors.
    :ivar exit_code: 0 for success.
    """

    stdout: str
    stderr: str
    exit_code: int

    @property
    def rows(self) -> Any:
        """The decoded output of a command run with ``-f json``.

        :raises AssertionError: the output is not JSON; shows the exit code and standard error.
        """
        try:
            return json.loads(self.stdout)
        except ValueError as error:
            raise AssertionError(
                f"no JSON on standard output: {self.stdout[:200]!r}; "
                f"exit code {self.exit_code}, standard error: {self.stderr}"
            ) from error


class _Stream(io.StringIO):
    def __init__(self, text: str = "", *, terminal: bool = False) -> None:
        super().__init__(text)
        self.isatty = lambda: terminal  # type: ignore[method-assign]


def invoke(
    argv: Sequence[str],
    *,
    stdin: str = "",
    terminal: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Invocation:
    """Run *argv* (the arguments after ``tinkex``) and return its outcome.

    :param stdin: the text on standard input.
    :param terminal: all three streams report that they are a terminal.
    :param environ: environment variables set for this command alone.
    """
    from tinkex.cli.app import TinkexApp

    stdout, stderr = _Stream(terminal=terminal), _Stream(terminal=terminal)
    with mock.patch.dict(os.environ, environ or {}):
        app = TinkexApp(_Stream(stdin, terminal=terminal), stdout, stderr)
        app.uses_cache = False
        code = app.run(list(argv))
    return Invocation(stdout.getvalue(), stderr.getvalue(), code)


@contextlib.contextmanager
def isolated(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Run the block as a new user whose home is *directory*; yield it as a path.

    ``HOME`` and the directories for configuration, data, state and cache are below it. Variables
    that tinkex reads are removed, including those for proxies and certificates. Afterwards the
    environment is restored.
    """
    home = Path(directory).absolute()
    with mock.patch.dict(os.environ):
        for name in list(os.environ):
            if name.startswith(_READ) or name.lower() in (*_PROXIES, *_CERTIFICATES):
                del os.environ[name]
        os.environ["HOME"] = os.environ["USERPROFILE"] = str(home)
        os.environ["HF_HUB_OFFLINE"] = "1"
        yield home


@contextlib.contextmanager
def local_service(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Connect the commands of the block to a separate local service.

    It runs in this process and keeps its files below *directory*; the block is :func:`isolated`
    there. Yields the path of the service's files.

    :raises tinkex.exceptions.PluginError: tinkex-local is not installed.
    """
    if "local" not in {ep.name for ep in plugins.entry_points(plugins.HTTP_POOLS)}:
        raise PluginError(
            "the local service is not available", hint=plugins.how_to_get("tinkex-local")
        )
    with isolated(directory) as home:
        os.environ["TINKEX_LOCAL_HOME"] = str(home / "local-service")
        os.environ["TINKEX_PROFILE"] = "local"
        yield home / "local-service"


def check_distribution(name: str) -> None:
    """Check every entry point that the distribution *name* adds to tinkex.

    These are faults:

    - The distribution is not installed, or uses a group that tinkex does not have.
    - An entry point does not load, has a wrong base class, or lacks a method.
    - A command is not called ``noun_verb``, its docstring is not one sentence, an argument has no
      help, or an option conflicts with a global option.
    - A row of a command does not have one value for each of its ``column_names``.
    - ``plain_columns`` or ``droppable`` contains a name that is not in ``column_names``.
    - A hook fails, adds an option that exists or an argument that is required, or is for an unknown
      command.
    - Settings are not a dataclass whose fields have defaults of their types.
    - A profile has unknown settings.

    :raises AssertionError: lists the faults.
    """
    from tinkex.cli.inventory import Inventory, nearest_plugin

    inventory = Inventory()
    found = [(ep, d) for ep, d in inventory.claims if plugins.same_name(d.name, name)]
    faults = []
    if plugins.find_distribution(name) is None:
        near = nearest_plugin(name)
        faults.append(f"{name} is not installed" + (f"; did you mean {near}?" if near else ""))
    elif not found:
        faults.append(f"{name} has no entry point in any tinkex group")
    faults += inventory.misspelt_groups(name)
    for ep, distribution in found:
        texts = [text] if (text := inventory.problem(ep, distribution)) else []
        if not texts and ep.group == plugins.COMMANDS:
            texts = list(_command_faults(plugins.load(ep), ep.name))
        elif ep.group == plugins.SETTINGS and not plugins.same_name(ep.name, distribution.name):
            texts.append(f"its name must be the distribution name, {distribution.name}")
        faults += [f"{ep.group}: {ep.name}: {text}" for text in texts]
    if faults:
        raise AssertionError("\n".join(faults))


def _command_faults(command: Any, name: str) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9-]+(_[a-z0-9-]+)*", name):
        yield "its name must be noun_verb, in lower case"
    doc = inspect.cleandoc(command.__doc__ or "")  # an inherited one is not in the help
    if "\n" in doc or not doc.endswith("."):
        yield "its docstring must be one sentence that ends with a period"
    try:
        parser = command(None, None, name.replace("_", " ")).get_parser(name)
    except (argparse.ArgumentError, ValueError) as error:
        yield f"its options conflict: {error}"
        return
    except (Exception, SystemExit) as error:
        yield f"its get_parser() failed: {plugins.reason(error)}"
        return
    yield from (f"the argument {a.dest} has no help" for a in parser._actions if not a.help)
    lists = ("examples", "column_names", "plain_columns", "droppable")
    texts = [attribute for attribute in lists if isinstance(getattr(command, attribute, ()), str)]
    yield from (f"{attribute} is a string, not a tuple: add a comma" for attribute in texts)
    names = getattr(command, "column_names", ()) if not texts else ()
    for attribute in ("plain_columns", "droppable") if names else ():
        for column in getattr(command, attribute, ()):
            if column not in names:
                yield f"{attribute} contains {column!r}, which is not in column_names"
    for count in _row_lengths(command) if names else ():
        if count != len(names):
            yield f"a row has length {count}, but column_names has {len(names)}: {', '.join(names)}"


def _row_lengths(command: Any) -> Iterator[int]:
    """Yield the numbers of values in the rows that ``take_action`` returns with ``column_names``.

    Only for rows written in its code: ``return self.column_names, [(note.id, note.text) for …]``.
    """
    from tinkex.commands.base import Lister

    try:
        function = ast.parse(textwrap.dedent(inspect.getsource(command.take_action)))
    except (OSError, TypeError, SyntaxError):  # there is no source to read
        return
    assigned = {
        target.id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            names, data = node.value.elts[0], node.value.elts[-1]
            if not (isinstance(names, ast.Attribute) and names.attr == "column_names"):
                continue
            data = assigned.get(data.id, data) if isinstance(data, ast.Name) else data
            rows: list[Any] = [data]
            if issubclass(command, Lister):
                rows = [getattr(data, "elt", None), *getattr(data, "elts", ())]
            for row in rows:
                is_row = isinstance(row, (ast.Tuple, ast.List))
                if is_row and not any(isinstance(cell, ast.Starred) for cell in row.elts):
                    yield len(row.elts)
