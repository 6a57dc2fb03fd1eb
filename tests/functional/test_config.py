"""Changing settings and profiles."""

from __future__ import annotations

import re
import shlex
import stat
from pathlib import Path

import pytest
import yaml

from tinkex.testing import invoke

TEXT = """\
# written by hand
profile: work
profiles:
  work: {api_key: tml-work-0123456789, project_id: p1}  # mine
  skyrl:
    base_url: http://127.0.0.1:8000
    api_key_command: echo tml-skyrl-0123456789
"""


@pytest.fixture
def path(config) -> Path:
    return config(TEXT)


def run(line: str, *more: str, code: int = 0, **options):
    done = invoke([*shlex.split(line), *more], **options)
    assert done.exit_code == code, done
    return done


def test_every_setting_is_listed_with_what_it_is_for(path):
    rows = run("config show -f json").rows
    rows = [row for row in rows if "." not in row["name"]]
    assert len(rows) == 11
    found = {row["name"]: row for row in rows}
    assert found["project_id"]["value"] == "p1"
    assert found["project_id"]["origin"] == "profile work"
    assert found["api_key"]["value"] == "tml-…6789"
    assert found["base_url"]["variable"] == "TINKER_BASE_URL"
    assert all(row["description"] for row in rows)


def test_origins_are_shown_at_80_columns(path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    url = f"https://tinker.example/{'x' * 60}"
    done = run("config show --base-url", url, terminal=True)
    lines = [re.split("  +", line) for line in done.stdout.splitlines()]
    assert lines[0] == ["Name", "Origin", "Value"]
    assert ["base_url", "--base-url", url] in lines
    assert ["project_id", "profile work", "p1"] in lines
    assert done.stderr.startswith("Hidden (terminal too narrow): Variable, Description;")


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("api_key_command", "not set"),
        ("tags", "not set"),
        ("headers", "not set"),
        ("http_pool.client_cert", "not set"),
        ("timeout", "default"),
        ("allow_http", "default"),
        ("http_pool.insecure", "default"),
        ("project_id", "profile work"),
    ],
)
def test_a_setting_without_a_value_is_not_set(path, name, origin):
    assert {row["name"]: row["origin"] for row in run("config show -f json").rows}[name] == origin


def test_get_prints_the_value_alone(path):
    assert run("config get base_url").stdout.startswith("https://")
    assert run("config get project_id").stdout == "p1\n"
    assert run("config get project_id --profile skyrl").stdout == "\n"
    assert run("--profile skyrl config get api_key_command").stdout == "echo tml-…6789\n"


def test_set_and_unset_change_one_line(path):
    assert run("config set project_id p2").stdout == "Set project_id to p2 in profile work\n"
    assert path.read_text() == TEXT.replace("project_id: p1", "project_id: p2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    run("config set project_id p1")
    assert path.read_text() == TEXT
    done = run("config set timeout 5m --profile skyrl")
    assert path.read_text() == TEXT + "    timeout: 5m\n"
    assert done.stdout == "Set timeout to 5m in profile skyrl\n"
    run("config unset timeout --profile skyrl")
    assert path.read_text() == TEXT
    assert run("config unset project_id").stdout == "Removed project_id from profile work\n"
    assert "does not set format" in run("config unset format", code=1).stderr
    assert run("config unset profile").stdout == "Removed profile\n"
    assert "profile" not in yaml.safe_load(path.read_text())


def test_the_first_setting_makes_a_profile(home):
    path = home / ".config" / "tinkex" / "config.yaml"
    done = run("config set format json")
    assert "Created the profile 'default'" in done.stderr
    assert path.read_text() == "profiles:\n  default:\n    format: json\nprofile: default\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["{", "[]", "profiles: [1]", "a: 1\n---\nb: 2\n"])
def test_a_damaged_file_is_reported_and_kept(config, text):
    path = config(text)
    for line in ("config set format json", "profile use local", "profile add x", "profile list"):
        assert str(path) in run(line, code=1).stderr
        assert path.read_text() == text


# ---------------------------------------------------------------------- profiles


def test_profiles_are_listed_with_their_keys_masked(path):
    rows = run("profile list -f json").rows
    found = {row["name"]: row for row in rows}
    assert found["work"]["active"] is True
    assert found["work"]["api_key"] == "tml-…6789"
    assert found["work"]["project_id"] == "p1"
    assert found["skyrl"]["base_url"] == "http://127.0.0.1:8000"
    assert found["skyrl"]["api_key_command"] == "echo tml-…6789"
    assert found["local"]["http_pool"] == "local"
    assert "work\ttrue\thttps://" in run("profile list").stdout


def test_truth_values_of_profiles_are_listed_as_such(config):
    config(
        "profiles: {a: {allow_http: yes, timeout: 5000, http_pool: x}}\n"
        "http_pools: {x: {insecure: true}}\n"
    )
    row = next(row for row in run("profile list -f json").rows if row["name"] == "a")
    assert (row["allow_http"], row["timeout"]) == (True, "5000")
    assert row["http_pool_options"] == {"insecure": True}


def test_add_use_and_remove(path):
    done = run(
        "profile add gpu --base-url https://gpu:1 --api-key tml-gpu-0123456789 --timeout 5m "
        "--tags a,b --default-format table -f plain"
    )
    assert done.stdout == "Added the profile gpu\n"
    assert path.read_text().startswith(TEXT)
    assert yaml.safe_load(path.read_text())["profiles"]["gpu"] == {
        "base_url": "https://gpu:1",
        "api_key": "tml-gpu-0123456789",
        "timeout": "5m",
        "format": "table",
        "tags": ["a", "b"],
    }
    assert "already" in run("profile add gpu", code=1).stderr
    run("profile add gpu --server skyrl --force")
    assert yaml.safe_load(path.read_text())["profiles"]["gpu"] == {
        "base_url": "http://127.0.0.1:8000",
        "api_key": "tml-dummy",
    }
    assert run("profile use gpu -f plain").stdout == "Using the profile gpu\n"
    assert "cannot remove the active profile" in run("profile remove gpu --yes", code=1).stderr
    assert "--yes" in run("profile remove gpu --force", code=1).stderr
    assert "[y/N]" in run("profile remove gpu --force", stdin="n\n", terminal=True, code=1).stderr
    run("profile remove gpu --force --yes")
    assert path.read_text() == TEXT.replace("profile: work\n", "")


def test_a_default_profile_that_has_gone_can_be_mended(config):
    path = config("profile: gone\nprofiles:\n  a: {}\n")
    assert "'gone'" in run("config show", code=1).stderr
    assert "does not exist" in run("profile list").stderr
    run("profile use a")
    assert path.read_text().startswith("profile: a\n")
    run("config show")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config get nope", "choose from"),
        ("config list", "Did you mean 'tinkex config show'?"),
        ("profile show", "Did you mean 'tinkex profile list'?"),
        ("auth list", "Did you mean 'tinkex auth status'?"),
        ("config set timeout 7x", "not a timeout"),
        ("config set base_url ''", "is empty"),
        ("config set allow_http perhaps", "expected true or false, not"),
        ("config set http_pool nope", "no HTTP pool"),
        ("config set format nope", "no format"),
        ("config set api_key 'a b'", "contains whitespace"),
        ("config set api_key -", "no API key in standard input"),
        ("config set api_key_command 'echo x'", "already sets api_key, which conflicts with"),
        ("config set profile nope", "no profile named 'nope'"),
        ("config set nope x", "choose from"),
        ("config set format json --profile wrok", "tinkex profile add wrok"),
        ("config set project_id p\udcff", "is not valid Unicode"),
        ("config set tags a,b\udcff", "is not valid Unicode"),
        ("profile add x --tags a\udcff", "is not valid Unicode"),
        ("profile add -", "invalid profile name"),
        ("profile add x --api-key k --api-key-command c", "use either"),
        ("profile add x --http-pool nope", "no HTTP pool"),
        ("profile add x --server nope", "choose from"),
        ("profile use nope", "no profile named"),
        ("profile remove nope", "no profile named"),
        ("profile remove local", "comes from a plugin"),
    ],
)
def test_mistakes_change_nothing(path, line, message):
    done = run(line, code=1)
    assert done.stdout == ""
    assert message in done.stderr
    assert "Hint: " in done.stderr
    assert path.read_text() == TEXT


def test_what_cannot_be_changed_in_its_place_is_left(config):
    """``profile add --use`` makes two changes: where one cannot be made, neither is."""
    for text, line in (
        ("base: &b {format: json}\nprofile: a\nprofiles:\n  a: *b\n", "config set timeout 5s"),
        ("? profile\n: ? b\nprofiles: {b: {}}\n", "profile add c --use"),
    ):
        path = config(text)
        assert "tinkex did not change the file" in run(line, code=1).stderr
        assert path.read_text() == text
