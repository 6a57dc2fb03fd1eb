"""The commands of the tutorial, run by bash as they stand in the manual."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "doc" / "source" / "tutorial" / "first-run.rst"
PLUGIN_TUTORIAL = TUTORIAL.with_name("first-plugin.rst")
PLUGIN = ROOT / "plugins" / "tinkex-hello"


def console_blocks(path: Path) -> list[list[str]]:
    """Return the lines of each ``console`` block of *path*."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"(?m)^\.\. code-block:: console\n\n((?:   .*\n|\n)+)", text)
    return [[line.strip() for line in block.splitlines() if line.strip()] for block in blocks]


def test_the_tutorial_runs_to_its_end_and_prints_what_it_shows(tmp_path: Path):
    install, *blocks = console_blocks(TUTORIAL)
    assert any(line.startswith("$ pip install") for line in install)
    commands = [line[2:] for block in blocks for line in block if line.startswith("$ ")]
    shown = [line for block in blocks for line in block if not line.startswith("$ ")]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=tmp_path,
        env=os.environ | {"PATH": programs},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert len(commands) >= 12
    assert set(shown) <= set(done.stdout.splitlines())
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    assert (tmp_path / "tutorial-service").is_dir()


def test_the_tutorial_of_the_plugin_shows_every_file_of_it():
    text = PLUGIN_TUTORIAL.read_text(encoding="utf-8")
    shown = re.findall(r"literalinclude:: (\S+)", text)
    files = {
        path.relative_to(PLUGIN).as_posix()
        for path in [*PLUGIN.glob("*.*"), *PLUGIN.glob("tinkex_hello/*.*"), *PLUGIN.glob("tests/*")]
        if path.is_file()
    }

    resolved = {(PLUGIN_TUTORIAL.parent / path).resolve() for path in shown}
    assert {path.relative_to(PLUGIN).as_posix() for path in resolved} == files - {
        "README.md",
        "tinkex_hello/py.typed",
    }
    assert "README.md" in text
    assert "py.typed" in text


def test_the_commands_of_the_plugins_tutorial_run(tmp_path: Path):
    lines = [line for block in console_blocks(PLUGIN_TUTORIAL) for line in block]
    commands = [line[2:] for line in lines if line.startswith("$ tinkex")]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=tmp_path,
        env=os.environ | {"PATH": programs, "TINKEX_LOCAL_HOME": str(tmp_path / "local")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert len(commands) == 4
    assert "Hello, Ada! Training runs: 0\n" in done.stdout
    assert "| Field | Value |\n" in done.stdout
    assert "timeout\t5" in done.stdout


#: Each of them silences onnxruntime; an ordinary user has none of them set.
SILENCERS = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "GITHUB_ACTIONS", "TF_BUILD")


def test_the_demonstration_succeeds_and_leaves_nothing_behind(home: Path, tmp_path: Path):
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {k: v for k, v in os.environ.items() if k not in SILENCERS}

    done = subprocess.run(
        ["bash", str(ROOT / "doc" / "demo.sh")],
        env=environ | {"PATH": programs, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, (done.stdout, done.stderr)
    steps = re.findall(r"(?m)^\$ tinkex (\w+(?: [a-z]+)?)", done.stdout)
    assert set(steps) == {
        "version",
        "checkpoint",
        "checkpoint list",
        "checkpoint info",
        "checkpoint publish",
        "checkpoint download",
        "checkpoint delete",
        "run",
    }
    assert done.stdout.count("Sample 2:") == 2
    assert done.stdout.endswith("$ tinkex checkpoint list -f json\n[]\n")
    # onnxruntime's own telemetry would leave an identifier and a queue of events here.
    assert list(tmp_path.iterdir()) == []
    assert [path for path in home.rglob("*") if path.is_file()] == []
