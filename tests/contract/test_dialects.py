"""Every command against every dialect: it works, or says in one sentence what is not offered."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tinkex_local
from tests.contract.dialects.account import KEY, MODEL, Account
from tests.contract.dialects.official import Official
from tests.contract.dialects.scenarios import AS_ANOTHER, DIALECTS, OFFLINE, SCENARIOS
from tests.contract.dialects.skyrl import SkyRL, SkyRLMain
from tests.contract.dialects.tuft import TuFT
from tests.contract.dialects.wire import listening
from tinkex.api import ServiceClient
from tinkex.cli.app import TinkexApp
from tinkex.testing import Invocation, invoke, local_service

SCRIPTED: dict[str, type[Account]] = {
    "official": Official,
    "skyrl": SkyRL,
    "skyrl_main": SkyRLMain,
    "tuft": TuFT,
}
COMMANDS = set(TinkexApp().command_manager.commands)
TOKENIZER = Path(tinkex_local.__file__).parent / "models" / "baker-street-2M"
LOCAL_MODEL = "tinkex/baker-street-2M"


Speaker = Callable[..., Invocation]


@contextmanager
def scripted(name: str, names: dict[str, str], tmp_path: Path) -> Iterator[list[str]]:
    """Run a scripted server, add its things to *names*, and yield the options that lead to it."""
    server = SCRIPTED[name]()
    server.saved[0].public = True
    if isinstance(server, TuFT):
        (tmp_path / "host").mkdir()
        server.directory = tmp_path / "host"  # type: ignore[misc]
    with listening(server) as url:
        names |= {"run": server.run, "training": server.training, "sampler": server.sampling}
        names |= {"session": server.session, "model": MODEL, "new_run": server.new_run}
        yield ["--base-url", url, "--api-key", KEY, "--timeout", "20s"]


@contextmanager
def local(names: dict[str, str], tmp_path: Path) -> Iterator[list[str]]:
    """Do the same with the embedded service."""
    with local_service(tmp_path / "home"), ServiceClient() as client:
        with client.create_lora_training_client(LOCAL_MODEL, rank=32) as training:
            first, second = training.save_state("final"), training.save_weights_for_sampler("final")
        client.checkpoints.publish(first.path)
        names |= {"run": training.model_id, "training": first.path, "sampler": second.path}
        names |= {"session": training.model_id.partition(":train:")[0], "model": LOCAL_MODEL}
        yield []


@contextmanager
def speaking(dialect: str, tmp_path: Path) -> Iterator[tuple[Speaker, dict[str, str]]]:
    """Run a server of *dialect*; yields a function that runs a command, and the names of things."""
    names = {"tmp": str(tmp_path), "key": KEY, "tokenizer": str(TOKENIZER)}
    for name, text in (
        ("tokens", "[5, 6, 7]"),
        ("prompts", '{"id": "one", "tokens": [5, 6, 7]}\n'),
        ("rows", '{"text": "one two three"}\n'),
    ):
        names[name] = str(tmp_path / f"{name}.jsonl")
        Path(names[name]).write_text(text)
    own = local(names, tmp_path) if dialect == "local" else scripted(dialect, names, tmp_path)
    with own as options:

        def speak(line: str, stdin: str = "") -> Invocation:
            return invoke([w.format(**names) for w in shlex.split(line)] + options, stdin=stdin)

        yield speak, names


def command_of(row: str) -> str:
    """Return the command of a row: what stands before a parenthesis."""
    return row.partition(" (")[0]


def matches(text: str, wanted: str) -> bool:
    if wanted.startswith("re:"):
        return re.fullmatch(wanted.removeprefix("re:"), text) is not None
    return text == wanted


def filled(text: str, names: dict[str, str]) -> str:
    """Return *text* with the names of things; braces of other kinds stay."""
    return re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], found[0]), text)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", [row for row in SCENARIOS if command_of(row) in COMMANDS])
def test_command(name: str, dialect: str, tmp_path: Path):
    scenario = SCENARIOS[name]
    with speaking(dialect, tmp_path) as (speak, names):
        done = speak(scenario.words, filled(scenario.stdin, names))
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout
    if dialect in scenario.refused:
        operation = scenario.operation or command_of(name).capitalize()
        clause = filled(scenario.refused[dialect], names)
        first, hint = done.stderr.splitlines()[-2:]
        first = re.sub(r", request \w+\)$", ")", first)
        assert first == f"{operation} failed. Please check your inputs: {clause}"
        assert hint.startswith("Hint: ")
        assert (done.stdout, done.exit_code) == ("", 1)
        return
    wanted = filled(scenario.on.get(dialect, scenario.stdout), names)
    assert matches(done.stdout, wanted), (done.stdout, done.stderr)
    assert done.exit_code == scenario.code or scenario.code is None, done.stderr


def test_every_command_has_a_scenario():
    known = {*map(command_of, SCENARIOS), *OFFLINE, *AS_ANOTHER}
    dialects = {d for s in SCENARIOS.values() for d in (*s.on, *s.refused)}

    assert COMMANDS - known == set(), (
        "each command needs a row in SCENARIOS of tests/contract/dialects/scenarios.py, which says "
        "what it prints on each dialect, or, if it asks no server, in OFFLINE"
    )
    assert SCENARIOS.keys() & OFFLINE.keys() == set()
    assert set(AS_ANOTHER.values()) <= SCENARIOS.keys()
    assert dialects <= set(DIALECTS)


@pytest.mark.parametrize("dialect", SCRIPTED)
def test_saved_metadata_is_the_same_everywhere(dialect: str, tmp_path: Path):
    with speaking(dialect, tmp_path) as (speak, names):
        done = speak("checkpoint --base-model {model} --name x --output {tmp}/saved.json")
    assert done.exit_code == 0, done.stderr
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert saved["weights_path"] == f"tinker://{names['new_run']}/sampler_weights/x"
