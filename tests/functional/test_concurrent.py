"""Several tinkex processes that change the same file at the same time: each change stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.functional.conftest import MODEL, Program

EIGHT = range(8)


def together(program: Program, *command_lines: tuple[str, ...], cwd: Path) -> None:
    """Run all at once; each has to succeed."""
    processes = [program.start(*words, cwd=cwd) for words in command_lines]
    for process, words in zip(processes, command_lines, strict=True):
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, (words, stderr)


def test_eight_settings_and_eight_profiles(tinkex, config, tmp_path):
    path = config("# mine\nprofiles:\n  old: {timeout: 1s}  # stays\n")
    together(
        tinkex,
        *(("config", "set", "--profile", "old", name, value) for name, value in SETTINGS.items()),
        *(("profile", "add", f"new-{n}", "--base-url", f"https://s{n}.example") for n in EIGHT[:4]),
        cwd=tmp_path,
    )
    text = path.read_text()
    found = yaml.safe_load(text)["profiles"]
    assert "# mine\n" in text
    assert set(found) == {"old", *(f"new-{n}" for n in EIGHT[:4])}
    assert found["old"] == {"timeout": "1s", **SETTINGS}


SETTINGS = {"format": "json", "project_id": "p-1", "http_pool": "default", "api_key": "tml-1"}


def test_eight_keys_go_and_the_ninth_stays(tinkex, home, tmp_path):
    path = home / ".tinker" / "credentials.json"
    path.parent.mkdir()
    keys = {str(n): {"type": "manual", "key": f"tml-{n}", "name": f"n{n}"} for n in range(9)}
    path.write_text(json.dumps({"version": 1, "default": "8", "keys": keys, "other": "kept"}))
    path.chmod(0o600)
    together(tinkex, *(("auth", "logout", f"n{n}") for n in EIGHT), cwd=tmp_path)
    content = json.loads(path.read_text())
    assert content == {"version": 1, "default": "8", "keys": {"8": keys["8"]}, "other": "kept"}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("served", ["embedded"], indirect=True)
def test_four_checkpoints_in_one_embedded_service(served, tmp_path):
    save = ("checkpoint", "--base-model", MODEL, "--rank", "1", "--output")
    together(served, *((*save, f"{n}.json") for n in range(4)), cwd=tmp_path)
    paths = {json.loads((tmp_path / f"{n}.json").read_text())["weights_path"] for n in range(4)}
    listed = served("checkpoint list -f json").rows
    assert {row["tinker_path"] for row in listed} == paths
    assert len(paths) == 4
