"""Plugins that are built and installed by pip next to tinkex, as their users do it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Environment:
    """A directory for plugins, which is on the import path of what is run here."""

    home: Path

    def run(self, *words: str | Path, code: int = 0, cwd: Path | None = None) -> tuple[str, str]:
        done = subprocess.run(
            [Path(sys.executable).parent / words[0], *words[1:]],
            cwd=cwd or self.home,
            env={**os.environ, "PYTHONPATH": str(self.home / "site")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout, done.stderr

    def pip_install(self, source: Path) -> None:
        options = ("--no-build-isolation", "--no-index", "--no-deps", "--target")
        self.run("python", "-m", "pip", "install", "-q", *options, self.home / "site", source)


@pytest.fixture
def fresh(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_a_new_plugin_passes_its_tests_and_is_used_at_once(fresh: Environment):
    done, _ = fresh.run("tinkex", "plugin", "new", "tinkex-demo")
    assert done == "Plugin tinkex-demo written to tinkex-demo\n"

    fresh.pip_install(fresh.home / "tinkex-demo")
    tests, _ = fresh.run("python", "-m", "pytest", "-q", cwd=fresh.home / "tinkex-demo")
    assert "5 passed" in tests

    path = "tinker://run-1/weights/first"
    assert fresh.run("tinkex", "demo", "add", path, "good")[0] == f"Noted {path}\n"
    assert fresh.run("tinkex", "demo", "list")[0] == f"{path}\tgood\n"
    assert "demo list" in fresh.run("tinkex", "help")[0]
    as_format = fresh.run("tinkex", "config", "show", "-c", "name", "-f", "demo")[0]
    assert as_format.startswith("name = profile\n\nname = ")
    shown = json.loads(fresh.run("tinkex", "plugin", "show", "tinkex-demo", "-f", "json")[0])
    names = [command["name"] for command in shown["commands"]]
    assert names == ["demo add", "demo list", "demo show"]
    assert [hook["options"] for hook in shown["hooks"]] == [["--with-demo"]]
    assert shown["settings"] == [
        "limit: maximum number of notes to list (a whole number; default 20)"
    ]
    assert shown["errors"] == []
