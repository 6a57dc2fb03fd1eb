"""What somebody meant who typed a command or an option that there is not."""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
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


def option(typed: str, known: Collection[str], at_least: float = 0.6) -> str | None:
    """Return the option out of *known* that *typed* most likely means, perhaps with a value.

    :param at_least: how alike the two must be, from 0 to 1.
    """
    for meant in _OPTIONS.get(typed, ()):
        if meant.partition(" ")[0] in known:
            return meant
    long = [name for name in known if name.startswith("--")]
    words = set(typed.strip("-").split("-"))
    for name in long:
        if words <= set(name.strip("-").split("-")):  # --url for --base-url
            return name
    begun = [name for name in long if len(typed) > 4 and name.startswith(typed)]
    if len(begun) == 1:  # --temp for --temperature
        return begun[0]
    # The hyphens would make any two options look alike.
    near = difflib.get_close_matches(typed.strip("-"), (name[2:] for name in long), 1, at_least)
    return f"--{near[0]}" if near else None


def mended(message: str, words: Sequence[str], known: Collection[str]) -> tuple[str, str | None]:
    """Return a *message* of argparse about *words* as people say it, and a hint if there is one."""
    about = re.fullmatch(r"argument (\S+): (expected one|ignored explicit) argument.*", message)
    names = about[1].split("/") if about else []
    missing = about is not None and about[2] == "expected one"
    for word, after in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name not in names:
            continue
        if equals and not missing:
            return f"{name} takes no value: {value!r}", _opposite(name, known)
        if missing and after[:1] == "-" and (" " in after or _option_of(after) not in known):
            joined = f"{names[-1]}={'KEY' if _is_secret(names[-1]) else shlex.quote(after)}"
            return message, f"A value that begins with '-' is joined to its option: {joined}"
    return message, None


def stray(
    extra: Sequence[str], words: Sequence[str], flags: Collection[str], texts: Collection[str]
) -> tuple[str, str | None]:
    """Return what to say of *extra*, which nothing takes of *words*, if more than just that.

    :param flags: options that take no value.
    :param texts: options that take any text.
    :returns: a message, or ``""``; and a hint, or ``None``.
    """
    at = words.index(extra[0])
    before = words[at - 1] if at else ""
    if before in flags:
        return f"{before} takes no value: {extra[0]!r}", _opposite(before, flags)
    name, joined, value = before.partition("=")
    if not joined:
        name, value = words[at - 2] if at > 1 else "", before
    if name not in texts or _is_secret(name):
        return "", None
    text = " ".join([value, *itertools.takewhile(lambda word: word in extra, words[at:])])
    return "", f"A text of several words stands in quotes: {name} {shlex.quote(text)}"


def _is_secret(option: str) -> bool:
    return option.endswith("key")


def _option_of(word: str) -> str:
    return word.partition("=")[0]


def _opposite(option: str, known: Collection[str]) -> str | None:
    opposite = f"--{option[5:]}" if option.startswith("--no-") else f"--no-{option[2:]}"
    return f"Its opposite is {opposite}." if opposite in known else None


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
    # Only what differs: a noun in common would make any two verbs look alike.
    rest = {name[len(words[0]) + 1 :]: name for name in below} or {name: name for name in known}
    typed = " ".join(words[1:] if below else words)
    matches = [name for name in rest if below and name.startswith(typed)]
    if len(matches) != 1:
        matches = difflib.get_close_matches(typed, rest, 1, 0.6)
    return rest[matches[0]] if matches else None
