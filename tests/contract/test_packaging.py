"""Built packages contain the right files and the commit of their own sources."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_entry_points import declared
from tinkex import __version__

ROOT = Path(__file__).resolve().parents[2]
#: Not part of the sources: made by tools, or ignored by git.
MADE = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "_commit.py"
)
GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=no"]


def environ(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "PYTHON", "TINKE"))}
    return kept | {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "SOURCE_DATE_EPOCH": "1700000000"}


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environ(cwd),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def commit_all(directory: Path) -> str:
    """Make *directory* a repository with one commit and return its hash."""
    run(*GIT, "init", "-q", cwd=directory)
    run(*GIT, "add", "-A", cwd=directory)
    run(*GIT, "commit", "-q", "-m", "everything", cwd=directory)
    return run(*GIT, "rev-parse", "HEAD", cwd=directory)


def build(kind: str, source: Path, out: Path) -> Path:
    """Build the ``wheel`` or ``sdist`` of *source*, as pip does, with what is installed here."""
    out.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return another project's repository, and the short hash of its commit."""
    directory = tmp_path_factory.mktemp("foreign")
    (directory / "theirs.txt").write_text("not ours\n")
    return directory, commit_all(directory)[:7]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a git clone of these sources, and the short hash of its commit."""
    place = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT, place / "origin", ignore=MADE)
    commit = commit_all(place / "origin")
    run("git", "clone", "-q", place / "origin", place / "clone", cwd=place)
    return place / "clone", commit[:7]


def built(kind: str, below: str = "") -> Any:
    """Return a fixture: the file built of the clone, or of a directory in it."""

    @pytest.fixture(scope="module")
    def file(clone: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
        return build(kind, clone[0] / below, tmp_path_factory.mktemp("built"))

    return file


wheel, sdist = built("wheel"), built("sdist")
local_wheel = built("wheel", "plugins/tinkex-local")


def names(path: Path) -> set[str]:
    """Return the files in a wheel, or in a source distribution without its top directory."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {name for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(path) as archive:
        return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}


def content(wheel: Path) -> set[str]:
    """Return the files in a wheel that are not its metadata."""
    return {name for name in names(wheel) if ".dist-info/" not in name}


def modules(package: Path) -> set[str]:
    found = {path.relative_to(package.parent).as_posix() for path in package.rglob("*.py")}
    return found - {f"{package.name}/_commit.py"}


def metadata(wheel: Path) -> PathDistribution:
    return PathDistribution(zipfile.Path(wheel, f"{wheel.name.rsplit('-', 3)[0]}.dist-info/"))


def entry_points(wheel: Path) -> set[tuple[str, str, str]]:
    return {(ep.group, ep.name, ep.value) for ep in metadata(wheel).entry_points}


def test_the_wheel_holds_the_package_and_what_describes_it(wheel: Path):
    found, text = content(wheel), str(metadata(wheel).read_text("METADATA"))
    templates = (ROOT / "tinkex" / "templates").rglob("*.in")
    data = {path.relative_to(ROOT).as_posix() for path in templates}

    assert {name for name in found if not name.startswith("tinkex/")} == set()
    assert modules(ROOT / "tinkex") | {"tinkex/py.typed"} <= found
    assert len(data) >= 9
    assert {name for name in found if not name.endswith((".py", "py.typed"))} == data
    assert ("console_scripts", "tinkex", "tinkex.__main__:main") in entry_points(wheel)
    assert entry_points(wheel) == declared(ROOT / "setup.cfg")[1]
    assert re.search(r"^License(-Expression)?: Apache-2.0$", text, re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8").strip()
    for part in ("License-File: LICENSE", "Requires-Python: >=3.11", readme):
        assert part in text
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names(wheel))


def test_the_sdist_can_build_the_package_and_leaves_out_what_is_not_of_it(sdist: Path):
    found = names(sdist)

    assert modules(ROOT / "tinkex") <= found
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "tinkex/py.typed"} <= found
    assert {n for n in found if n.startswith(("plugins/", "tests/", "benchmarks/"))} == set()


def test_the_local_wheel_holds_its_package_and_the_model(local_wheel: Path):
    found, source = content(local_wheel), ROOT / "plugins" / "tinkex-local"
    model = "tinkex_local/models/baker-street-2M"
    files = ("model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json")

    assert {name for name in found if not name.startswith("tinkex_local/")} == set()
    assert modules(source / "tinkex_local") <= found
    assert {"tinkex_local/py.typed", *(f"{model}/{file}" for file in files)} <= found
    # The export is for running; the weights it was made from are five times as large.
    assert {n for n in found if n.endswith((".safetensors", ".bin", ".pt")) or "/hf/" in n} == set()
    assert local_wheel.stat().st_size < 4_000_000
    assert entry_points(local_wheel) == declared(source / "setup.cfg")[1]


def version_in(cwd: Path, *options: str, **environment: str) -> str:
    """Return what ``tinkex version`` prints when it is run in *cwd*."""
    code = "import sys; from tinkex.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "version", *options],
        cwd=cwd,
        env=environ(cwd) | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit_of(wheel: Path, directory: Path, cwd: Path) -> str | None:
    """Return the commit that the program of *wheel* shows when it is run in *cwd*."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    commit: str | None = json.loads(version_in(cwd, "--json", PYTHONPATH=str(directory)))["commit"]
    return commit


def test_a_build_in_a_clone_has_its_commit_wherever_it_runs(
    clone: tuple[Path, str], wheel: Path, sdist: Path, foreign: tuple[Path, str], tmp_path: Path
):
    directory, commit = clone

    assert commit_of(wheel, tmp_path, directory) == commit
    assert commit_of(wheel, tmp_path, foreign[0]) == commit != foreign[1]
    # Building leaves no stamp in the sources.
    assert not (directory / "tinkex" / "_commit.py").exists()


def test_a_copy_without_git_has_no_commit_even_inside_another_repository(
    foreign: tuple[Path, str], tmp_path: Path
):
    source = foreign[0] / "vendor" / "tinkex"
    shutil.copytree(ROOT, source, ignore=MADE)

    copied = build("wheel", source, tmp_path / "out")

    assert "tinkex/_commit.py" not in names(copied)
    assert commit_of(copied, tmp_path / "run", foreign[0]) is None


def test_a_wheel_made_from_the_sdist_has_the_commit_of_the_sdist(
    clone: tuple[Path, str], sdist: Path, foreign: tuple[Path, str], tmp_path: Path
):
    with tarfile.open(sdist) as archive:
        archive.extractall(foreign[0] / "unpacked", filter="data")
    (source,) = (foreign[0] / "unpacked").iterdir()

    assert (
        commit_of(build("wheel", source, tmp_path / "out"), tmp_path / "run", foreign[0])
        == clone[1]
    )


def test_an_installation_from_the_sources_in_place_shows_no_commit(foreign: tuple[Path, str]):
    # This environment: the editable installation that the tests run.
    assert version_in(foreign[0]) == f"tinkex {__version__}\n"
