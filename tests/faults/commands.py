"""The commands that talk to a server, as the matrix of faults runs them.

Every command of tinkex and of the plugins in this tree is here, or among those that need no server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.contract.dialects import scenarios

#: Words of a command line that are filled in.
PATH, RUN, OUT, MODEL = "{path}", "{run}", "{out}", "{model}"
SESSION, PROMPTS = "{session}", "{prompts}"
#: A file with a row to train on, or to score.
ROWS = str(Path(__file__).with_name("rows.jsonl"))


@dataclass(frozen=True)
class Talk:
    """A command line that needs a server.

    :ivar words: what stands behind ``tinkex``.
    :ivar operation: how its errors begin.
    :ivar waits: it waits for the result of a long operation.
    :ivar ignores_content: any answer of 200 is success, whatever it holds.
    :ivar before: a command line that has to have been run, where it is to succeed.
    :ivar endless: where nothing fails, it goes on until it is interrupted.
    :ivar unserved: what it needs is not at the service behind the faults, or it repeats nothing, so
        that it cannot go on as if nothing had been.
    :ivar parts: it does several things, and names on lines of their own which went wrong.
    :ivar keeps: files that tell what went wrong with its parts, ready for another try.
    :ivar findings: it prints what it found, faults too.
    """

    words: tuple[str, ...]
    operation: str
    waits: bool = False
    ignores_content: bool = False
    before: tuple[str, ...] = ()
    endless: bool = False
    unserved: bool = False
    parts: bool = False
    keeps: tuple[str, ...] = ()
    findings: bool = False


COMMANDS: dict[str, Talk] = {
    "checkpoint": Talk(
        ("checkpoint", "--base-model", MODEL, "--rank", "1", "--output", OUT),
        "Checkpoint",
        waits=True,
    ),
    "checkpoint list": Talk(("checkpoint", "list"), "Checkpoint list"),
    "checkpoint info": Talk(("checkpoint", "info", PATH), "Checkpoint info"),
    "checkpoint publish": Talk(("checkpoint", "publish", PATH), "Checkpoint publish"),
    "checkpoint unpublish": Talk(
        ("checkpoint", "unpublish", PATH),
        "Checkpoint unpublish",
        before=("checkpoint", "publish", PATH),
    ),
    "checkpoint delete": Talk(("checkpoint", "delete", PATH), "Checkpoint delete"),
    "checkpoint download": Talk(
        ("checkpoint", "download", PATH, "--output", OUT), "Checkpoint download"
    ),
    "checkpoint download (a run)": Talk(
        ("checkpoint", "download", "--run-id", RUN, "--output", OUT), "Checkpoint download"
    ),
    "checkpoint download (several)": Talk(
        ("checkpoint", "download", PATH, "tinker://run/weights/other", "--output", OUT),
        "Checkpoint download",
        unserved=True,
        parts=True,
    ),
    "checkpoint export": Talk(("checkpoint", "export", PATH, "--output", OUT), "Checkpoint export"),
    "checkpoint inspect": Talk(("checkpoint", "inspect", PATH), "Checkpoint inspect"),
    "checkpoint sync": Talk(("checkpoint", "sync", RUN, OUT), "Checkpoint sync"),
    "checkpoint set-ttl": Talk(
        ("checkpoint", "set-ttl", PATH, "--ttl", "7d"), "Checkpoint set-ttl"
    ),
    "checkpoint prune": Talk(
        ("checkpoint", "prune", "--run-id", RUN, "--keep-last", "1", "--yes"), "Checkpoint prune"
    ),
    "checkpoint copy": Talk(("checkpoint", "copy", PATH), "Checkpoint copy"),
    "run": Talk(
        ("run", "--base-model", MODEL, "--prompt", "x", "--max-tokens", "1"), "Sampling", waits=True
    ),
    "run batch": Talk(
        ("run", "batch", PROMPTS, "--base-model", MODEL, "--max-tokens", "1", "--output", OUT),
        "Batch",
        waits=True,
        parts=True,
        keeps=("out", "out.batch.json", "out.failed.jsonl"),
    ),
    "train sft": Talk(
        ("train", "sft", ROWS, "--base-model", MODEL, "--rank", "1", "--output", OUT),
        "Training",
        waits=True,
        unserved=True,
    ),
    "run watch": Talk(("run", "watch", RUN), "Run watch", endless=True),
    "run wait": Talk(
        ("run", "wait", RUN, "--until", "checkpoint:?*", "--max-wait", "1h"), "Run wait"
    ),
    "model list": Talk(("model", "list"), "Model list"),
    "session list": Talk(("session", "list"), "Session list"),
    "session show": Talk(("session", "show", SESSION), "Session show"),
    "session search": Talk(("session", "search", "name"), "Session search"),
    "session export-trace": Talk(
        ("session", "export-trace", SESSION, "--output", OUT), "Trace export"
    ),
    "billing usage": Talk(
        ("billing", "usage", "--since", "2d", "--by", "run", "--csv", OUT), "Billing usage"
    ),
    "billing checkpoint-storage": Talk(
        ("billing", "checkpoint-storage", "--csv", OUT), "Billing checkpoint-storage"
    ),
    "api": Talk(("api", "GET", "training_runs"), "API request", ignores_content=True),
    "doctor": Talk(("doctor",), "Doctor", unserved=True, findings=True),
    "run list": Talk(("run", "list"), "Run list"),
    "run info": Talk(("run", "info", RUN), "Run info"),
    "auth status": Talk(("auth", "status"), "Auth status"),
    "auth login": Talk(("auth", "login"), "Auth login"),
    "auth whoami": Talk(("auth", "whoami"), "Auth whoami"),
    "chat": Talk(("chat", "--base-model", MODEL), "Chat"),
    "compare": Talk(
        ("compare", PROMPTS, "--base-model", MODEL, "--model-path", PATH, "--max-tokens", "1"),
        "Compare",
        waits=True,
        parts=True,
    ),
    "score": Talk(("score", ROWS, "--base-model", MODEL), "Scoring", waits=True),
    "hello": Talk(("hello",), "Hello"),
}

#: Commands that talk to no server, each with the reason why.
OFFLINE = scenarios.OFFLINE | {
    "checkpoint push-hf": "asks the hub first: see test_hub.py",
}
