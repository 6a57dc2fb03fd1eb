"""API keys: where they come from, and the file of the official login, which loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinkex import files, settings
from tinkex.config import credentials
from tinkex.config.credentials import KeyStore, StoredKey
from tinkex.config.values import DEFAULT_BASE_URL
from tinkex.exceptions import LocalError, SettingsError, UsageError
from tinkex.testing import invoke

URL = "https://other.example"


@pytest.fixture
def store(home: Path) -> KeyStore:
    return KeyStore()


def key(key_id: str = "7", text: str = "tml-seven", **more) -> StoredKey:
    return StoredKey(key_id, text, **({"name": "laptop", "is_default": True} | more))


@pytest.mark.parametrize(
    ("stored", "profiles", "others"),
    [
        (True, "{}", f"{URL} (--base-url {URL})"),
        (False, "{w: {base_url: 'http://w', api_key: k}, x: {}}", "http://w (--profile w)"),
        (True, "{w: {api_key: k}}", f"{URL} (--base-url {URL}), {DEFAULT_BASE_URL} (--profile w)"),
    ],
)
def test_a_missing_key_names_the_addresses_that_have_one(stored, profiles, others, store, config):
    config(f"profiles: {profiles}")
    if stored:
        store.add(key("other:1", base_url=URL, is_default=False))
    error = invoke(["run", "list"]).stderr
    assert "Missing --api-key\n" in error
    login = "For this server, log in with 'tinkex auth login'."
    assert error.endswith(f"Servers with a key: {others}. {login}\n")


@pytest.mark.parametrize(
    ("options", "login"),
    [
        ([], "tinkex auth login"),
        (["--base-url", URL], f"tinkex --base-url {URL} auth login"),
        (["--profile", "a b"], "tinkex --profile 'a b' auth login"),
    ],
)
def test_the_hint_about_a_missing_key_logs_in_to_the_same_server(options, login, config):
    config("profiles: {a b: {timeout: 1s}}")
    assert f"Hint: Log in with '{login}' or" in invoke([*options, "run", "list"]).stderr


def test_a_key_is_written_as_the_official_login_writes_it(store):
    store.add(key(note="", organization="Example Org", email="a@example.org"))
    assert json.loads(store.path.read_text()) == {
        "version": 1,
        "default": "7",
        "keys": {
            "7": {
                "type": "manual",
                "key": "tml-seven",
                "name": "laptop",
                "note": "",
                "details": {
                    "org_details": {"name": "Example Org"},
                    "user_details": {"email": "a@example.org"},
                },
            }
        },
    }
    assert oct(store.path.stat().st_mode)[-3:] == "600"
    assert oct(store.path.parent.stat().st_mode)[-3:] == "700"
    store.add(key("8", email="a@example.org"))  # the official reader wants all details or none
    assert "details" not in json.loads(store.path.read_text())["keys"]["8"]


def test_other_keys_and_unknown_members_stay(store):
    content = {
        "version": 1,
        "later": [1],
        "default": "3",
        "keys": {"3": {"type": "manual", "key": "tml-three", "name": "x", "new": {"a": 1}}, "4": 5},
    }
    store.path.parent.mkdir()
    store.path.write_text(json.dumps(content))
    store.add(key(is_default=False))
    store.add(key("3", "tml-new", name="y"))
    found = json.loads(store.path.read_text())
    assert found["later"] == [1]
    assert found["keys"]["4"] == 5
    assert found["keys"]["3"] == {"type": "manual", "key": "tml-new", "name": "y", "new": {"a": 1}}
    store.remove("3")
    found = json.loads(store.path.read_text())
    assert set(found["keys"]) == {"4", "7"}
    assert "default" not in found


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"keys": []}', '{"version": 2}', "[" * 9999, "\xff"]
)
def test_a_file_that_cannot_be_parsed_is_never_written_over(store, text):
    store.path.parent.mkdir()
    store.path.write_text(text, encoding="latin-1")
    for change in (lambda: store.add(key()), lambda: store.remove("7"), store.all):
        with pytest.raises(SettingsError, match="cannot parse"):
            change()
    assert store.path.read_text(encoding="latin-1") == text
    assert store.for_address(URL, only_its_own=False) is None


def test_names_are_looked_up(store):
    for record in (key(), key("8", name="laptop"), key("9", name="7")):
        store.add(record)
    assert store.find("7").key_id == "7"
    with pytest.raises(UsageError, match="several") as caught:
        store.find("laptop")
    assert "7, 8" in caught.value.hint
    with pytest.raises(UsageError, match="no stored key"):
        store.find("x")


def test_a_key_of_another_server_is_sent_there_only(store):
    store.add(key())
    store.add(key("other:1", "tml-other", base_url=URL, is_default=False))
    assert store.for_address(settings.DEFAULT_BASE_URL, only_its_own=False).key == "tml-seven"
    assert store.for_address(URL, only_its_own=True).key == "tml-other"
    assert store.for_address("https://third.example", only_its_own=True) is None
    store.set_default("other:1")
    assert store.for_address(settings.DEFAULT_BASE_URL, only_its_own=False) is None


def test_the_official_key_is_not_sent_to_the_server_of_a_profile(store, config):
    config(f"profiles: {{p: {{base_url: '{URL}'}}, q: {{format: json}}}}")
    store.add(key())
    assert settings.resolve({"profile": "p"}).api_key is None
    assert settings.resolve({"profile": "q"}).api_key == "tml-seven"
    with pytest.raises(SettingsError) as caught:
        settings.resolve({"profile": "p"}).credential()
    assert "tinkex --profile p auth login" in caught.value.hint
    # An address without a profile gets the stored key, as with the official program.
    assert settings.resolve({"base_url": URL}).api_key == "tml-seven"


def test_a_link_to_the_file_is_followed_and_one_in_place_of_the_lock_is_not(store, tmp_path):
    store.path.parent.mkdir()
    store.path.symlink_to(tmp_path / "elsewhere.json")
    store.add(key())
    assert store.path.is_symlink()
    assert json.loads((tmp_path / "elsewhere.json").read_text())["default"] == "7"
    lock = store.path.with_name(".credentials.json.lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(tmp_path / "victim")
    with pytest.raises(LocalError, match="cannot write"):
        store.add(key())
    assert not (tmp_path / "victim").exists()


def test_a_lock_that_is_never_released_is_told(store, monkeypatch):
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.1)
    with files.locked(store.path), pytest.raises(LocalError, match="another tinkex process"):
        store.add(key())
    store.add(key())


_ASK = """
import sys
from tinkex.config import credentials
print(credentials.from_command("cat; echo tml-from-command"))
print(sys.stdin.read())
"""


def test_a_credential_command_does_not_eat_what_was_piped_to_the_program():
    words = [sys.executable, "-c", _ASK]
    done = subprocess.run(words, input="a prompt", capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["tml-from-command", "a prompt"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 3", "status 3"),
        ("true", "printed nothing"),
        ("sleep 20", "did not finish within 2 s"),
    ],
)
def test_a_credential_command_that_gives_no_key(command, message, monkeypatch):
    monkeypatch.setattr(credentials, "CREDENTIAL_COMMAND_TIMEOUT", 2 if "sleep" in command else 60)
    with pytest.raises(SettingsError, match=message):
        credentials.from_command(command)
