"""``tinkex plugin new``: names, and all files or none."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path

import pytest

from tinkex.commands.plugin import names_for, skeleton, write_files
from tinkex.exceptions import LocalError, UsageError
from tinkex.testing import invoke

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "package", "noun", "class_noun"),
    [
        ("tinkex-stats", "tinkex_stats", "stats", "Stats"),
        ("stats", "stats", "stats", "Stats"),
        ("tinkex-team-2", "tinkex_team_2", "team-2", "Team2"),
    ],
)
def test_names(name, package, noun, class_noun):
    names = names_for(name)
    assert (names["package"], names["noun"], names["Noun"]) == (package, noun, class_noun)


@pytest.mark.parametrize(
    "name",
    [
        *("", "-", "Tinkex-X", "a b", "a/b", "../a", "a--b", "a-", "1a", "tinkex-", "tinkex-1"),
        *("ä", "a_b", "a.b", "a" * 61, "class", "json", "tinkex", "yaml", "tinkex-local"),
    ],
)
def test_bad_names_are_refused_and_nothing_is_written(name, cwd):
    done = invoke(["plugin", "new", "--", name])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Plugin new failed. Please check your inputs: ")
    assert "Hint: " in done.stderr
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize("name", ["tinkex-table", "tinkex-json"])
def test_a_taken_format_is_refused(name, cwd):
    assert "already exists" in invoke(["plugin", "new", name]).stderr
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize("name", ["tinkex-stats", "tinkex-team-2"])
def test_every_file_is_valid_and_refers_to_what_there_is(name, cwd):
    done = invoke(["plugin", "new", name])
    assert (done.exit_code, done.stdout) == (0, f"Plugin {name} written to {name}\n")
    assert "pip install -e" in done.stderr
    root = cwd / name
    package = name.replace("-", "_")
    for path in root.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert "${" not in text, path
            assert text == "" or text.endswith("\n")
            assert all(len(line) <= 100 for line in text.splitlines()), path
        if path.suffix == ".py":
            compile(text, path, "exec")
    assert {p.name for p in root.iterdir()} == {
        ".gitignore", "README.md", "pyproject.toml", "setup.cfg", "tests", package
    }  # fmt: skip
    config = configparser.ConfigParser(delimiters="=")
    config.read(root / "setup.cfg")
    for group, lines in config["options.entry_points"].items():
        assert group.startswith("tinkex.")
        for line in lines.strip().splitlines():
            module, _, attribute = line.partition(" = ")[2].partition(":")
            tree = ast.parse((root / f"{module.replace('.', '/')}.py").read_text())
            assert attribute in {n.name for n in tree.body if isinstance(n, ast.ClassDef)}


def test_directory_may_be_elsewhere_new_or_empty(cwd):
    (cwd / "empty").mkdir()
    inode = (cwd / "empty").stat().st_ino
    for directory in ("empty", "a/b/c", str(cwd / "absolute")):
        done = invoke(["plugin", "new", "tinkex-x", "--directory", directory, "--json"])
        assert done.rows["directory"] == directory, done.stderr
        assert (cwd / directory / "tinkex_x" / "commands.py").is_file()
    assert (cwd / "empty").stat().st_ino == inode
    assert (cwd / "a" / "b" / "c").stat().st_mode & 0o777 == (cwd / "a").stat().st_mode & 0o777


def test_the_home_of_nobody_is_told(cwd):
    done = invoke(["plugin", "new", "tinkex-x", "--directory", "~no-such-user/x"])
    assert done.exit_code == 1
    assert "no such home directory" in done.stderr


def test_what_is_there_is_never_touched(cwd):
    (cwd / "full").mkdir()
    (cwd / "full" / "mine.txt").write_text("mine")
    (cwd / "file").write_text("mine")
    for directory, what in (("full", "is not empty"), ("file", "is a file"), ("file/x", "cannot")):
        done = invoke(["plugin", "new", "tinkex-x", "--directory", directory])
        assert (done.exit_code, done.stdout) == (1, "")
        assert what in done.stderr, done.stderr
    assert sorted(p.name for p in cwd.rglob("*")) == ["file", "full", "mine.txt"]


@pytest.mark.parametrize("target", ["new", "a/b/new", "empty"])
def test_a_failure_in_the_middle_leaves_nothing(target, cwd, monkeypatch):
    (cwd / "empty").mkdir()
    real, left = Path.write_text, [3]

    def failing(self, *args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(LocalError, match="No space left"):
        write_files(skeleton(names_for("tinkex-x")), cwd / target)
    assert [p.name for p in cwd.rglob("*")] == ["empty"]


def test_a_package_of_the_same_name_is_told():
    with pytest.raises(UsageError, match="already is a package"):
        names_for("requests")
