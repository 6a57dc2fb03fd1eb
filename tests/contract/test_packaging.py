"""What is built holds the right files, and knows the commit of its own sources and no other."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

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


def build_wheel(source: Path, out: Path) -> Path:
    # Without isolation nothing is fetched; an old setuptools does not know our metadata.
    new_enough = int(version("setuptools").partition(".")[0]) >= 77
    options = ["--no-build-isolation", "--no-index"] if new_enough else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *options, "-w", out, source]
    run(*command, cwd=source)
    (wheel,) = out.glob("*.whl")
    return wheel


def build_sdist(source: Path, out: Path) -> Path:
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (sdist,) = out.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return somebody else's repository, and the short hash of its commit."""
    directory = tmp_path_factory.mktemp("foreign")
    (directory / "theirs.txt").write_text("not ours\n")
    return directory, commit_all(directory)[:7]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a git clone of these sources, and the hash of its commit."""
    place = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT, place / "origin", ignore=MADE)
    commit = commit_all(place / "origin")
    run("git", "clone", "-q", place / "origin", place / "clone", cwd=place)
    return place / "clone", commit


@pytest.fixture(scope="module")
def wheel(clone: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel built in the clone."""
    return build_wheel(clone[0], tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(clone: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the source distribution built in the clone."""
    return build_sdist(clone[0], tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def local_wheel(clone: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return tinkex-local's wheel built in the clone."""
    return build_wheel(clone[0] / "plugins" / "tinkex-local", tmp_path_factory.mktemp("local"))


def names(path: Path) -> set[str]:
    """Return the files in a wheel, or in a source distribution without its top directory."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {name for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(path) as archive:
        return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [n for n in archive.namelist() if n.endswith(f".dist-info/{name}")]
        return archive.read(entry).decode()


def modules(package: Path) -> Iterator[str]:
    for path in package.rglob("*.py"):
        if path.name != "_commit.py":
            yield path.relative_to(package.parent).as_posix()


def declared(text: str) -> set[tuple[str, str, str]]:
    """Return the entry points (group, name, value) of an ``entry_points.txt``."""
    config = configparser.ConfigParser(interpolation=None, delimiters="=")
    config.read_string(text)
    return {
        (group, name, config[group][name]) for group in config.sections() for name in config[group]
    }


def declared_in_sources(setup_cfg: Path) -> set[tuple[str, str, str]]:
    config = configparser.ConfigParser(interpolation=None, delimiters="=")
    config.read(setup_cfg, encoding="utf-8")
    groups = config["options.entry_points"].items()
    return declared("\n".join(f"[{group}]\n{lines}" for group, lines in groups))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path):
    found = {name for name in names(wheel) if ".dist-info/" not in name}

    assert {name for name in found if not name.startswith("tinkex/")} == set()
    assert set(modules(ROOT / "tinkex")) <= found
    assert "tinkex/py.typed" in found
    templates = (ROOT / "tinkex" / "templates").rglob("*.in")
    data = {path.relative_to(ROOT).as_posix() for path in templates}
    assert len(data) >= 9
    assert {name for name in found if not name.endswith((".py", "py.typed"))} == data


def test_the_wheel_has_every_entry_point_and_the_console_script(wheel: Path):
    found = declared(metadata(wheel, "entry_points.txt"))

    assert ("console_scripts", "tinkex", "tinkex.__main__:main") in found
    assert found == declared_in_sources(ROOT / "setup.cfg")


def test_the_wheel_tells_its_licence_and_its_description(wheel: Path):
    text = metadata(wheel, "METADATA")

    assert re.search(r"^License(-Expression)?: Apache-2.0$", text, re.MULTILINE)
    assert "License-File: LICENSE" in text
    assert "Requires-Python: >=3.11" in text
    assert (ROOT / "README.md").read_text(encoding="utf-8").strip() in text
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names(wheel))


def test_the_sdist_can_build_the_package_and_leaves_out_what_is_not_of_it(sdist: Path):
    found = names(sdist)

    assert set(modules(ROOT / "tinkex")) <= found
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "tinkex/py.typed"} <= found
    assert {n for n in found if n.startswith(("plugins/", "tests/", "benchmarks/"))} == set()


def test_the_local_wheel_holds_its_package_and_the_model(local_wheel: Path):
    found = {name for name in names(local_wheel) if ".dist-info/" not in name}
    model = "tinkex_local/models/baker-street-2M"
    files = ("model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json")

    assert {name for name in found if not name.startswith("tinkex_local/")} == set()
    assert set(modules(ROOT / "plugins" / "tinkex-local" / "tinkex_local")) <= found
    assert {"tinkex_local/py.typed", *(f"{model}/{file}" for file in files)} <= found
    # The export is for running; the weights it was made from are five times as large.
    assert {n for n in found if n.endswith((".safetensors", ".bin", ".pt")) or "/hf/" in n} == set()
    assert local_wheel.stat().st_size < 4_000_000
    assert declared(metadata(local_wheel, "entry_points.txt")) == declared_in_sources(
        ROOT / "plugins" / "tinkex-local" / "setup.cfg"
    )


def version_of(wheel: Path, directory: Path, cwd: Path) -> dict[str, str | None]:
    """Return what ``tinkex version --json`` of *wheel* says when it is run in *cwd*."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    code = "import sys; from tinkex.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "version", "--json"],
        cwd=cwd,
        env=environ(directory) | {"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, str | None] = json.loads(done.stdout)
    return told


def test_a_build_in_a_clone_has_its_commit(clone: tuple[Path, str], wheel: Path, tmp_path: Path):
    commit = clone[1][:7]

    assert len(commit) == 7
    assert version_of(wheel, tmp_path, clone[0])["commit"] == commit
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("tinkex/_commit.py").decode() == f'COMMIT = "{commit}"\n'


def test_building_leaves_no_stamp_in_the_sources(clone: tuple[Path, str], wheel: Path, sdist: Path):
    assert not (clone[0] / "tinkex" / "_commit.py").exists()


def test_the_program_never_shows_the_commit_of_the_directory_it_is_run_in(
    clone: tuple[Path, str], wheel: Path, foreign: tuple[Path, str], tmp_path: Path
):
    told = version_of(wheel, tmp_path, foreign[0])

    assert told["commit"] == clone[1][:7]
    assert told["commit"] != foreign[1]


def test_a_copy_without_git_has_no_commit_even_inside_another_repository(
    foreign: tuple[Path, str], tmp_path: Path
):
    source = foreign[0] / "vendor" / "tinkex"
    shutil.copytree(ROOT, source, ignore=MADE)
    (tmp_path / "out").mkdir()

    built = build_wheel(source, tmp_path / "out")

    assert "tinkex/_commit.py" not in names(built)
    assert version_of(built, tmp_path / "run", foreign[0])["commit"] is None


def test_a_wheel_made_from_the_sdist_has_the_commit_of_the_sdist(
    clone: tuple[Path, str], sdist: Path, foreign: tuple[Path, str], tmp_path: Path
):
    with tarfile.open(sdist) as archive:
        archive.extractall(foreign[0] / "unpacked", filter="data")
    (source,) = (foreign[0] / "unpacked").iterdir()
    (tmp_path / "out").mkdir()

    built = build_wheel(source, tmp_path / "out")

    assert version_of(built, tmp_path / "run", foreign[0])["commit"] == clone[1][:7]


def test_an_installation_from_the_sources_in_place_shows_no_commit(foreign: tuple[Path, str]):
    # This environment: the editable installation that the tests run.
    code = "import sys; from tinkex.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "version"],
        cwd=foreign[0],
        env=environ(foreign[0]),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"tinkex {__version__}\n"
