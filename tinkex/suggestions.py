"""What somebody meant who typed a command or an option that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

from tinkex import plugins
from tinkex.exceptions import UsageError

#: How options are called by other programs → what is meant here, the first that there is.
_OPTIONS: Mapping[str, Sequence[str]] = {
    "-V": ("--version",),
    "-k": ("--insecure",),
    "-n": ("--limit",),
    "-o": ("--output", "-f"),
    "--all": ("--limit 0",),
    "--csv": ("-f csv",),
    "--endpoint": ("--base-url",),
    "--host": ("--base-url",),
    "--no-verify": ("--insecure",),
    "--output": ("-f",),
    "--output-format": ("-f",),
    "--plain": ("-f plain",),
    "--server": ("--base-url",),
    "--table": ("-f table",),
    "--token": ("--api-key",),
    "--tsv": ("-f plain",),
    "--yaml": ("-f yaml",),
}
#: Verbs that mean the same in other programs.
_VERBS = (
    {"list", "ls"},
    {"info", "show", "get", "view", "describe", "inspect"},
    {"delete", "remove", "unset", "rm", "del", "destroy", "uninstall"},
    {"add", "new", "create", "init"},
    {"download", "pull", "fetch"},
    {"push-hf", "push", "upload"},
    {"use", "switch", "select", "activate"},
    {"copy", "cp"},
    {"set", "edit"},
    {"watch", "follow", "tail", "logs"},
)
#: Words that are commands elsewhere → the command here.
_COMMANDS: Mapping[str, str] = {
    "chat": "run",
    "complete": "run",
    "completion": "complete",
    "cost": "billing usage",
    "generate": "run",
    "sample": "run",
    "save": "checkpoint",
    "serve": "local serve",
    "shell": "help",
}
#: Commands of plugins of this project, which need not be there → the plugin.
_BROUGHT = {"local": "tinkex-local", "checkpoint push-hf": "tinkex-hub"}


def option(typed: str, known: Collection[str]) -> str | None:
    """Return the option out of *known* that *typed* most likely means, perhaps with a value."""
    for meant in _OPTIONS.get(typed, ()):
        if meant.partition(" ")[0] in known:
            return meant
    long = [name for name in known if name.startswith("--")]
    words = set(typed.strip("-").split("-"))
    for name in long:
        if words <= set(name.strip("-").split("-")):  # --url for --base-url
            return name
    return next(iter(difflib.get_close_matches(typed, long, n=1)), None)


def unknown_command(words: Sequence[str], known: Iterable[str]) -> UsageError:
    """Return the error for *words* that name no command; the hint names the nearest one."""
    typed = " ".join(words)
    known = sorted(known)
    below = [name for name in known if name.startswith(words[0] + " ")]
    near = _near(words, known, below)
    brought = next(
        (of for name, of in _BROUGHT.items() if f"{typed} ".startswith(f"{name} ")), None
    )
    if brought:
        hint = f"It comes with {brought}. {plugins.how_to_get(brought)}"
    elif near:
        hint = f"Did you mean 'tinkex {near}'?"
    elif below:
        hint = f"Below '{words[0]}' there are: " + ", ".join(below) + "."
    else:
        hint = "See: tinkex help"
    return UsageError(f"'{typed}' is not a tinkex command.", hint=hint, whole_line=True)


def _near(words: Sequence[str], known: Sequence[str], below: Sequence[str]) -> str | None:
    if below and len(words) == 1:  # only a noun: nothing says which verb was meant
        return None
    if not below and _COMMANDS.get(words[0]) in known:
        return _COMMANDS[words[0]]
    nouns = list({name.partition(" ")[0] for name in known})
    noun = words[0] if below else next(iter(difflib.get_close_matches(words[0], nouns, 1, 0.8)), "")
    if noun and words in ([noun + "s"], [noun + "s", "list"]) and f"{noun} list" in known:
        return f"{noun} list"
    if len(words) > 1 and noun:
        others = next((verbs for verbs in _VERBS if words[1] in verbs), set())
        for name in known:
            if name.partition(" ")[0] == noun and name.partition(" ")[2] in others:
                return name
    matches = difflib.get_close_matches(" ".join(words), below or known, 1, 0.5)
    return matches[0] if matches else None
