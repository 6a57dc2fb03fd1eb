"""Plugins that are built and installed by pip next to tinkex, as their users do it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

BUILD = '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
BROKEN_CFG = """
[metadata]
name = tinkex-broken
version = 1.0
[options]
py_modules = tinkex_broken
[options.entry_points]
tinkex.commands =
    broken = tinkex_broken:Broken
tinkex.formatters.list =
    shards = tinkex_broken:Shards
tinkex.hooks.config_show =
    broken = tinkex_broken:Hook
"""


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
    assert "4 passed" in tests

    assert fresh.run("tinkex", "demo", "hello", "--name", "Ada")[0].startswith("Hello, Ada!\n")
    assert "demo hello" in fresh.run("tinkex", "help")[0]
    as_format = fresh.run("tinkex", "config", "show", "-c", "name", "-f", "demo")[0]
    assert as_format.startswith("name = profile\n\nname = ")
    hooked = fresh.run("tinkex", "plugin", "list", "--all", "--demo-only", "-f", "json")[0]
    assert {row["distribution"] for row in json.loads(hooked)} == {"tinkex-demo"}
    shown = json.loads(fresh.run("tinkex", "plugin", "show", "tinkex-demo", "-f", "json")[0])
    assert [command["name"] for command in shown["commands"]] == ["demo hello"]
    assert [hook["options"] for hook in shown["hooks"]] == [["--demo-only"]]
    assert shown["errors"] == []


def test_a_plugin_that_fails_to_import_costs_its_users_one_line(fresh: Environment):
    source = fresh.home / "broken"
    source.mkdir()
    (source / "setup.cfg").write_text(BROKEN_CFG)
    (source / "pyproject.toml").write_text(BUILD)
    (source / "tinkex_broken.py").write_text("import a_module_that_is_not_installed\n")
    fresh.pip_install(source)

    stdout, stderr = fresh.run("tinkex", "broken", code=1)
    line, hint = stderr.splitlines()
    assert stdout == ""
    assert "the plugin tinkex-broken does not load" in line
    assert "No module named 'a_module_that_is_not_installed'" in line
    assert hint.startswith("Hint: ")

    stdout, stderr = fresh.run("tinkex", "config", "show")
    assert stdout.startswith("profile")
    assert len(stderr.splitlines()) == 1
    assert "tinkex-broken" in stderr
    assert fresh.run("tinkex", "version")[1] == ""
    listed = json.loads(fresh.run("tinkex", "plugin", "list", "-f", "json")[0])
    broken = [row for row in listed if row["distribution"] == "tinkex-broken"]
    assert len(broken) == 3
    assert all("a_module_that_is_not_installed" in row["error"] for row in broken)
