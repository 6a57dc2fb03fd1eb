"""Changing settings and profiles."""

from __future__ import annotations

import os
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
    done = invoke([*line.split(), *more], **options)
    assert done.exit_code == code, done
    return done


def test_every_setting_is_listed_with_what_it_is_for(path):
    rows = run("config show -f json").rows
    rows = [row for row in rows if not row["name"].startswith("http_pool.")]
    assert len(rows) == 10
    found = {row["name"]: row for row in rows}
    assert found["project_id"]["value"] == "p1"
    assert found["project_id"]["origin"] == "profile work"
    assert found["api_key"]["value"] == "tml-…6789"
    assert found["base_url"]["variable"] == "TINKER_BASE_URL"
    assert all(row["description"] for row in rows)


def test_get_prints_the_value_alone(path):
    assert run("config get base_url").stdout.startswith("https://")
    assert run("config get project_id").stdout == "p1\n"
    assert run("config get project_id --profile skyrl").stdout == "\n"
    assert run("--profile skyrl config get api_key_command").stdout == "echo tml-…6789\n"
    assert "choose from" in run("config get nope", code=1).stderr


def test_unset_where_a_profile_is_none(path):
    path.write_text("profiles: {a: 3}\n")
    assert (
        "profile a does not set timeout" in run("config unset timeout --profile a", code=1).stderr
    )
    assert path.read_text() == "profiles: {a: 3}\n"


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


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("tags", "a, b", ["a", "b"]),
        ("allow_http", "yes", True),
        ("allow_http", "false", False),
        ("base_url", "http://127.0.0.1:1/", "http://127.0.0.1:1"),
        ("timeout", "60000", "60000"),
        ("http_pool", "default", "default"),
        ("project_id", "007", "007"),
        ("api_key_command", "pass 'a b' # c", "pass 'a b' # c"),
    ],
)
def test_values_are_read_as_the_settings_read_them(config, name, value, written):
    path = config("profile: p\nprofiles: {p: {}}\n")
    run("config set", name, value)
    assert yaml.safe_load(path.read_text())["profiles"]["p"][name] == written
    run("config show")


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("timeout", "7x", "not a timeout"),
        ("base_url", "nope", "not a base URL"),
        ("base_url", "", "is empty"),
        ("allow_http", "perhaps", "neither true nor false"),
        ("http_pool", "nope", "no HTTP pool"),
        ("format", "nope", "no format"),
        ("api_key", "a b", "holds a space"),
        ("api_key", "-", "no API key in standard input"),
        ("api_key_command", "echo x", "has api_key, which is the same setting"),
        ("profile", "nope", "no profile is called 'nope'"),
        ("nope", "x", "choose from"),
    ],
)
def test_values_that_are_refused_change_nothing(path, name, value, what):
    done = run("config set", name, value, code=1)
    assert done.stdout == ""
    assert what in done.stderr
    assert path.read_text() == TEXT


def test_a_key_can_come_from_a_pipe(path):
    run("config set api_key -", stdin="tml-piped-0123456789\n")
    assert "tml-piped-0123456789" in path.read_text()


def test_the_first_setting_makes_a_profile(home):
    path = home / ".config" / "tinkex" / "config.yaml"
    done = run("config set format json")
    assert "Created the profile 'default'" in done.stderr
    assert path.read_text() == "profiles:\n  default:\n    format: json\nprofile: default\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_profile_that_comes_with_a_pool_keeps_its_pool(home):
    run("config set format json --profile local")
    rows = run("config show --profile local").rows
    assert {row["name"]: row["value"] for row in rows}["http_pool"] == "local"


def test_a_misspelt_profile_is_not_made(path):
    done = run("config set format json --profile wrok", code=1)
    assert "tinkex profile add wrok" in done.stderr
    assert path.read_text() == TEXT


def test_the_environment_that_comes_first_is_told(path):
    done = run("config set format table", environ={"TINKEX_FORMAT": "yaml"})
    assert "TINKEX_FORMAT is set, and takes precedence" in done.stderr


@pytest.mark.parametrize("text", ["{", "[]", "profiles: [1]", "a: 1\n---\nb: 2\n"])
@pytest.mark.parametrize(
    "line", ["config set format json", "profile use local", "profile add x", "profile list"]
)
def test_a_damaged_file_is_told_and_kept(config, text, line):
    path = config(text)
    done = run(line, code=1)
    assert str(path) in done.stderr
    assert path.read_text() == text


def test_what_cannot_be_changed_in_its_place_is_left(config):
    text = "base: &b {format: json}\nprofile: a\nprofiles:\n  a: *b\n"
    path = config(text)
    done = run("config set timeout 5s", code=1)
    assert "cannot be changed without losing something" in done.stderr
    assert "profiles: a: timeout" in done.stderr
    assert path.read_text() == text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_to(path):
    path.parent.chmod(0o500)
    assert "cannot write" in run("config set format table", code=1).stderr
    path.parent.chmod(0o700)


def test_a_file_that_is_a_directory(home):
    (home / ".config" / "tinkex" / "config.yaml").mkdir(parents=True)
    assert "Is a directory" in run("config set format table", code=1).stderr


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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("config list", "config show"),
        ("profile show", "profile list"),
        ("auth list", "auth status"),
    ],
)
def test_a_verb_of_another_noun_gets_a_hint(old, new):
    assert f"Hint: Did you mean 'tinkex {new}'?" in run(old, code=1).stderr


def test_add_use_and_remove(path):
    done = run(
        "profile add gpu --base-url https://gpu:1 --api-key @KEY --timeout 5m".replace(
            "@KEY", "tml-gpu-0123456789"
        ),
        "--tags",
        "a,b",
        "--default-format",
        "table",
        "-f",
        "plain",
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
    assert "is active" in run("profile remove gpu --yes", code=1).stderr
    assert "--yes" in run("profile remove gpu --force", code=1).stderr
    run("profile remove gpu --force --yes")
    assert path.read_text() == TEXT.replace("profile: work\n", "")


def test_remove_asks_on_a_terminal(path):
    done = run("profile remove skyrl", stdin="n\n", terminal=True, code=1)
    assert "Remove the profile skyrl and the API key in it? [y/N]" in done.stderr
    assert path.read_text() == TEXT
    run("profile remove skyrl", stdin="y\n", terminal=True)
    assert "skyrl" not in path.read_text()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("profile add -", "not a name"),
        ("profile add a:b", "not a name"),
        ("profile add x --api-key k --api-key-command c", "use either"),
        ("profile add x --http-pool nope", "no HTTP pool"),
        ("profile add x --server nope", "choose from"),
        ("profile add x --base-url nope", "not a base URL"),
        ("profile use nope", "no profile is called"),
        ("profile remove nope", "no profile is called"),
        ("profile remove local", "a plugin provides it"),
    ],
)
def test_mistakes_about_profiles(path, line, what):
    done = run(line, code=1)
    assert what in done.stderr
    assert "Hint: " in done.stderr
    assert path.read_text() == TEXT


def test_a_default_profile_that_has_gone_can_be_mended(config):
    path = config("profile: gone\nprofiles:\n  a: {}\n")
    assert "'gone'" in run("config show", code=1).stderr
    assert "does not exist" in run("profile list").stderr
    run("profile use a")
    assert path.read_text().startswith("profile: a\n")
    run("config show")


def test_in_the_shell_use_is_for_the_shell(path, tmp_path):
    done = run("", stdin="profile use skyrl\nconfig get base_url\nconfig set timeout 9s\n")
    assert "http://127.0.0.1:8000" in done.stdout
    assert "For this shell only; for new ones too: config set profile skyrl" in done.stderr
    assert yaml.safe_load(path.read_text())["profile"] == "work"
    assert yaml.safe_load(path.read_text())["profiles"]["skyrl"]["timeout"] == "9s"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "profile remove a --yes --force",
            "profile: a\nx: &x {base_url: https://a.invalid}\nprofiles:\n  a: *x\n  b: {}\n",
        ),
        ("profile add c --use", "? profile\n: ? b\nprofiles: {b: {}}\n"),
    ],
)
def test_two_changes_of_the_file_are_one(config, line, text):
    """Where one of the two cannot be made, neither is."""
    path = config(text)
    assert "the file is unchanged" in run(line, code=1).stderr
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["gpu", "team/gpu"])
def test_a_file_with_keys_that_others_may_read_is_told(config, name):
    path = config(f"profiles: {{{name}: {{base_url: https://a.invalid, api_key: tml-a}}}}\n")
    path.chmod(0o644)
    assert f"{path} can be read by others (mode 0644)" in run("auth status --offline").stderr


@pytest.mark.parametrize(
    "words",
    [
        ["config", "set", "project_id", "p\udcff"],
        ["config", "set", "tags", "a,b\udcff"],
        ["config", "set", "base_url", "https://a\udcff.invalid"],
        ["profile", "add", "x", "--tags", "a\udcff"],
        ["config", "show", "--base-url", "https://a\udcff.invalid"],
    ],
)
def test_a_value_that_cannot_be_sent_is_not_kept(path, words):
    """Else every command that sends it would fail from then on."""
    done = run("-q", *words, code=1)
    assert "is not valid Unicode" in done.stderr
    assert path.read_text() == TEXT
