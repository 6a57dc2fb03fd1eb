"""Every shell example of README and manual, run as its reader would; tutorial and demonstration."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import examples
import numpy as np
import pictures
import pytest

from tinkex.testing import invoke
from tinkex_local.engines import onnx

PAGES = examples.pages()
#: Pages whose examples train with PyTorch.
TRAINING = {"doc/source/tutorial/fine-tune.rst", "doc/source/howto/test-training.rst"}
PLUGIN_TUTORIAL = examples.ROOT / "doc" / "source" / "tutorial" / "first-plugin.rst"
PLUGIN = examples.ROOT / "plugins" / "tinkex-hello"


def name(path: Path) -> str:
    return path.relative_to(examples.ROOT).as_posix()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> examples.World:
    return examples.World(tmp_path_factory.mktemp("sessions"))


def marked(page: Path) -> object:
    return pytest.param(page, marks=pytest.mark.train) if name(page) in TRAINING else page


@pytest.mark.parametrize("page", [marked(page) for page in PAGES], ids=map(name, PAGES))
def test_the_examples_run_and_print_what_is_shown(page: Path, world: examples.World):
    steps, home = examples.read(page).steps, name(page).replace("/", "-")
    assert examples.read(page).faults == ()

    results = world.session(steps, home)

    directory = world.directory / home
    assert [fault for ran in results if (fault := examples.fault(ran, directory))] == []


def test_each_exemption_has_a_reason():
    reasons = [reason for page in PAGES for _, reason in examples.read(page).exempt]

    assert all(len(reason.split()) >= 3 for reason in reasons)


BAD = """
.. code-block:: console

   no prompt, and no reason

.. code-block:: console

   $ tinkex version
   tinkex of another age
   $ tinkex checkpoint list --nope
   $ tinkex version --quiet
   …

.. not run: for the sake of this test

.. code-block:: bash

   exit 1
"""


def test_what_is_wrong_in_a_page_is_found(world: examples.World, tmp_path: Path):
    (tmp_path / "bad.rst").write_text(BAD)
    page = examples.read(tmp_path / "bad.rst")

    results = world.session(page.steps, "bad")

    assert page.faults == ("bad.rst:2: neither commands nor a reason",)
    assert page.exempt == ((16, "for the sake of this test"),)
    faults = [examples.fault(ran, world.directory / "bad") for ran in results]
    assert [bool(fault) for fault in faults] == [True, True, False]
    assert "tinkex of another age" in str(faults[0])
    assert "exit code 1" in str(faults[1])


def test_commands_are_shown_in_blocks_that_are_run():
    """A literal block or one of another language would escape."""
    escaped = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = (examples._MD_BLOCK if page.suffix == ".md" else examples._RST_BLOCK).finditer(text)
        spans = [m.span() for m in found if m["language"] in examples.SHELLS]
        at = 0
        for line in text.splitlines(keepends=True):
            inside = any(start <= at < end for start, end in spans)
            if line.strip().startswith(("$ ", "tinkex> ")) and not inside:
                escaped.append(f"{name(page)}: {line.strip()}")
            at += len(line)

    assert escaped == []


def test_sampled_text_is_the_same_on_every_processor(monkeypatch, tmp_path: Path):
    """Processors round differently: no token that is shown may be a close call."""
    margins = []

    def choose(logprobs, **options):
        second, first = np.sort(logprobs)[-2:]
        margins.append(first - second)
        return likeliest(logprobs, **options)

    likeliest = onnx.choose
    monkeypatch.setattr(onnx, "choose", choose)
    steps = [step for page in PAGES for step in examples.read(page).steps]
    shown = {step.shell for step in steps if "\nSample 1:\n" in step.shown}
    for line in {*shown, pictures.PICTURES["first-run"][-1]}:
        line = line.replace('--model-path "$checkpoint"', f"--base-model {pictures.MODEL}")
        environ = {"TINKEX_PROFILE": "local", "TINKEX_HTTP_POOL": ""}
        environ["TINKEX_LOCAL_HOME"] = str(tmp_path)
        assert invoke(shlex.split(line)[1:], environ=environ).exit_code == 0

    assert len(margins) >= 3 * 24
    assert min(margins) > 0.2


@pytest.mark.parametrize("picture", pictures.PICTURES)
def test_a_picture_shows_what_the_program_prints(world: examples.World, picture: str):
    shown = pictures.words((pictures.DIRECTORY / f"{picture}.svg").read_text("utf-8"))

    printed = pictures.transcript(world, picture)

    assert pictures.normal(shown) == pictures.normal(printed), "make pictures"


def test_every_picture_is_shown_and_every_shown_one_is_there():
    pages = [examples.ROOT / "README.md", *(examples.ROOT / "doc" / "source").rglob("*.rst")]
    shown = {
        (page.parent / path).resolve()
        for page in pages
        for path in re.findall(r"[\w./-]+\.svg", page.read_text("utf-8"))
    }

    assert shown == set(pictures.DIRECTORY.glob("*.svg"))


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


#: Each but the first silences onnxruntime; an ordinary user has none of them set.
UNUSUAL = (
    "TINKEX_HTTP_POOL",
    "ORT_DISABLE_TELEMETRY",
    "ORT_RUNNING_UNIT_TESTS",
    "CI",
    "GITHUB_ACTIONS",
    "TF_BUILD",
)


def test_the_demonstration_succeeds_and_leaves_nothing_behind(home: Path, tmp_path: Path):
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {k: v for k, v in os.environ.items() if k not in UNUSUAL}

    done = subprocess.run(
        ["bash", str(examples.ROOT / "doc" / "demo.sh")],
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
