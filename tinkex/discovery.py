"""Finds the entry points of tinkex among everything that is installed, without a cache.

:func:`importlib.metadata.entry_points` reads and parses the metadata of all distributions, which
takes longer than a whole command where there are many; stevedore therefore keeps the result in a
file, which a first start, a container and a read-only home do not have, and which may be stale:
it knows the times of files to two minutes. Here only those files are parsed that name a group of
ours, which is quicker than to find out whether such a cache still holds.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

#: What the names of all groups of ours begin with.
PREFIX = "tinkex."
_SUFFIXES = (".dist-info", ".egg-info")
_log = logging.getLogger("tinkex")
#: What has been found, for each search path; a process looks once.
_found: dict[tuple[str, ...], dict[str, list[EntryPoint]]] = {}


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of *group*, which begins with :data:`PREFIX`, importing none.

    As in :mod:`importlib.metadata`, the first distribution of a name on ``sys.path`` is the one
    that counts. An entry point says of which distribution it is: ``dist``.
    """
    path = tuple(sys.path)
    if path not in _found:
        _found[path] = _groups(path)
    return _found[path].get(group, [])


def _groups(path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    groups: dict[str, list[EntryPoint]] = {}
    for distribution in _distributions(path):
        try:
            for entry_point in distribution.entry_points:
                if entry_point.group.startswith(PREFIX):
                    groups.setdefault(entry_point.group, []).append(entry_point)
        except Exception as error:  # of a file that nobody can read: its plugin is missing, alone
            where = getattr(distribution, "_path", "a distribution")
            _log.warning("the entry points in %s cannot be read: %s", where, error)
    return groups


def _distributions(path: tuple[str, ...]) -> Iterator[Distribution]:
    """Yield the distributions of *path* that may have entry points of ours."""
    seen: set[str] = set()
    for entry in path:
        try:
            names = sorted(os.listdir(entry or "."))
        except NotADirectoryError:
            yield from _in_archive(entry)
            continue
        except OSError:
            continue
        for name in names:
            project = _project(entry, name)
            if project is None or project in seen:
                continue
            seen.add(project)
            directory = os.path.join(entry, name)
            if _names_ours(directory):
                from importlib.metadata import Distribution

                yield Distribution.at(directory)


def _project(entry: str, name: str) -> str | None:
    """Return the normal form of the project whose metadata *name* in *entry* is, if it is any."""
    if name.endswith(_SUFFIXES):
        stem = name.rpartition(".")[0]
    elif name == "EGG-INFO":
        stem = os.path.basename(entry)
    else:
        return None
    return stem.partition("-")[0].lower().replace(".", "_")


def _names_ours(directory: str) -> bool:
    try:
        with open(os.path.join(directory, "entry_points.txt"), "rb") as file:
            return PREFIX.encode() in file.read()
    except OSError:
        return False


def _in_archive(entry: str) -> Iterator[Distribution]:
    from importlib.metadata import distributions

    yield from distributions(path=[entry])
