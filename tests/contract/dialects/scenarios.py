"""The expected result of each command on each dialect, one row per command.

A row is ``"command": Scenario(words, stdout, …)``; words in parentheses tell two rows of one command
apart. *words* are typed after ``tinkex``; ``{run}``, ``{training}`` (which is public), ``{sampler}``,
``{session}``, ``{model}``, ``{key}``, ``{tmp}`` (a directory), ``{tokens}`` (a file with a prompt) and
``{prompts}`` (one with a row) stand for what the server has. *stdout* is all that comes out, compared
to the letter, or a regular expression where it begins with ``re:``. Where a dialect answers
otherwise, *on* names its standard output and *refused* the clause of its error; a dialect that is in
neither does as the others do. A row whose command is not installed is left out.

A command that never asks a server is a row of ``OFFLINE``, with the reason; one that asks as another
does, a row of ``AS_ANOTHER``.
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
    #: ``None`` where it depends on the machine.
    code: int | None = 0


def lacking(what: str, *dialects: str, status: int = 404, **others: str) -> dict[str, str]:
    """Return the errors of *dialects* that do not offer *what*; *others* have other messages."""
    clause = f"this server does not offer {what} (HTTP {status})"
    return dict.fromkeys(dialects, clause) | others


#: Commands that ask no server → what they do instead.
OFFLINE = {
    **dict.fromkeys(("config set", "config unset"), "writes the configuration file"),
    **dict.fromkeys(
        ("profile add", "profile remove", "profile use"), "writes the configuration file"
    ),
    **dict.fromkeys(("config get", "config show", "profile list"), "reads settings"),
    **dict.fromkeys(("alias list", "alias remove"), "reads or writes the file of aliases"),
    "alias set": "asks the service only for a short name, as other commands do",
    **dict.fromkeys(
        ("tokens encode", "tokens decode", "tokens count", "billing estimate"),
        "reads files of the tokenizer",
    ),
    **dict.fromkeys(("plugin list", "plugin show"), "reads entry points"),
    **dict.fromkeys(("local info", "local model list", "checkpoint verify"), "reads files"),
    **dict.fromkeys(("note list", "note show"), "reads files"),
    **dict.fromkeys(("local model add", "note add", "plugin new"), "writes files"),
    "local checkpoint add": "copies files",
    **dict.fromkeys(("local model remove", "local reset"), "removes files"),
    "auth logout": "forgets stored keys; asks the service only for keys of old logins",
    "auth switch": "chooses among the stored keys",
    "complete": "asks only for Tab",
    "grade": "reads files",
    "help": "reads the commands",
    "local serve": "is a server itself",
    "version": "knows it",
}

#: Commands that ask a server in the way that another command does.
AS_ANOTHER = {
    "chat": "run",
    "compare": "run batch",
    **dict.fromkeys(
        ("checkpoint export", "checkpoint inspect", "checkpoint push-hf"), "checkpoint download"
    ),
    "hello": "run list",
    "run watch": "run wait",  # which ends
}

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
        "checkpoint publish {sampler} --force",
        "Published {sampler}\n",
        refused=lacking("publishing", *SKYRL),
    ),
    "checkpoint unpublish": Scenario(
        "checkpoint unpublish {training} --force",
        "Unpublished {training}\n",
        refused=lacking("unpublishing", *SKYRL, tuft="this server does not offer unpublishing (HTTP 400)"),
    ),
    "checkpoint delete": Scenario(
        "checkpoint delete {training} --force",
        "Deleted {training}\n",
        refused=lacking("checkpoint deletion", "skyrl"),
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
    "train sft": Scenario(
        "train sft {rows} --base-model {model} --tokenizer {tokenizer} --output {tmp}/run "
        "-f value -c steps -c state_path",
        r"re:1\ntinker://[^/]+/weights/final\n",
        refused={
            "local": "No installed engine trains {model}; 'pip install tinkex-torch' adds an engine for "
            "Hugging Face models (HTTP 400)"
        },
        operation="Training",
    ),
    "run list": Scenario("run list", "{run}\t{model}\n"),
    "run info": Scenario("run info {run} -f value -c training_run_id", "{run}\n"),
    "checkpoint download (of training)": Scenario(
        "checkpoint download {training} --output {tmp}/files",
        "Downloaded to {tmp}/files\n",
        refused=dict.fromkeys(
            SKYRL, "this server does not offer downloads of training checkpoints (HTTP 404)"
        ),
    ),
    "checkpoint set-ttl": Scenario(
        "checkpoint set-ttl {sampler} --ttl 7d --force",
        r"re:{sampler} expires at \S+Z \(in 7d\)\n",
        refused=lacking("checkpoint expiry", *SKYRL)
        | lacking("checkpoint expiry", "tuft", status=405),
    ),
    "checkpoint prune": Scenario(
        "checkpoint prune --keep-last 5 --dry-run --type sampler",
        "keep\t{sampler}\tnewest of its run and type\n",
    ),
    "checkpoint copy": Scenario(
        "checkpoint copy {training}",
        r"re:Copied to tinker://[^/]+/weights/final\n",
        refused=lacking("checkpoint copies", *OPEN),
    ),
    "checkpoint sync": Scenario(
        "checkpoint sync {run} {tmp}/models --type sampler",
        "Downloaded {sampler} to {tmp}/models/sampler_weights/final\n",
    ),
    "run wait": Scenario(
        "run wait {run} --until checkpoint:final --max-wait 10s",
        "{training}\n",
        on={"local": "{sampler}\n"},
    ),
    "run batch": Scenario(
        "run batch {prompts} --model-path {sampler} --max-tokens 2 --with-tokens",
        r're:\{.*"tokens": ?\[11, ?12\].*\}\n',
        on={"local": r're:\{.*"tokens": ?\[.*\}\n'},
        operation="Batch",
    ),
    "score": Scenario(
        "score {rows} --model-path {sampler} --tokenizer {tokenizer} -f value -c rows -c tokens -c nll",
        "1 2 1.5\n",
        on={"local": r"re:1 \d+ \d+\.\d+\n"},
        operation="Scoring",
    ),
    "model list": Scenario("model list", "{model}\n"),
    "session list": Scenario(
        "session list",
        "{session}\n",
        refused=lacking("a list of sessions", *SKYRL),
    ),
    "session show": Scenario(
        "session show {session}",
        r"re:{session}\nRun: {run}\n(Sampler: .*\n)?",
        refused=lacking("sessions, or has no session with this id", *SKYRL),
    ),
    "session search": Scenario(
        "session search",
        r"re:{session}\tactive\t\n",
        on={"local": r"re:{session}\tsuccess\t\n"},
        refused=lacking("session search", *SKYRL)
        | lacking("session search", "tuft", status=405),
    ),
    "session export-trace": Scenario(
        "session export-trace {session} --url-only",
        r"re:http://localhost:\d+/storage/trace\n",
        on={"local": r"re:http://local\.tinkex\.invalid/.*/trace\.pftrace\?\S+\n"},
        refused=lacking("session traces, or has no session with this id", *OPEN),
        operation="Trace export",
    ),
    "billing usage": Scenario(
        "billing usage --from 2026-11-20 --to 2026-11-21",
        r"re:2026-11-20\t1000\t.*1\.5\t.*\n",
        on={"local": ""},
        refused=lacking("usage data", *OPEN),
    ),
    "billing checkpoint-storage": Scenario(
        "billing checkpoint-storage -f value -c project_id",
        "p1\n",
        on={"local": "local\n"},
        refused=lacking("checkpoint storage usage", *OPEN),
    ),
    "api": Scenario(
        "api training_runs/{run}", r're:\{(.|\n)*"training_run_id": ?"{run}"(.|\n)*\}\n'
    ),
    "doctor": Scenario(
        "doctor -f value -c check -c status",
        r"re:(.|\n)*GET checkpoints ok\n(.|\n)*",
        on=dict.fromkeys(SKYRL, r"re:(.|\n)*GET checkpoints absent\n(.|\n)*"),
        code=None,
    ),
    "auth login": Scenario(
        "auth login --with-token",
        "re:Logged in: stored the key .*\n",
        on={"official": "re:Logged in as ada@example.org .*\n"},
        refused={"local": "http://local.tinkex.invalid does not require a key"},
        stdin="{key}\n",
    ),
    "auth status": Scenario("auth status", r"re:Base URL: (.|\n)*Latency \(ms\): \d+\n"),
    "auth whoami": Scenario(
        "auth whoami",
        r"re:Email: ada@example.org\n(.|\n)*",
        refused=lacking("information about keys", *OPEN)
        | {"local": "http://local.tinkex.invalid does not require a key"},
    ),
}  # fmt: skip
