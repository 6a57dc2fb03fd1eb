"""``--curl``: what would be sent, the key out of sight, nothing sent."""

from __future__ import annotations

import itertools
import shlex
import subprocess

import pytest

import tinkex
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.curl import command_line
from tinkex.exceptions import RequestShown
from tinkex.plugins import HttpRequest
from tinkex.testing import invoke

CANARY = "tml-canary-0123456789abcdef"
#: No server is there: a request would fail.
NOWHERE = ["--base-url", "http://127.0.0.1:9", "--api-key", CANARY]
PATH = "tinker://run/weights/a"

COMMANDS = [
    *("checkpoint list", "checkpoint info PATH", "checkpoint publish PATH"),
    *("checkpoint unpublish PATH", "checkpoint delete PATH"),
    *("checkpoint download PATH --output OUT", "checkpoint --base-model m --output OUT"),
    *('run --base-model m --prompt "it\'s a prompt"', "run list", "run info r"),
    *("model list", "session list", "session show s", "session search x"),
    *("session export-trace s", "billing usage --budget 5", "billing checkpoint-storage"),
    *("api DELETE training_runs/r/checkpoints/weights/a", "doctor"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_first_request_and_sends_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke([*shlex.split(command.replace("PATH", PATH)), "--curl", *NOWHERE])
    assert done.exit_code == 0, done
    lines = done.stdout.splitlines()
    assert lines
    for line in lines:
        assert shlex.split(line)[0] == "curl"
        assert "http://127.0.0.1:9/api/v1/" in line
    assert CANARY not in done.stdout + done.stderr
    assert "The request was not sent" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [True, False])
def test_it_may_stand_before_or_after_and_needs_no_key(before):
    words = ["--curl", "run", "list"] if before else ["run", "list", "--curl"]
    done = invoke(words)
    assert done.exit_code == 0
    assert '--header "X-API-Key: $TINKER_API_KEY"' in done.stdout
    assert "/api/v1/training_runs?limit=20&offset=0'" in done.stdout


def test_the_credential_command_does_not_run(tmp_path):
    ran = tmp_path / "ran"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_CREDENTIAL_CMD", f"touch {ran}; echo k")
        assert invoke(["run", "list", "--curl"]).exit_code == 0
    assert not ran.exists()


def test_no_question_is_left_out_where_nothing_is_sent(config):
    path = config("profiles: {work: {timeout: 30s}}")
    done = invoke(["profile", "remove", "work", "--curl"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "confirmation is required" in done.stderr
    assert "work" in path.read_text()


def test_a_command_that_sends_nothing_says_so():
    done = invoke(["config", "show", "--curl"])
    assert (done.exit_code, "This command does not send any requests" in done.stderr) == (0, True)


def test_from_python_the_lines_are_the_result():
    result = tinkex.run(["model", "list", "--curl"])
    assert result.value == result.stdout.splitlines()


BODIES = [
    b'{"a": "it\'s $HOME `id` \\n"}',
    '{"ü": "☃"}'.encode(),
    b"@file",
    b"\x00\xff\x01",
    b"",
    b"line\nbreak\t",
]


@pytest.mark.parametrize("body", BODIES)
def test_a_shell_hands_curl_exactly_the_request(body, tmp_path):
    """Run the line with a curl of our own that notes its arguments and standard input."""
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nfor a; do printf "%s\\0" "$a"; done > args\ncat > stdin\n')
    curl.chmod(0o755)
    headers = {"X-API-Key": CANARY, "X-Odd": "a'b $c"}
    request = HttpRequest("PUT", "https://h.test/a?x[]=1&y='z'", headers, body)
    line = command_line(request)
    assert CANARY not in line
    subprocess.run(
        line,
        shell=True,
        check=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TINKER_API_KEY": "from the shell"},
    )
    args = (tmp_path / "args").read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
    assert args[-1] == request.url
    headers = [after for word, after in itertools.pairwise(args) if word == "--header"]
    assert "X-API-Key: from the shell" in headers
    assert "X-Odd: a'b $c" in headers
    assert args[args.index("--request") + 1] == "PUT"
    if "--data-binary" in args:
        assert (tmp_path / "stdin").read_bytes() == body
    elif body:
        assert args[args.index("--data-raw") + 1].encode() == body


def test_requests_made_side_by_side_are_all_shown_in_order():
    def show(number: int) -> None:
        raise RequestShown(f"curl {number}")

    with pytest.raises(RequestShown) as caught:
        list(map_ordered(show, range(20)))
    assert caught.value.lines == tuple(f"curl {number}" for number in range(20))
