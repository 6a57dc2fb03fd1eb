"""Failing proxies, clock changes, unusual locales and file names."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

import tinkex.api
from tests.faults.commands import COMMANDS
from tests.faults.sample import sample
from tests.faults.test_matrix import KEY, LIMIT, assert_told, filled
from tests.functional.conftest import KEY as SERVED_KEY
from tests.functional.conftest import MODEL, Program
from tinkex.testing import invoke

# ------------------------------------------------------------------ proxies

REPRESENTATIVES = ("checkpoint list", "checkpoint download", "run", "run batch", "auth whoami")
_SECRET = "proxy-password"

Response = Callable[[socket.socket], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "proxied" in metafunc.fixturenames:
        cases = product(REPRESENTATIVES, product([*PROXIES, "dead"], ["http", "https"]))
        thorough = metafunc.config.getoption("--all-faults")
        metafunc.parametrize(("name", "proxied"), list(cases) if thorough else sample(cases, 1))


def _says(text: str) -> Response:
    return lambda connection: connection.sendall(text.replace("\n", "\r\n").encode())


def _silent(connection: socket.socket) -> None:
    connection.recv(1)  # until the client has had enough


PROXIES: dict[str, Response] = {
    "silent": _silent,
    "closing": lambda connection: None,
    "no-http": _says("\0\1\2 what is this\n\n"),
    "refusing": _says("HTTP/1.1 407 Proxy Authentication Required\nContent-Length: 0\n\n"),
    "lost": _says(
        "HTTP/1.1 502 Bad Gateway\nContent-Type: text/html\nContent-Length: 9\n\n<h1>502</"
    ),
    "forbidding": _says("HTTP/1.1 403 Forbidden\nContent-Length: 0\n\n"),
    "half": _says("HTTP/1.1 200 OK\nContent-Le"),
}


class Proxy:
    """Answers every request in one way, and keeps what it was sent."""

    def __init__(self, answer: Response) -> None:
        self.seen = b""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.seen += connection.recv(65536)
                self._answer(connection)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    running = []

    def start(name: str) -> Proxy:
        running.append(Proxy(PROXIES[name]))
        return running[-1]

    yield start
    for each in running:
        each.close()


def test_a_bad_proxy_is_told(name, proxied, proxy, tmp_path, monkeypatch, config, naps):
    kind, scheme = proxied
    monkeypatch.chdir(tmp_path)
    config(f"profiles: {{far: {{base_url: '{scheme}://tinker.example', allow_http: true}}}}")
    running = None if kind == "dead" else proxy(kind)
    address = running.address if running else "127.0.0.1:9"
    words = filled(COMMANDS[name].words, "tinker://run/weights/name", "run")
    done = invoke(
        [*words, "--profile", "far", "--api-key", KEY, "--timeout", f"{LIMIT:g}s"],
        environ={f"{scheme.upper()}_PROXY": f"http://me:{_SECRET}@{address}"},
    )
    assert_told(done, COMMANDS[name], tmp_path)
    assert _SECRET not in done.stderr
    assert KEY not in done.stderr
    if running:
        assert b"tinker.example" in running.seen  # it was asked
        # Over https it is a tunnel that it is asked for, and it sees nothing else.
        assert (KEY.encode() in running.seen) is (scheme == "http")


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_a_proxy_that_is_not_for_this_server_is_not_asked(variable, proxy):
    asked = proxy("lost")
    done = invoke(
        ["run", "list", "--base-url", "https://tinker.invalid", "--api-key", KEY],
        environ={"HTTPS_PROXY": f"http://{asked.address}", variable: ".invalid"},
    )
    assert done.exit_code == 1
    assert "tinker.invalid" in done.stderr
    assert asked.seen == b""


def test_the_server_of_this_machine_is_asked_without_a_proxy(service, proxy):
    asked = proxy("lost")
    done = invoke(
        ["run", "list", "--base-url", service.url, "--api-key", SERVED_KEY],
        environ=dict.fromkeys(("HTTP_PROXY", "ALL_PROXY"), f"http://{asked.address}"),
    )
    assert done.exit_code == 0, done
    assert asked.seen == b""


# ------------------------------------------------------------------ a clock that jumps


def test_no_wait_follows_the_clock_on_the_wall():
    """Deadlines and pauses are measured by a clock that cannot be set."""
    package = Path(tinkex.api.__file__).parent
    found = [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if "time.time(" in path.read_text(encoding="utf-8")
    ]
    # A Retry-After may be a date.
    assert found == ["http/retry.py"]


# ------------------------------------------------------------------ locales, and names of files

#: A space, a colon, a letter, a byte that is no UTF-8, and a line break.
NAME = os.fsdecode(b"a b:\xc3\xbc\xff\nc")
LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "UTF-8": {"LC_ALL": "C.UTF-8"},
}


@pytest.fixture(params=LOCALES)
def odd(request, service, tmp_path) -> tuple[Program, Path]:
    """Return the program in a locale, and a directory with an odd name, which is its home."""
    place = tmp_path / NAME
    place.mkdir()
    (place / "prompt.txt").write_bytes("Watson ü\r\nsaid\r\n".encode())
    (place / "rows.jsonl").write_bytes(b'{"prompt": "a"}\r\n{"prompt": "\xc3\xbc"}\r\n')
    inside = {name: str(place) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    ours = {"TINKER_BASE_URL": service.url, "TINKER_API_KEY": SERVED_KEY}
    return Program({**ours, **inside, **LOCALES[request.param]}), place


def test_files_of_any_name_in_any_locale(odd):
    program, place = odd

    def run(line: str) -> str:
        words = [word.replace("{}", str(place)) for word in line.split()]
        done = program(*words, cwd=place)
        return done.stdout + done.stderr

    run(f"checkpoint --base-model {MODEL} --rank 1 --output {{}}/saved.json")
    path = json.loads((place / "saved.json").read_text(encoding="utf-8"))["weights_path"]
    sample = f"--base-model {MODEL} --max-tokens 2"
    run(f"run {sample} --prompt-file {{}}/prompt.txt --output {{}}/out.txt")
    assert (place / "out.txt").exists()
    run(f"run batch {{}}/rows.jsonl {sample} --output {{}}/rows.out.jsonl")
    assert len((place / "rows.out.jsonl").read_bytes().splitlines()) == 2
    run(f"checkpoint download {path} --output {{}}/adapter")
    assert "adapter_model.safetensors" in run("checkpoint verify {}/adapter -f json")
    run("billing checkpoint-storage --csv {}/storage.csv --log-file {}/log.txt")
    run("config set timeout 60s")
    assert "60s" in (place / "tinkex" / "config.yaml").read_text(encoding="utf-8")
    run("plugin new tinkex-odd --directory {}/plugin")


def test_what_is_not_there_is_named_harmlessly(odd):
    program, place = odd
    for words in (
        ("run", "--base-model", MODEL, "--prompt-file", f"{place}/no.txt"),
        ("checkpoint", "verify", f"{place}/no"),
        ("run", "batch", f"{place}/no.jsonl", "--base-model", MODEL),
        ("run", "list", "-f", "json", "--api-key", f"@{place}/no"),
    ):
        done = program(*words, code=1)
        assert done.stdout == ""
        assert "a b:" in done.stderr


def test_line_ends_of_windows_are_line_ends(odd):
    """The prompt is the same text whichever way its lines end."""
    program, place = odd
    sample = f"run --base-model {MODEL} --max-tokens 4 --seed 1 --temperature 0 --json"
    (place / "unix.txt").write_text("Watson ü\nsaid\n", encoding="utf-8")
    told = [
        program(sample, "--prompt-file", place / name).rows for name in ("prompt.txt", "unix.txt")
    ]
    sequences = [[sequence["tokens"] for sequence in each["sequences"]] for each in told]
    assert sequences[0] == sequences[1]
