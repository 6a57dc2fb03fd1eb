"""Logging in and out against the local service, and what of it can be seen."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.functional.conftest import KEY, Program, Service
from tests.functional.test_interactive import Terminal
from tests.serving import Reply, Request, serving
from tinkex.testing import invoke


@pytest.fixture
def at(service: Service) -> Program:
    """Return the program, set to the address of the service, without a key."""
    return Program({"TINKER_BASE_URL": service.url})


@pytest.fixture
def credentials(home: Path) -> Path:
    return home / ".tinker" / "credentials.json"


def test_login_use_and_logout(at, service, credentials):
    done = at("auth login --with-token --name here", stdin=f"{KEY}\n")
    assert done.stdout == (
        f"Logged in as local@localhost (tinkex-local): stored the key 'here' in {credentials}\n"
    )
    assert f"tinkex sends this key only to {service.url}." in done.stderr
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    at("run list -f json")  # the service takes it

    status = at("auth status -f json").rows
    (row,) = status["stored_keys"]
    assert (row["name"], row["in_use"], row["base_url"]) == ("here", True, service.url)
    assert status["key_origin"] == str(credentials)
    assert status["key_name"] == "local"
    assert status["latency_ms"] >= 0
    who = at("auth whoami -f json").rows
    assert who == {
        "email": "local@localhost",
        "organization": "tinkex-local",
        "user_urn": "tml:user:local",
        "org_urn": "tml:organization:tinkex-local",
        "key_name": "local",
        "key_id": "1",
    }
    # It is another server's key: the official one does not get it.
    assert "Missing --api-key" in at("auth status", code=1, TINKER_BASE_URL="").stderr

    assert at("auth logout").stdout == f"Removed the key 'here' from {credentials}\n"
    assert json.loads(credentials.read_text()) == {"version": 1, "keys": {}}
    assert "no key is stored" in at("auth logout", code=1).stderr


def test_a_profile_with_a_server_of_its_own_holds_its_key(tinkex, service, home, credentials):
    path = home / ".config" / "tinkex" / "config.yaml"
    assert "The profile has no key yet. To add a key: tinkex --profile mine auth login" in (
        tinkex(f"profile add mine --base-url {service.url}").stderr
    )
    path.write_text("# by hand\n" + path.read_text())
    path.chmod(0o644)
    done = tinkex("--profile mine auth login --with-token", stdin=KEY)
    assert f"stored the key 'local' in profile mine ({path})" in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == (
        f"# by hand\nprofiles:\n  mine:\n    base_url: {service.url}\n    api_key: {KEY}\n"
    )
    assert not credentials.exists()
    assert tinkex("--profile mine auth whoami").stdout.startswith("Email: local@")
    assert tinkex("--profile mine auth logout").stdout == (
        "Removed the key 'mine' from profile mine\n"
    )
    assert KEY not in path.read_text()


def write(path: Path, **keys: dict[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    records = {key_id: {"type": "manual"} | record for key_id, record in keys.items()}
    path.write_text(json.dumps({"version": 1, "default": "7", "keys": records}))


def test_switch_and_logout_by_name(credentials):
    write(
        credentials,
        **{"7": {"key": "tml-seven-0123456789", "name": "a"}},
        **{"8": {"key": "tml-eight-0123456789", "name": "b"}},
    )
    assert invoke(["auth", "switch", "b"]).stdout == "Using the key 'b'\n"
    assert json.loads(credentials.read_text())["default"] == "8"
    status = invoke(["auth", "status", "--offline", "-f", "json"]).rows
    rows = status["stored_keys"]
    assert [(row["name"], row["in_use"]) for row in rows] == [("a", False), ("b", True)]
    assert status["latency_ms"] is None
    lines = invoke(["auth", "status", "--offline"]).stdout.splitlines()
    assert lines[-1] == "Stored key: b (in use): tml-…6789, in ~/.tinker/credentials.json"
    done = invoke(["auth", "switch", "b"], environ={"TINKER_API_KEY": "x"})
    assert "The key in use comes from TINKER_API_KEY" in done.stderr
    done = invoke(["auth", "logout", "7"])
    assert done.stdout == f"Removed the key 'a' from {credentials}\n"
    assert "The key is still valid. To revoke it: https://" in done.stderr
    assert invoke(["auth", "logout", "--all", "-f", "json"]).rows[0]["key_id"] == "8"
    assert json.loads(credentials.read_text()) == {"version": 1, "keys": {}}
    assert "There are no stored keys." in invoke(["auth", "logout", "--all"]).stderr


def test_status_fits_80_columns_and_says_that_no_key_is_set(credentials):
    status = ["auth", "status", "--offline"]
    environ = {"COLUMNS": "80", "NO_COLOR": "1"}
    lines = invoke(status, terminal=True, environ=environ).stdout.splitlines()
    assert [line.split("|")[2].strip() for line in lines if line.startswith("| Key")][:2] == [
        "",
        "not set",
    ]
    assert invoke([*status, "-f", "json"]).rows["key_origin"] == "not set"
    write(
        credentials,
        **{"7": {"key": "tml-seven-0123456789", "name": "laptop"}},
        **{"8": {"key": "tml-eight-0123456789", "name": "cluster-of-the-lab"}},
    )
    environ |= {"TINKER_API_KEY": "tml-0123456789abcdef"}
    lines = invoke(status, terminal=True, environ=environ).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "| laptop: tml-…6789, in ~/.tinker/credentials.json " in lines[-3]
    assert "| cluster-of-the-lab: tml-…6789, in ~/.tinker/credentials.json " in lines[-2]


def test_the_key_is_shown_nowhere(service, tmp_path):
    log = tmp_path / "log"
    at = {"TINKER_BASE_URL": service.url}
    watched = ["--debug", "--log-file", str(log)]
    runs = [
        invoke(["profile", "add", "p", "--base-url", service.url, "--api-key", KEY, *watched]),
        invoke(["auth", "login", "--with-token", *watched], stdin=KEY, environ=at),
        *(invoke(["auth", verb, *watched], environ=at) for verb in ("status", "whoami", "logout")),
        *(
            invoke(["--profile", "p", *words, *watched])
            for words in (
                ["config", "show"],
                ["config", "get", "api_key", "-f", "json"],
                ["config", "set", "api_key", KEY],
                ["profile", "list", "-f", "json"],
                ["profile", "list", "-f", "csv"],
                ["auth", "status", "--offline", "-f", "yaml"],
            )
        ),
    ]
    assert [done.exit_code for done in runs] == [0] * len(runs)
    runs.append(
        invoke(["--profile", "p", "auth", "login", "--with-token", *watched], stdin="x" + KEY)
    )
    for done in runs:
        assert KEY not in done.stdout + done.stderr
        assert "eyJ" not in done.stdout + done.stderr
    assert KEY not in log.read_text()
    assert "eyJ" not in log.read_text()


@pytest.mark.parametrize(
    ("stdin", "options", "environ", "message"),
    [
        ("tml-wrong-0123456789", "--with-token", {}, "Invalid API key (HTTP 401"),
        ("", "--with-token", {}, "no API key in standard input"),
        ("", "", {}, "cannot ask for the key: standard input is not a terminal"),
        ("a b\n", "--with-token", {}, "contains whitespace"),
        (KEY, "--with-token --name ''", {}, "must not be empty"),
        (KEY, "--with-token --in-profile", {}, "no active profile"),
        (KEY, "--with-token --profile local", {"TINKER_BASE_URL": ""}, "does not require a key"),
        (KEY, "--with-token --profile p", {}, "profile p sets api_key_command"),
        *(
            (KEY, "--with-token", {name: "tml-env"}, f"{name} is set and would be used instead")
            for name in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD")
        ),
    ],
)
def test_login_that_fails_stores_nothing(at, config, credentials, stdin, options, environ, message):
    path = config("profiles: {p: {api_key_command: echo x}}\n")
    done = at(f"auth login {options}", stdin=stdin, code=1, **environ)
    assert done.stdout == ""
    assert message in done.stderr
    assert "Hint: " in done.stderr or "Nothing was stored." in done.stderr
    assert not credentials.exists()
    assert KEY not in path.read_text()


def test_a_server_without_information_about_keys(tinkex, credentials):
    def answer(request: Request) -> Reply:
        is_list = request.path.endswith("/training_runs")
        return Reply({"training_runs": []}) if is_list else Reply({"detail": "Not Found"}, 404)

    with serving(answer) as url:
        done = tinkex(f"auth login --with-token --base-url {url}", stdin="tml-anything-at-all")
        assert "This server provides no information about keys" in done.stderr
        assert "tml-anything-at-all" in credentials.read_text()
        assert tinkex(f"auth status --base-url {url} -f json").rows["email"] is None
        done = tinkex(f"auth whoami --base-url {url}", code=1)
        assert "this server does not offer information about keys" in done.stderr


def test_a_server_that_cannot_show_whether_it_accepts_the_key(tinkex):
    def answer(request: Request) -> Reply:
        is_open = request.path.endswith("/get_server_capabilities")
        return Reply({}) if is_open else Reply({"detail": "Not Found"}, 404)

    with serving(answer) as url:
        done = tinkex(f"auth status --base-url {url} --api-key tml-anything")
        assert "so tinkex cannot check whether this key is valid" in done.stderr


@pytest.mark.parametrize("shell", [False, True])
def test_the_question_shows_no_key_and_the_history_has_none(shell, service, credentials, home):
    terminal = Terminal(*([] if shell else ["auth", "login"]), TINKER_BASE_URL=service.url)
    try:
        if shell:
            terminal.expect("tinkex>")
            terminal.type("auth login\r")
        terminal.expect(f"API key for {service.url}: ")
        terminal.type(f"{KEY}\r")
        assert KEY not in terminal.expect("Logged in as local@localhost")
        if shell:
            terminal.expect("tinkex>")
            terminal.run("auth whoami", "local@localhost")
            terminal.type("exit\r")
        assert terminal.ended() == 0
    finally:
        terminal.close()
    assert KEY in credentials.read_text()
    history = home / ".local" / "state" / "tinkex" / "history"
    assert not shell or KEY not in history.read_text()
