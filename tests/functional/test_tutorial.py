"""The tutorial of the plugin has all its files, and the demonstration works.

The commands of the tutorials are run with those of all pages: test_documented_examples.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGIN_TUTORIAL = ROOT / "doc" / "source" / "tutorial" / "first-plugin.rst"
PLUGIN = ROOT / "plugins" / "tinkex-hello"


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
