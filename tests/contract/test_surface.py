"""The public API for plugins is recorded and changes only with a line in CHANGELOG.md.

After an intended change: ``python tests/contract/test_surface.py`` writes ``surface.txt`` again
and prints what CHANGELOG.md has to mention.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tinkex import plugins
from tinkex.api import ServiceClient
from tinkex.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("surface.txt")
PAGE = ROOT / "doc" / "source" / "reference" / "plugin-api.rst"

#: A name is published by being in the ``__all__`` of one of these.
MODULES = (
    "tinkex",
    "tinkex.api",
    "tinkex.columns",
    "tinkex.commands.arguments",
    "tinkex.commands.base",
    "tinkex.commands.batch",
    "tinkex.commands.batch_prompts",
    "tinkex.commands.sampling",
    "tinkex.exceptions",
    "tinkex.files",
    "tinkex.httppools",
    "tinkex.options",
    "tinkex.plugins",
    "tinkex.settings",
    "tinkex.testing",
)
#: What tests of the local service use besides, to compare both ends of the wire.
COMPARED = {
    f"tinkex.api.http.protobuf.{name}"
    for name in ("forward_backward_output", "forward_backward_request", "sample_response")
}
#: What a command may use of its application.
OF_THE_APP = {"stdin", "stdout", "stderr"}


def surface() -> list[str]:
    """Return a line for each published name, member and entry-point group, sorted."""
    lines = {f"entry points {group}" for group in plugins.GROUPS}
    for name in MODULES:
        module = importlib.import_module(name)
        for published in module.__all__:
            lines.update(_described(f"{name}.{published}", getattr(module, published)))
    with ServiceClient(Settings(api_key="tml-surface")) as client:
        for member, value in vars(client).items():
            if not member.startswith("_"):
                lines.add(f"tinkex.api.ServiceClient.{member}: {type(value).__name__}")
    return sorted(lines)


def _described(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, type):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {path}({bases})"
        if _is_made_by_plugins(value):
            yield f"{path}{_signature(value)}"
        members = {m for c in _ours(value) for m in (*vars(c), *inspect.get_annotations(c))}
        for member in sorted(m for m in members if not m.startswith("_")):
            yield _member(f"{path}.{member}", inspect.getattr_static(value, member, None))
    elif callable(value):
        yield f"{path}{_signature(value)}"
    else:
        yield f"{path} = {value!r}" if path != "tinkex.__version__" else path


def _is_made_by_plugins(cls: type) -> bool:
    # Those that need a transport come from the client; others without a constructor of ours are
    # subclassed.
    made = any("__init__" in vars(owner) for owner in _ours(cls))
    return made and "transport" not in inspect.signature(cls).parameters


def _ours(cls: type) -> Iterator[type]:
    return (owner for owner in cls.__mro__ if owner.__module__.startswith("tinkex"))


def _member(path: str, value: Any) -> str:
    if isinstance(value, (property, cached_property)):
        getter: Any = value.fget if isinstance(value, property) else value.func
        returned = inspect.get_annotations(getter).get("return")
        return f"{path}: {returned}"
    if isinstance(value, (classmethod, staticmethod)):
        return f"{path}{_signature(value.__func__)}"
    return f"{path}{_signature(value)}" if inspect.isfunction(value) else path


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def digest() -> str:
    return hashlib.sha256(RECORD.read_bytes()).hexdigest()[:8]


def test_the_published_surface_is_the_recorded_one():
    recorded = RECORD.read_text(encoding="utf-8").splitlines()

    assert surface() == recorded, (
        "what plugins may use has changed: if that is meant, run "
        "`python tests/contract/test_surface.py` and follow what it says"
    )


def test_the_changelog_and_the_manual_mention_it():
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"\* - ``(tinkex[a-z._]*)``", text)) == set(MODULES)
    assert [group for group in plugins.GROUPS if group not in text] == []

    mentioned = re.findall(r"plugin API `([0-9a-f]{8})`", (ROOT / "CHANGELOG.md").read_text())
    # The newest entries are at the top.
    assert mentioned[:1] == [digest()], "tell in CHANGELOG.md what has changed for plugins"


SOURCES = sorted(
    path
    for pattern in (
        "plugins/*/tinkex_*/**/*.py",
        "plugins/*/tests/*.py",
        "tinkex/templates/**/*.py.in",
    )
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_plugin_uses_nothing_else(path: Path):
    tree = ast.parse(re.sub(r"\$\{(\w+)\}", r"\1", path.read_text(encoding="utf-8")))
    of_the_app = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self.app"
    }

    names = set(imported(tree))
    known = COMPARED if "tests" in path.parts else set()
    assert {name for name in names if not is_published(name)} == known & names
    assert of_the_app <= OF_THE_APP


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield each name that is imported from tinkex: ``module.name``, or the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] == "tinkex")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tinkex":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_published(name: str) -> bool:
    if name in MODULES:
        return True
    module, _, member = name.rpartition(".")
    return module in MODULES and member in importlib.import_module(module).__all__


def test_the_finder_of_imports_refuses_what_is_inside():
    lines = (
        "from tinkex.cli.commandmanager import CommandManager",
        "from tinkex.plugins import pick",
        "import tinkex.cli.app",
    )
    names = [name for line in lines for name in imported(ast.parse(line))]
    assert [is_published(name) for name in names] == [False] * len(lines)


if __name__ == "__main__":
    RECORD.write_text("".join(f"{line}\n" for line in surface()), encoding="utf-8")
    print(f"CHANGELOG.md must say what has changed and mention: plugin API `{digest()}`")
