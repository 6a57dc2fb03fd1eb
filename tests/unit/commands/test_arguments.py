"""The arguments that commands of plugins share with those of tinkex."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tinkex.testing import Invocation, invoke, local_service

ENTRIES = """
[tinkex.commands]
star_run = p_star:StarRun
star_one = p_star:StarOne
star_add = p_star:StarAdd
"""
COMMANDS = """
from tinkex.commands import arguments
from tinkex.commands.base import Lister, ShowOne

class StarRun(ShowOne):
    "Star a run."
    def add_arguments(self, parser):
        arguments.add_run(parser)
        parser.add_argument("--like", metavar="<tinker_path>", help="a checkpoint like it")
        parser.add_argument("--into", metavar="<dir>", help="a directory")
    def take_action(self, parsed_args):
        run = arguments.with_run(self, parsed_args.run_id, self.client.runs.get)
        return ("run_id",), (run.training_run_id,)

class StarOne(ShowOne):
    "Star a checkpoint."
    def add_arguments(self, parser):
        arguments.add_path(parser)
    def take_action(self, parsed_args):
        return ("tinker_path",), (arguments.checkpoint_path(self, parsed_args.tinker_path),)

class StarAdd(Lister):
    "Star checkpoints."
    def add_arguments(self, parser):
        arguments.add_paths(parser)
    def take_action(self, parsed_args):
        paths = arguments.checkpoint_paths(self, parsed_args.tinker_paths)
        return ("tinker_path",), [(path,) for path in paths]
"""


def offered(line: str) -> list[str]:
    """Return what Tab offers at the end of *line*, without the kind of files."""
    words = invoke(["complete", "--line", line]).stdout.splitlines()[1:]
    return [word.partition("\t")[0] for word in words]


def starred(*words: str) -> Invocation:
    done = invoke(["star", *words, "-f", "plain"])
    assert done.exit_code == 0, done.stderr
    return done


def test_a_plugins_command_takes_and_completes_names_of_checkpoints_and_runs(
    fake_plugins, tmp_path: Path
):
    pytest.importorskip("tinkex_local")
    fake_plugins.add("p-star", ENTRIES, COMMANDS)
    with local_service(tmp_path / "home"):
        save = ["checkpoint", "--base-model", "tinkex/baker-street-2M", "--rank", "4"]
        assert invoke([*save, "--output", str(tmp_path / "saved.json")]).exit_code == 0
        path = invoke(["checkpoint", "list", "-f", "json"]).rows[0]["tinker_path"]
        run, label = re.fullmatch(r"tinker://(.+)/\w+/(.+)", path).groups()

        for name in ("@latest", run[:8], run):
            assert starred("run", name).stdout == f"Run: {run}\n"
        for name in ("@latest", f"{run[:8]}:{label}", path):
            assert starred("one", name).stdout == f"Path: {path}\n"
        assert starred("one", "@latest").stderr == f"@latest is {path}\n"
        assert starred("add", "@latest", path).stdout == f"{path}\n"

        assert run in offered("tinkex star run ")
        assert "@latest" in offered("tinkex star run @")
        assert starred("one", offered("tinkex star one ")[0]).stdout == f"Path: {path}\n"
        assert "@latest:sampler" in offered("tinkex star add @")
        assert "@latest:sampler" in offered("tinkex star run @latest --like @")
        into = invoke(["complete", "--line", "tinkex star run @latest --into "])
        assert into.stdout.startswith("directories\n")
