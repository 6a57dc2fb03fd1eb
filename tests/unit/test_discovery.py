"""Entry points among everything that is installed."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tinkex import plugins
from tinkex.plugins import entry_points

GROUP = "tinkex.commands"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only directory of the search path."""
    plugins.installed.cache_clear()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def install(place: Path, name: str, text: str | bytes) -> None:
    metadata = place / name
    metadata.mkdir(parents=True)
    project = name.partition("-")[0].partition(".")[0]
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1\n")
    content = text if isinstance(text, bytes) else text.encode()
    (metadata / "entry_points.txt").write_bytes(content)


def command(name: str) -> str:
    return f"[{GROUP}]\n{name} = {name}:Command\n"


def found(group: str = GROUP) -> list[str]:
    return sorted(entry_point.name for entry_point in entry_points(group))


@pytest.mark.parametrize("name", ["one-1.0.dist-info", "one.egg-info", "one-1-py3.11.egg-info"])
def test_every_form_of_metadata_is_read(place: Path, name: str):
    install(place, name, command("one"))

    assert found() == ["one"]


def test_an_entry_point_says_whose_it_is(place: Path):
    install(place, "one-1.0.dist-info", command("a"))

    (entry_point,) = entry_points(GROUP)

    assert (entry_point.group, entry_point.value) == (GROUP, "a:Command")
    assert entry_point.dist is not None
    assert entry_point.dist.name == "one"


def test_an_egg_is_read(place: Path, monkeypatch: pytest.MonkeyPatch):
    egg = place / "one-1.0-py3.11.egg"
    install(egg, "EGG-INFO", command("one"))
    monkeypatch.setattr(sys, "path", [str(egg)])

    assert found() == ["one"]


def test_an_archive_on_the_path_is_read(place: Path, monkeypatch: pytest.MonkeyPatch):
    archive = place / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("one-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: one\n")
        file.writestr("one-1.0.dist-info/entry_points.txt", command("one"))
    monkeypatch.setattr(sys, "path", [str(archive)])

    assert found() == ["one"]


@pytest.mark.parametrize("first", [command("new"), "[console_scripts]\nx = x:main\n"])
def test_the_first_distribution_of_a_name_counts(
    place: Path, monkeypatch: pytest.MonkeyPatch, first: str
):
    install(place / "before", "My_Plugin-2.dist-info", first)
    install(place / "after", "my.plugin-1.dist-info", command("old"))
    monkeypatch.setattr(sys, "path", [str(place / "before"), str(place / "after")])

    assert found() == (["new"] if "new" in first else [])


@pytest.mark.parametrize(
    "broken",
    [b"[tinkex.commands]\n\xff\xfe = x:Y\n", b"[tinkex.commands]\nno equals sign\n"],
)
def test_a_broken_file_costs_its_own_plugin_only(place: Path, broken: bytes):
    install(place, "bad-1.dist-info", broken)
    install(place, "good-1.dist-info", command("good"))

    assert "good" in found()


def test_what_is_no_directory_or_no_metadata_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    (place / "one-1.0.dist-info").write_text("a file")
    (place / "two-1.0.dist-info").mkdir()
    (place / "three").mkdir()
    (place / "no.zip").write_text("no archive")
    missing = [str(place / "missing"), str(place / "no.zip"), "", str(place)]
    monkeypatch.setattr(sys, "path", missing)
    monkeypatch.chdir(place)

    assert found() == []


def test_the_path_is_looked_at_once(place: Path, monkeypatch: pytest.MonkeyPatch):
    install(place, "one-1.0.dist-info", command("one"))
    assert found() == ["one"]
    install(place, "two-1.0.dist-info", command("two"))

    assert found() == ["one"]

    monkeypatch.setattr(sys, "path", [*sys.path, str(place / "more")])
    assert found() == ["one", "two"]


def test_a_caller_may_change_the_list(place: Path):
    install(place, "one-1.0.dist-info", command("one"))
    plugins.entry_points(GROUP).clear()

    assert found() == ["one"]


def test_it_finds_what_importlib_finds(monkeypatch: pytest.MonkeyPatch):
    from importlib.metadata import entry_points as all_entry_points

    monkeypatch.undo()
    plugins.installed.cache_clear()

    for group in all_entry_points().groups:
        if not group.startswith("tinkex."):
            continue
        theirs = {(ep.name, ep.value) for ep in all_entry_points(group=group)}
        assert {(ep.name, ep.value) for ep in entry_points(group)} == theirs
