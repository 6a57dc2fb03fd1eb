"""The command line where configuration, environment or disk are odd."""

from __future__ import annotations

import pytest

from tinkex.cli.repl import history_path, load_history, save_line
from tinkex.testing import invoke


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A user whom the system gives no home directory, in an empty directory."""
    import pwd

    def nobody(*_: object) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("BASH_COMPLETION_USER_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)


def test_profiles_with_odd_names_and_nothing_inside(config):
    config("profiles: {1: {format: csv}, a: }")
    assert invoke(["config", "show", "--profile", "1"]).stdout.startswith('"name"')
    assert invoke(["config", "show", "--profile", "a"]).exit_code == 0


def test_log_file_on_a_full_disk_keeps_nobody_from_work():
    done = invoke(["config", "show", "--log-file", "/dev/full", "-vv"])
    assert done.exit_code == 0
    assert "Traceback" not in done.stderr


def test_credential_command_with_a_key_in_it_is_masked(monkeypatch):
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", "echo tml-0123456789abcdef")
    done = invoke(["config", "show"])
    assert "echo tml-…cdef" in done.stdout
    assert "0123456789" not in done.stdout


def test_a_key_that_may_go_to_the_wrong_server_is_told_once_and_only_where_it_goes(config):
    config("profile: gpu\nprofiles: {gpu: {base_url: 'https://gpu.invalid', timeout: 1s}}")
    environ = {"TINKER_API_KEY": "tml-hosted"}
    warning = "Warning: The key in TINKER_API_KEY is sent to https://gpu.invalid, the server of"

    sent = invoke(["checkpoint", "list", "--quiet"], environ=environ)
    assert sent.stderr.count(warning) == 1
    for words in (["config", "show"], ["checkpoint", "list", "--curl"]):
        assert warning not in invoke(words, environ=environ).stderr


def test_a_user_without_a_home_gets_no_directory_named_after_one(homeless, tmp_path):
    assert invoke(["config", "show"]).exit_code == 0
    done = invoke(["config", "set", "format", "json"])
    assert done.exit_code == 1
    assert "this user has no home directory" in done.stderr
    for shell in ("bash", "zsh", "fish"):
        done = invoke(["complete", "--shell", shell, "--install"])
        assert (done.exit_code, done.stdout) == (1, "")
        assert "Please check your inputs: no such home directo" in done.stderr
    save_line(history_path(), "run list")
    assert load_history(history_path()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """The current directory has been removed."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    yield
    monkeypatch.chdir(tmp_path)


def test_a_removed_directory_is_told_where_something_would_be_written(nowhere):
    argv = ["run", "--base-model", "m", "--prompt", "x", "--output", "file", "--api-key", "k"]
    done = invoke(argv)
    assert (done.exit_code, done.stdout) == (1, "")
    assert (
        "the current directory no longer exists\nHint: Change to another directory" in done.stderr
    )
