"""The commands that talk to a server, as the matrix of faults runs them.

Every command of tinkex and of the plugins in this tree is here, or among those that talk to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Words of a command line that are filled in.
PATH, RUN, OUT, MODEL = "{path}", "{run}", "{out}", "{model}"


@dataclass(frozen=True)
class Talk:
    """A command line that needs a server.

    :ivar words: what stands behind ``tinkex``.
    :ivar operation: how its errors begin.
    :ivar waits: it waits for the result of a long operation.
    :ivar ignores_content: any answer of 200 is success, whatever it holds.
    :ivar before: a command line that has to have been run, where it is to succeed.
    """

    words: tuple[str, ...]
    operation: str
    waits: bool = False
    ignores_content: bool = False
    before: tuple[str, ...] = ()


COMMANDS: dict[str, Talk] = {
    "checkpoint": Talk(
        ("checkpoint", "--base-model", MODEL, "--rank", "1", "--output", OUT),
        "Checkpoint",
        waits=True,
    ),
    "checkpoint list": Talk(("checkpoint", "list"), "Checkpoint list"),
    "checkpoint info": Talk(("checkpoint", "info", PATH), "Checkpoint info"),
    "checkpoint publish": Talk(
        ("checkpoint", "publish", PATH), "Checkpoint publish", ignores_content=True
    ),
    "checkpoint unpublish": Talk(
        ("checkpoint", "unpublish", PATH),
        "Checkpoint unpublish",
        ignores_content=True,
        before=("checkpoint", "publish", PATH),
    ),
    "checkpoint delete": Talk(
        ("checkpoint", "delete", PATH), "Checkpoint delete", ignores_content=True
    ),
    "checkpoint download": Talk(
        ("checkpoint", "download", PATH, "--output", OUT), "Checkpoint download"
    ),
    "run": Talk(
        ("run", "--base-model", MODEL, "--prompt", "x", "--max-tokens", "1"), "Sampling", waits=True
    ),
    "run list": Talk(("run", "list"), "Run list"),
    "run info": Talk(("run", "info", RUN), "Run info"),
    "auth status": Talk(("auth", "status"), "Auth status"),
    "auth whoami": Talk(("auth", "whoami"), "Auth whoami"),
    "hello": Talk(("hello",), "Hello"),
}

#: Commands that talk to no server, each with the reason why.
OFFLINE = {
    "auth list": "reads the stored keys",
    "auth login": "has tests of its own: it takes a key and no --api-key",
    "auth logout": "writes the stored keys",
    "auth switch": "writes the stored keys",
    "complete": "answers from what was seen before",
    "config show": "reads settings",
    "help": "reads the parsers",
    "local info": "reads the state of the embedded service",
    "local model add": "writes the state of the embedded service",
    "local model list": "reads the state of the embedded service",
    "local model remove": "writes the state of the embedded service",
    "local reset": "writes the state of the embedded service",
    "local serve": "is a server",
    "plugin list": "reads entry points",
    "plugin new": "writes files",
    "plugin show": "reads entry points",
    "config get": "reads settings",
    "config list": "reads settings",
    "config set": "writes settings",
    "config unset": "writes settings",
    "profile add": "writes settings",
    "profile list": "reads settings",
    "profile remove": "writes settings",
    "profile show": "reads settings",
    "profile use": "writes settings",
    "version": "knows itself",
}
