"""Every command against every dialect: it works, or says in one sentence what is not offered."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contract.dialects.account import KEY, MODEL, Account
from tests.contract.dialects.official import Official
from tests.contract.dialects.scenarios import AS_ANOTHER, DIALECTS, OFFLINE, SCENARIOS
from tests.contract.dialects.skyrl import SkyRL, SkyRLMain
from tests.contract.dialects.tuft import TuFT
from tests.contract.dialects.wire import listening
from tinkex.cli.app import TinkexApp
from tinkex.testing import Invocation, invoke, local_service

SCRIPTED: dict[str, type[Account]] = {
    "official": Official,
    "skyrl": SkyRL,
    "skyrl_main": SkyRLMain,
    "tuft": TuFT,
}
COMMANDS = set(TinkexApp().command_manager.commands)
LOCAL_MODEL = "tinkex/baker-street-2M"


class Speaker:
    """A server of one dialect, and what stands for its things in a scenario."""

    def __init__(self, names: dict[str, str], options: list[str], server: Account | None) -> None:
        self.names, self.options, self.server = names, options, server

    def __call__(self, line: str, stdin: str = "") -> Invocation:
        words = [word.format(**self.names) for word in shlex.split(line)]
        return invoke([*words, *self.options], stdin=stdin)


@contextmanager
def scripted(name: str, tmp_path: Path) -> Iterator[Speaker]:
    server = SCRIPTED[name]()
    published = server.saved[0]
    published.public = True
    if isinstance(server, TuFT):
        (tmp_path / "host").mkdir()
        server.directory = tmp_path / "host"  # type: ignore[misc]
    with listening(server) as url:
        names = {"run": server.run, "training": server.training, "sampler": server.sampling}
        names |= {"published": published.path, "session": server.session, "model": MODEL}
        yield Speaker(names, ["--base-url", url, "--api-key", KEY, "--timeout", "20s"], server)


@contextmanager
def local(tmp_path: Path) -> Iterator[Speaker]:
    from tinkex.api import ServiceClient

    with local_service(tmp_path / "home"), ServiceClient() as client:
        with client.create_lora_training_client(LOCAL_MODEL, rank=32) as training:
            first, second = training.save_state("final"), training.save_weights_for_sampler("final")
        client.checkpoints.publish(first.path)
        names = {"run": training.model_id, "training": first.path, "sampler": second.path}
        names |= {"published": first.path, "model": LOCAL_MODEL}
        names["session"] = training.model_id.partition(":train:")[0]
        yield Speaker(names, [], None)


@contextmanager
def speaking(dialect: str, tmp_path: Path) -> Iterator[Speaker]:
    """Run a server of *dialect*, with files of its own below *tmp_path*."""
    tokens = tmp_path / "tokens.json"
    tokens.write_text("[5, 6, 7]")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "one", "tokens": [5, 6, 7]}\n')
    with local(tmp_path) if dialect == "local" else scripted(dialect, tmp_path) as found:
        found.names |= {"tmp": str(tmp_path), "tokens": str(tokens)}
        found.names |= {"prompts": str(prompts), "key": KEY}
        yield found


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
    with speaking(dialect, tmp_path) as speaker:
        done = speaker(scenario.words, filled(scenario.stdin, speaker.names))
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout
    if dialect in scenario.refused:
        operation = scenario.operation or command_of(name).capitalize()
        clause = filled(scenario.refused[dialect], speaker.names)
        first, hint = done.stderr.splitlines()[-2:]
        first = re.sub(r", request \w+\)$", ")", first)
        assert first == f"{operation} failed. Please check your inputs: {clause}"
        assert hint.startswith("Hint: ")
        assert (done.stdout, done.exit_code) == ("", 1)
        return
    wanted = filled(scenario.on.get(dialect, scenario.stdout), speaker.names)
    assert matches(done.stdout, wanted), (done.stdout, done.stderr)
    assert done.exit_code == scenario.code or scenario.code is None, done.stderr


def test_every_command_has_a_scenario():
    known = {*map(command_of, SCENARIOS), *OFFLINE, *AS_ANOTHER}

    assert COMMANDS - known == set(), (
        "each command needs a row in SCENARIOS of tests/contract/dialects/scenarios.py, which says "
        "what it prints on each dialect, or, if it asks no server, in OFFLINE"
    )


def test_a_command_has_one_row():
    assert SCENARIOS.keys() & OFFLINE.keys() == set()
    assert set(AS_ANOTHER.values()) <= SCENARIOS.keys()


def test_scenarios_name_dialects_that_exist():
    named = {d for s in SCENARIOS.values() for d in (*s.on, *s.refused)}

    assert named - set(DIALECTS) == set()


def test_saved_metadata_is_the_same_everywhere(tmp_path: Path):
    for dialect in SCRIPTED:
        (tmp_path / dialect).mkdir()
        with scripted(dialect, tmp_path / dialect) as speaker:
            done = speaker(
                f"checkpoint --base-model {MODEL} --name x --output {tmp_path}/{dialect}.json"
            )
        assert done.exit_code == 0, done.stderr
        saved = json.loads((tmp_path / f"{dialect}.json").read_text())
        assert speaker.server is not None
        assert saved["weights_path"] == f"tinker://{speaker.server.new_run}/sampler_weights/x"
