"""Where a checkpoint goes when nobody says: the repository and the branch named after it."""

from __future__ import annotations

import re

from tinkex.api import TinkerPath

#: Longest name of a repository on the hub.
_LONGEST = 96


def default_repo(path: TinkerPath, base_model: str | None) -> str:
    """Return the name of the repository for *path*, without its owner.

    The same as that of the official command line: ``tinker-<base model>-<run>``.
    """
    base = base_model.rstrip("/").rsplit("/", 1)[-1] if base_model else "adapter"
    return _sanitised(f"tinker-{base}-{path.run_id}")


def default_revision(path: TinkerPath) -> str:
    """Return the branch for *path* in a repository that is that of its run."""
    return _sanitised(path.checkpoint_id)


def _sanitised(text: str) -> str:
    """Return *text* as the hub takes names: no ``--``, no ``..``, nothing odd at the ends."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", text)
    name = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", name))
    return name[:_LONGEST].strip("-_.")
