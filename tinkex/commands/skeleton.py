"""The skeleton of a new plugin: names made from its name, and its files written all or none.

The files are package data (``templates/plugin``), so that they read as what they become.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import keyword
import os
import re
import shutil
import string
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinkex.exceptions import LocalError, UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TEMPLATE = ".in"
#: Template names that differ from those of the files (a dotted file would be overlooked).
_RENAMED = {"gitignore": ".gitignore"}


@dataclass(frozen=True)
class Names:
    """What a plugin and its parts are called.

    :ivar name: the distribution, as pip knows it.
    :ivar package: the Python package.
    :ivar noun: the first word of its commands, and its format.
    """

    name: str
    package: str
    noun: str

    @property
    def values(self) -> dict[str, str]:
        """What the templates may refer to."""
        return {
            "name": self.name,
            "package": self.package,
            "noun": self.noun,
            "Noun": "".join(word.capitalize() for word in self.noun.split("-")),
            "identifier": self.noun.replace("-", "_"),
        }


def names_for(name: str) -> Names:
    """Return the names made from the distribution's *name*.

    :raises UsageError: it is no name for a distribution, or its package would hide another one.
    """
    package, noun = name.replace("-", "_"), name.removeprefix("tinkex-")
    if not _NAME.fullmatch(name) or len(name) > 60 or not noun[0].isalpha():
        raise UsageError(
            f"not a name for a plugin: {name[:80]!r}",
            hint="Lower-case letters, digits and single hyphens, a letter first: tinkex-stats.",
        )
    if keyword.iskeyword(package) or package in sys.stdlib_module_names or package == "tinkex":
        raise UsageError(
            f"a package called {package!r} would hide one of Python's or tinkex's",
            hint=f"Call the plugin tinkex-{name}, for instance.",
        )
    if importlib.util.find_spec(package) is not None:
        raise UsageError(
            f"there already is a package called {package!r} here",
            hint="Choose another name, or see: tinkex plugin list",
        )
    return Names(name, package, noun)


def files(names: Names) -> dict[str, str]:
    """Return the text of every file of the skeleton by its path."""
    root = importlib.resources.files("tinkex") / "templates" / "plugin"
    found = {}
    for path, text in _templates(root, ""):
        folder, _, file = path.removesuffix(_TEMPLATE).rpartition("/")
        folder = names.package if folder == "package" else folder
        file = _RENAMED.get(file, file)
        found[f"{folder}/{file}".lstrip("/")] = string.Template(text).substitute(names.values)
    return found


def _templates(directory: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_TEMPLATE):
            yield f"{prefix}{entry.name}", entry.read_text(encoding="utf-8")


def write(texts: dict[str, str], directory: Path) -> None:
    """Write *texts* (path → content) into *directory*, which is new or empty: all or nothing.

    :raises LocalError: it is not empty, or cannot be written; then it is as it was.
    """
    try:
        target = Path(os.path.realpath(directory))
        if target.is_dir():
            if any(target.iterdir()):
                raise LocalError(
                    f"{directory} is not empty", hint="Choose another with --directory."
                )
            _fill(texts, target)
        elif target.exists():
            raise LocalError(f"{directory} is a file", hint="Choose another with --directory.")
        else:
            _create(texts, target)
    except OSError as error:
        raise LocalError(f"cannot write {directory}: {error.strerror}") from error


def _create(texts: dict[str, str], target: Path) -> None:
    made = [p for p in reversed(target.parents) if not p.exists()]
    stage = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = _staged(texts, target.parent)
        stage.rename(target)
    except BaseException:
        if stage:
            shutil.rmtree(stage, ignore_errors=True)
        for parent in reversed(made):
            if parent.is_dir():
                parent.rmdir()
        raise


def _fill(texts: dict[str, str], target: Path) -> None:
    # Not renamed over: a shell that stands in this directory would stand in a removed one.
    moved: list[Path] = []
    stage = None
    try:
        stage = _staged(texts, target)
        for entry in sorted(stage.iterdir()):
            moved.append(entry.rename(target / entry.name))
        stage.rmdir()
    except BaseException:
        for path in [*moved, *([stage] if stage else [])]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _staged(texts: dict[str, str], parent: Path) -> Path:
    """Return a directory in *parent* with all files, of the permissions that mkdir would give."""
    stage = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        for name, text in texts.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text(text, encoding="utf-8", newline="\n")
        mask = os.umask(0)
        os.umask(mask)
        stage.chmod(0o777 & ~mask)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    return stage
