"""Where each setting comes from."""

from __future__ import annotations

import io
import os

import pytest

from tinkex import files, settings
from tinkex.config import credentials, file, values
from tinkex.exceptions import LocalError, SettingsError

DEFAULT_BASE_URL = values.DEFAULT_BASE_URL
URL = "https://host.example/path"


def test_defaults_are_those_of_the_official_service(monkeypatch):
    monkeypatch.delenv("TINKEX_HTTP_POOL")
    found = settings.resolve()
    assert found.base_url == "https://tinker.thinkingmachines.dev/services/tinker-prod"
    assert found.timeout == 120.0
    assert found.http_pool == "auto"
    assert found.profile is None
    assert found.origins == {}


def test_flag_beats_environment_beats_profile_beats_default(config):
    config("profile: p\nprofiles: {p: {base_url: 'http://127.0.0.1:1', timeout: 5s, format: csv}}")
    environ = {**os.environ, "TINKER_BASE_URL": "http://127.0.0.1:2", "TINKEX_FORMAT": "json"}
    found = settings.resolve({"base_url": "http://127.0.0.1:3"}, environ)
    assert (found.base_url, found.origins["base_url"]) == ("http://127.0.0.1:3", "--base-url")
    assert (found.format, found.origins["format"]) == ("json", "TINKEX_FORMAT")
    assert (found.timeout, found.origins["timeout"]) == (5.0, "profile p")


def test_profile_named_by_flag_beats_environment(config, monkeypatch):
    config("profiles: {skyrl: {base_url: 'http://127.0.0.1:8000', api_key: tml-dummy}}")
    monkeypatch.setenv("TINKER_API_KEY", "tml-the-real-one")
    monkeypatch.setenv("TINKER_BASE_URL", URL)
    found = settings.resolve({"profile": "skyrl"})
    assert found.base_url == "http://127.0.0.1:8000"
    assert found.credential() == "tml-dummy"
    monkeypatch.setenv("TINKEX_PROFILE", "skyrl")
    assert settings.resolve().base_url == URL


SKYRL = "base_url: 'https://gpu.example'"


@pytest.mark.parametrize(
    ("profile", "flags", "environ", "sent"),
    [
        (f"{SKYRL}, api_key: tml-dummy", {}, {}, "tml-dummy"),
        (f"{SKYRL}, api_key_command: printf from-command", {}, {}, "from-command"),
        (SKYRL, {}, {}, "tml-hosted"),  # there is no other
        (f"{SKYRL}, api_key: tml-dummy", {"api_key": "by-flag"}, {}, "by-flag"),
        # Named in the environment, or by an option: the server is not that of the profile.
        (f"{SKYRL}, api_key: tml-dummy", {}, {"TINKER_BASE_URL": URL}, "tml-hosted"),
        (f"{SKYRL}, api_key: tml-dummy", {"base_url": URL}, {}, "tml-hosted"),
        # Without an address of its own, or with that of the official service, it is no other server.
        ("api_key: tml-mine", {}, {}, "tml-hosted"),
        (f"base_url: '{DEFAULT_BASE_URL}', api_key: tml-mine", {}, {}, "tml-hosted"),
    ],
)
def test_a_profile_with_a_server_and_its_key_takes_none_of_the_environment(
    config, profile, flags, environ, sent
):
    config(f"profiles: {{gpu: {{{profile}}}}}")
    ours = {"TINKEX_PROFILE": "gpu", "TINKER_API_KEY": "tml-hosted"}
    assert settings.resolve(flags, {**os.environ, **ours, **environ}).credential() == sent
    config(f"profile: gpu\nprofiles: {{gpu: {{{profile}}}}}")
    del ours["TINKEX_PROFILE"]
    assert settings.resolve(flags, {**os.environ, **ours, **environ}).credential() == sent


@pytest.mark.parametrize(
    ("address", "environ", "warns"),
    [
        ("https://gpu.example", {"TINKER_API_KEY": "tml-hosted"}, True),
        ("https://gpu.example", {"TINKER_API_KEY": "another-form"}, False),
        ("https://gpu.example", {"TINKER_CREDENTIAL_CMD": "printf tml-hosted"}, False),
        ("http://127.0.0.1:8000", {"TINKER_API_KEY": "tml-hosted"}, False),
        (DEFAULT_BASE_URL, {"TINKER_API_KEY": "tml-hosted"}, False),
        (URL, {"TINKER_API_KEY": "tml-hosted", "TINKER_BASE_URL": URL}, False),
    ],
)
def test_a_key_that_may_go_to_the_wrong_server(config, address, environ, warns):
    config(f"profile: gpu\nprofiles: {{gpu: {{base_url: '{address}'}}}}")
    found = settings.stray_key(settings.resolve({}, {**os.environ, **environ}))
    assert (found is not None) is warns
    if found:
        assert "tinkex --profile gpu auth login" in found
        assert "tml-hosted" not in found


@pytest.mark.parametrize(
    ("flags", "environ", "expected", "origin"),
    [
        ({"api_key": "k1"}, {"TINKER_API_KEY": "k2"}, "k1", "--api-key"),
        ({}, {"TINKER_API_KEY": "k2", "TINKER_CREDENTIAL_CMD": "echo k3"}, "k2", "TINKER_API_KEY"),
        ({}, {"TINKER_CREDENTIAL_CMD": "printf k3"}, "k3", None),
        ({"api_key": "k1"}, {"TINKER_CREDENTIAL_CMD": "exit 1"}, "k1", "--api-key"),
        ({}, {"TINKER_API_KEY": "", "TINKER_CREDENTIAL_CMD": "echo k3"}, "k3", None),
    ],
)
def test_credential_sources(config, flags, environ, expected, origin):
    config("profile: p\nprofiles: {p: {api_key: from-profile}}")  # the environment precedes it
    found = settings.resolve(flags, {**os.environ, **environ})
    assert found.credential() == expected
    assert found.origins.get("api_key") == origin


def test_api_key_from_stdin_and_file(tmp_path):
    stdin = io.StringIO("tml-stdin\nrest\n")
    assert settings.resolve({"api_key": "-"}, stdin=stdin).credential() == "tml-stdin"
    assert stdin.read() == "rest\n"
    with pytest.raises(SettingsError, match="no API key in standard input"):
        settings.resolve({"api_key": "-"}, stdin=None)
    (tmp_path / "key").write_text("tml-file\n")
    assert settings.resolve({"api_key": f"@{tmp_path}/key"}).credential() == "tml-file"
    with pytest.raises(LocalError, match="cannot read the API key"):
        settings.resolve({"api_key": f"@{tmp_path}/none"})


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("http://host.example", True),
        ("http://10.0.0.1:8000", True),
        ("http://localhost.evil.example", True),
        ("http://127.0.0.1:8000", False),
        ("http://127.9.9.9", False),
        ("http://[::1]:1", False),
        ("http://localhost:1", False),
        ("https://host.example", False),
    ],
)
def test_key_does_not_travel_unencrypted(url, refused):
    found = settings.resolve({"api_key": "tml-x", "base_url": url})
    if refused:
        with pytest.raises(SettingsError, match="unencrypted"):
            found.credential()
    else:
        assert found.credential() == "tml-x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: [", "not valid YAML at line"),
        ("- a", "must be YAML mappings"),
        ("profiles: [a]", "must be YAML mappings"),
        ("profile: p\nprofiles: {p: {basurl: x}}", "unknown setting 'basurl'"),
        ("profile: p\nprofiles: {p: 3}", "must be a mapping"),
        (
            "profile: p\nprofiles: {p: {allow_http: 'yes'}}",
            "allow_http: expected true or false, not",
        ),
        ("profile: p\nprofiles: {p: {allow_http: 1}}", "expected true or false, not"),
        ("profile: p\nprofiles: {p: {tags: [a, ~]}}", "tags must be a list of strings"),
        ("profile: p\nprofiles: {p: {project_id: [a]}}", "project_id must be a string"),
        ("profile: p\nprofiles: {p: {timeout: 1:30}}", r"not a timeout: '1:30' \(from profile p\)"),
        ("profile: p\nprofiles: {p: {timeout: soon}}", r"not a timeout: 'soon' \(from profile p\)"),
        ("profile: nope", "no profile named 'nope'"),
    ],
)
def test_faults_of_the_configuration_file(config, text, message):
    config(text)
    with pytest.raises(SettingsError, match=message):
        settings.resolve()


@pytest.mark.parametrize(
    ("written", "setting", "value"),
    [
        ("api_key: 0123456701234567", "api_key", "0123456701234567"),
        ("timeout: 0120", "timeout", 0.12),
        ("tags: [yes, 1.10, 2026-01-02]", "tags", ("yes", "1.10", "2026-01-02")),
        ("project_id: 1e3", "project_id", "1e3"),
        ("project_id: 0x1F", "project_id", "0x1F"),
        ("api_key_command: no", "api_key_command", "no"),
        ("allow_http: yes", "allow_http", True),
        ("allow_http: False", "allow_http", False),
    ],
)
def test_a_value_is_what_is_written_and_not_what_yaml_takes_it_for(config, written, setting, value):
    config(f"profile: no\nprofiles: {{no: {{{written}}}}}")
    found = settings.resolve()
    assert (found.profile, getattr(found, setting)) == ("no", value)


def test_configuration_file_by_variable(tmp_path):
    (tmp_path / "c.yaml").write_text("profile: x\nprofiles: {x: {project_id: p1, tags: [a, b]}}")
    found = settings.resolve({}, {**os.environ, "TINKEX_CONFIG": str(tmp_path / "c.yaml")})
    assert (found.profile, found.project_id, found.tags) == ("x", "p1", ("a", "b"))


COMMAND = "profile: p\nprofiles: {p: {api_key_command: printf tml-from-command}}"
#: Who runs tinkex, with what environment, whose the file is, and its mode → why it is not trusted.
OWNERS = [
    (1000, {}, 1000, 0o644, None),
    (1000, {}, 0, 0o644, None),
    (0, {"SUDO_UID": "1000"}, 1000, 0o600, None),
    (1000, {}, 1000, 0o620, "other users can write to it"),
    (1000, {}, 0, 0o602, "other users can write to it"),
    (1000, {}, 1001, 0o600, "it belongs to another user"),
    (1000, {"SUDO_UID": "1001"}, 1001, 0o600, "it belongs to another user"),
    (0, {}, 1000, 0o600, "it belongs to another user"),
    (0, {"SUDO_UID": "1000"}, 1001, 0o600, "it belongs to another user"),
    (0, {"SUDO_UID": "odd"}, 1001, 0o600, "it belongs to another user"),
]


@pytest.mark.parametrize(("user", "environ", "owner", "mode", "reason"), OWNERS)
def test_whose_configuration_file_runs_a_command(monkeypatch, user, environ, owner, mode, reason):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.delenv("SUDO_UID", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    status = os.stat_result((0o100000 | mode, 0, 0, 1, owner, owner, 0, 0, 0, 0))
    assert files.why_not_trusted(status) == reason


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_others_can_write_does_not_run_its_command(config, tmp_path, linked):
    path = written = config(COMMAND)
    if linked:
        written = path.rename(tmp_path / "config.yaml")
        path.symlink_to(written)
    assert settings.resolve().credential() == "tml-from-command"
    written.chmod(0o666)
    with pytest.raises(SettingsError, match=f"command in {path}: other users can write to it"):
        settings.resolve().credential()
    # A key from elsewhere is as good as ever, and so is the rest of the file.
    assert settings.resolve({"api_key": "tml-x"}).credential() == "tml-x"
    assert settings.resolve().api_key_command == "printf tml-from-command"
    environ = {**os.environ, "TINKER_CREDENTIAL_CMD": "printf tml-y"}
    assert settings.resolve({}, environ).credential() == "tml-y"
    # A change does not make the command one of this user's.
    with pytest.raises(SettingsError, match=r"cannot change .*: it has an api_key_command"):
        file.write_setting("p", "format", "json")
    assert written.stat().st_mode & 0o777 == 0o666


def test_effective_masks_the_key():
    found = settings.resolve({"api_key": "tml-0123456789abcdef"})
    shown = {name: (value, origin) for name, value, origin in settings.effective(found)}
    assert shown["api_key"] == ("tml-…cdef", "--api-key")
    assert shown["timeout"] == ("120s", "default")
    assert "0123456789" not in repr(found)
    assert credentials.mask("short-key") == "…"


@pytest.mark.parametrize(("key", "warns"), [("tml-x", False), ("eyJx", False), ("sk-x", True)])
def test_odd_key_for_the_official_service_is_hinted_at_not_refused(key, warns):
    found = settings.resolve({"api_key": key})
    assert bool(found.key_warning()) is warns
    assert found.credential() == key
