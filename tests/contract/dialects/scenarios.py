"""What each command says to each dialect: one row a command.

A row is ``"command": Scenario(words, stdout, …)``. *words* are typed after ``tinkex``; ``{run}``,
``{training}``, ``{sampler}``, ``{session}``, ``{model}``, ``{tmp}`` (a directory) and ``{tokens}`` (a
file with a prompt) stand for what the server has. *stdout* is all that comes out, compared to the
letter, or a regular expression where it begins with ``re:``. Where a dialect answers otherwise, *on*
names its standard output and *refused* the clause of its error; a dialect that is in neither does
as the others do. A command that never asks a server is a row of ``OFFLINE``, with the reason; one
that asks as another does, a row of ``AS_ANOTHER``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DIALECTS = ("official", "skyrl", "skyrl_main", "tuft", "local")
SKYRL = ("skyrl", "skyrl_main")
OPEN = (*SKYRL, "tuft")  # servers that one can run oneself


@dataclass(frozen=True)
class Scenario:
    """One command line and what comes of it."""

    words: str
    stdout: str
    on: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    operation: str = ""
    stdin: str = ""


def lacking(what: str, *dialects: str, status: int = 404, **others: str) -> dict[str, str]:
    """Return the clauses of *dialects* that do not offer *what*; *others* have words of their own."""
    clause = f"this server does not offer {what} (HTTP {status})"
    return dict.fromkeys(dialects, clause) | others


#: Commands that ask no server.
OFFLINE = {
    "complete": "asks only for Tab, in the background",
    "config show": "reads settings",
    "help": "reads the commands",
    "local info": "reads the files of the local service",
    "local model add": "copies files",
    "local model list": "reads files",
    "local model remove": "removes files",
    "local reset": "removes files",
    "local serve": "is a server itself",
    "plugin list": "reads entry points",
    "plugin new": "writes files",
    "plugin show": "reads entry points",
    "version": "knows it",
}

#: Commands that ask a server in the way that another command does.
AS_ANOTHER = {"checkpoint push-hf": "checkpoint download", "hello": "run list"}

SCENARIOS = {
    "checkpoint": Scenario(
        "checkpoint --base-model {model} --rank 4 --name saved --output {tmp}/saved.json",
        "Checkpoint saved to {tmp}/saved.json\n",
    ),
    "checkpoint list": Scenario(
        "checkpoint list",
        "weights/final\t{training}\nsampler_weights/final\t{sampler}\n",
        on={
            **dict.fromkeys(OPEN, "final\t{training}\nfinal\t{sampler}\n"),
            "local": "sampler_weights/final\t{sampler}\nweights/final\t{training}\n",
        },
    ),
    "checkpoint info": Scenario(
        "checkpoint info {sampler} -f value -c base_model -c lora_rank -c tinker_path",
        "{model}\n32\n{sampler}\n",
    ),
    "checkpoint publish": Scenario(
        "checkpoint publish {sampler}",
        "Published {sampler}\n",
        refused=lacking("publishing", *SKYRL),
    ),
    "checkpoint unpublish": Scenario(
        "checkpoint unpublish {published}",
        "Unpublished {published}\n",
        refused=lacking("unpublishing", *SKYRL, tuft="this server does not offer unpublishing (HTTP 400)"),
    ),
    "checkpoint delete": Scenario(
        "checkpoint delete {training}",
        "Deleted {training}\n",
        refused=lacking("deleting checkpoints", "skyrl"),
    ),
    "checkpoint download": Scenario(
        "checkpoint download {sampler} --output {tmp}/files", "Downloaded to {tmp}/files\n"
    ),
    "run": Scenario(
        "run --model-path {sampler} --prompt-file {tokens} --max-tokens 2 --stop never --num-samples 2 "
        "--json",
        r're:\{\n  "sequences": \[\n    \{\n      "tokens": \[\n        11,\n        12\n(.|\n)*',
        on={"local": r're:\{\n  "sequences": \[\n    \{\n      "tokens": \[\n(.|\n)*'},
        operation="Sampling",
    ),
    "run list": Scenario("run list", "{run}\t{model}\n"),
    "run info": Scenario("run info {run} -f value -c training_run_id", "{run}\n"),
}  # fmt: skip
