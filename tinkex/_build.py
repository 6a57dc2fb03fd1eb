"""Stamp the commit into built packages, so that ``tinkex version`` can print it.

Runs inside setuptools only. The commit is that of the source tree being built. A tree that is not
the top of its own repository, such as an sdist unpacked inside another project, has none.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools.command.build_py import build_py as _build_py
from setuptools.command.sdist import sdist as _sdist

ROOT = Path(__file__).resolve().parent.parent
STAMP = "_commit.py"


def commit_of(root: Path) -> str | None:
    """Return the short hash (7 characters) of the commit checked out at *root*, or ``None``."""

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 - fixed words and the path of this file
            ["git", "-C", str(root), *arguments],  # noqa: S607 - the git of the builder's PATH
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return git("rev-parse", "--short=7", "HEAD")[:7]
    except (OSError, subprocess.CalledProcessError):
        return None


def _write_stamp(directory: Path) -> None:
    if (directory / STAMP).exists() and not (ROOT / ".git").exists():
        return  # an sdist already carries the stamp of the tree it was made from
    (directory / STAMP).unlink(missing_ok=True)
    commit = commit_of(ROOT)
    if commit:
        (directory / STAMP).write_text(f'COMMIT = "{commit}"\n', encoding="utf-8")


class build_py(_build_py):
    """Copy the package, then write the stamp into the copy, never into the source tree."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            _write_stamp(Path(self.build_lib) / "tinkex")


class sdist(_sdist):
    """Write the stamp into the release tree."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        _write_stamp(Path(base_dir) / "tinkex")
