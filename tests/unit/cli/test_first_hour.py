"""The 25 most common mistakes of a first hour: one hint leads to the right command."""

from __future__ import annotations

import shlex

import pytest

from tinkex.cli.app import TinkexApp
from tinkex.testing import invoke

MISTAKES = {
    # Checkpoints
    "ls": "tinkex checkpoint list",
    "checkpoints": "tinkex checkpoint list",
    "checkpoint show tinker://r/weights/a": "tinkex checkpoint info",
    "checkpoint tinker://r/weights/a": "tinkex checkpoint info tinker://r/weights/a",
    "checkpoint latest": "tinkex checkpoint info @latest",
    "checkpoint save": "tinkex checkpoint --base-model MODEL --output FILE",
    "download @latest": "tinkex checkpoint download",
    "rm run-1:first": "tinkex checkpoint delete",
    # Sampling
    "run Hello there": "tinkex run --base-model MODEL --prompt 'Hello there'",
    "run Qwen/Qwen3-8B Hello": "tinkex run --base-model Qwen/Qwen3-8B --prompt TEXT",
    "run --base-model m Hello": "--prompt Hello",
    "run --base-model m --prompt Hello there": "--prompt 'Hello there'",
    "run --prompt Hello": "--base-model Qwen/Qwen3-8B; see 'tinkex model list'",
    "run --model m --prompt Hello": "--base-model",
    "generate": "tinkex run",
    "models": "tinkex model list",
    # Keys and settings
    "login": "tinkex auth login",
    "init": "tinkex auth login",
    "checkpoint list": "tinkex auth login",
    "config list": "tinkex config show",
    "use local": "tinkex profile use",
    # Options
    "run list -n 5": "--limit",
    "--limit 5 run list": "tinkex checkpoint list --limit 5",
    "checkpoint list --output json": "-f",
    # The shell
    "shell": "To start the interactive shell, run 'tinkex' without a command.",
}


def test_a_long_text_is_not_repeated_in_the_hint():
    for words in (["run", "x" * 201], ["run", "--base-model", "m", "x" * 201]):
        assert invoke(words).stderr.splitlines()[1].rstrip("?").endswith("--prompt TEXT")


def hint_after(typed: str) -> str:
    done = invoke(shlex.split(typed))
    assert (done.exit_code, done.stdout) == (1, "")
    _, hint = done.stderr.splitlines()
    return hint.removeprefix("Hint: ")


@pytest.mark.parametrize(("typed", "meant"), MISTAKES.items(), ids=MISTAKES)
def test_one_hint_leads_to_the_right_command(typed, meant):
    assert len(MISTAKES) == 25
    hint = hint_after(typed)
    assert meant in hint
    if meant.startswith("tinkex "):
        app = TinkexApp()
        factory, name, rest = app.command_manager.find_command(shlex.split(meant)[1:])
        known = factory(app, None, name).get_parser(name).option_strings()
        assert [word for word in rest if word[:2] == "--" and word not in known] == []


@pytest.mark.parametrize("verb", ["save", "create", "new", "add"])
def test_checkpoint_save_create_and_new_lead_to_the_command_that_saves(verb):
    meant = "tinkex checkpoint --base-model MODEL --output FILE"
    assert hint_after(f"checkpoint {verb} x") == f"Did you mean '{meant}'?"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("run Hello", "--prompt Hello"),
        ("run hello -v", "--prompt hello"),
        ("run Hello there --nope", "--prompt 'Hello there'"),
        ("run Hello", "Subcommands of 'run': run batch, "),
        ("run lst", "Did you mean 'tinkex run list'?"),
        ("run tinker://r/weights/a", "tinkex run --model-path tinker://r/weights/a --prompt TEXT"),
        ("run @latest Hello", "tinkex run --model-path @latest --prompt TEXT"),
        ("list", "tinkex checkpoint list"),
        ("@latest", "tinkex checkpoint info @latest"),
        ("logs run-1", "tinkex run watch"),
        ("status", "tinkex auth status"),
        ("set base_url x", "tinkex config set"),
        ("push a", "tinkex checkpoint push-hf"),
        ("checkpoint list 5", "Did you mean --limit 5?"),
        ("cost", "tinkex billing usage"),
        ("serve", "tinkex local serve"),
        ("train", "Subcommands of 'train': train sft."),
        ("finetune x", "Did you mean 'tinkex train sft'?"),
        ("eval x", "Did you mean 'tinkex score'?"),
        ("merge x", "Did you mean 'tinkex checkpoint export'?"),
        ("plugin install x", "pip install NAME"),
        ("upgrade", "pip install --upgrade tinkex"),
    ],
)
def test_other_words_that_are_no_command_here(typed, hint):
    assert hint in hint_after(typed)
