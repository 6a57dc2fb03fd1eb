"""Prints errors on standard error: one sentence and one hint, with the likely correction."""

from __future__ import annotations

import errno
import itertools
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from tinkex import exceptions, plugins
from tinkex.exceptions import LocalError, PluginError, Terminated, TinkexError, UsageError
from tinkex.files import limit_error


def _hint_for_resource(error: exceptions.APIError) -> str | None:
    return f"See 'tinkex {error.resource} list'." if error.resource else None


def _hint_for_key(error: exceptions.Unauthorized) -> str:
    what = (
        f"The key comes from {error.key_origin}. Check it" if error.key_origin else "Check the key"
    )
    return f"{what} with 'tinkex config show', or set another key with --api-key or TINKER_API_KEY."


#: Class of an error → hint, or a function that returns one; the most specific class counts.
#: An error's own hint takes precedence, except for the first two classes: their entries include it.
HINTS: Mapping[type[TinkexError], str | Callable[[Any], str | None]] = {
    exceptions.InvalidName: lambda error: (
        f"{error.hint or ''} See 'tinkex {error.resource} list'.".lstrip()
    ),
    exceptions.LimitReached: lambda error: (
        f"{error.hint or ''} Check the limits with 'ulimit -a'. To allow more open files, run "
        "'ulimit -n 4096'.".lstrip()
    ),
    exceptions.TargetExists: "Add --force to replace it, or choose another path with --output.",
    exceptions.TargetInUse: "Wait until it finishes, or choose another path with --output.",
    exceptions.SharedName: "To continue anyway, add --force. "
    "One or both checkpoints may be changed or lost.",
    exceptions.TokenizerError: "Specify another tokenizer, or a local tokenizer directory, "
    "with --tokenizer.",
    exceptions.ChatTemplateError: "Use --tokenizer to specify a chat model from the same family, "
    "or use text instead of messages.",
    LocalError: "Check the path, its permissions and the free disk space.",
    exceptions.Unreachable: "Check the base URL: tinkex config show.",
    exceptions.TLSError: "Check the base URL: tinkex config show.",
    exceptions.TimedOut: "Increase --timeout (in milliseconds, or with a unit: 30s, 5m).",
    exceptions.InvalidResponse: "Check that the base URL points to a Tinker service: "
    "tinkex config show.",
    exceptions.Redirected: lambda error: (
        f"Set --base-url to {error.location} to use that server."
        if error.location
        else "If that URL is a login page, add the required headers to 'headers' in the profile."
    ),
    exceptions.BadRequest: _hint_for_resource,
    exceptions.Unauthorized: _hint_for_key,
    exceptions.PaymentRequired: "See the billing page in the service's web console.",
    exceptions.Forbidden: "Check which account the key belongs to: tinkex auth whoami.",
    exceptions.NotFound: lambda error: (
        _hint_for_resource(error) or "See 'tinkex checkpoint list' or 'tinkex run list'."
    ),
    exceptions.NotOffered: "Check which server is configured: tinkex config show.",
    exceptions.LogprobsUnavailable: "Omit --logprobs, --top-logprobs and --prompt-logprobs, "
    "or use a server that returns logprobs.",
    exceptions.Conflict: "Check the current state with 'tinkex checkpoint info PATH'.",
    exceptions.RateLimited: "Wait a while, or send fewer concurrent requests.",
}

_HINTS_BY_ERRNO = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "Check the path."),
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EISDIR: "Specify a file instead of a directory.",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check the permissions."),
    errno.EROFS: "Choose a writable directory.",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space, or choose another directory."),
}

#: Errors from writing to a standard stream.
_OF_OUTPUT = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)
#: Terminal codes: red, bold, and reset.
_COLOURS = ("\x1b[31m", "\x1b[1m", "\x1b[0m")

_SHOW = "info show get view describe inspect"
_DELETE = "delete remove unset rm del destroy uninstall"
#: The name in tinkex → names in other programs. If several entries contain a word, the first
#: whose name exists counts.
FOREIGN = (
    ("--version", "-V"),
    ("--insecure", "-k --no-verify"),
    ("--limit", "-n"),
    ("--prompt", "-p"),
    ("--limit 0", "--all"),
    ("--base-url", "--endpoint --host --server"),
    ("--api-key", "--token"),
    ("--base", "--base-model"),
    ("-f", "-o --output --output-format"),
    *((f"-f {name}", f"--{name}") for name in ("csv", "plain", "table", "yaml")),
    ("-f plain", "--tsv"),
    ("run", "complete generate sample"),
    ("checkpoint", "save create"),
    ("config set", "set"),
    ("tokens encode", "tokenize"),
    ("train sft", "train finetune fine-tune sft"),
    ("score", "eval evaluate perplexity"),
    ("chat", "talk"),
    ("checkpoint export", "merge"),
    ("auth login", "api-key configure init key setup signin token"),
    ("complete", "completion"),
    ("billing usage", "cost usage"),
    ("checkpoint-storage", "storage"),
    ("local serve", "serve"),
    ("info", _SHOW),
    ("list", "ls"),
    ("show", f"{_SHOW} list ls"),
    ("list", _SHOW),
    ("status", "list ls"),
    *((name, _DELETE) for name in ("delete", "remove", "unset")),
    *((name, "add new create init") for name in ("add", "new")),
    *((name, "use switch select activate") for name in ("use", "switch")),
    ("download", "export fetch pull"),
    ("push-hf", "push upload"),
    ("watch", "follow tail logs"),
    ("copy", "cp"),
    ("set", "edit"),
)
#: Words that are not commands, separated by commas → the hint about them.
_NO_COMMANDS = {
    "interactive, repl, shell": "To start the interactive shell, run 'tinkex' without a command.",
    "install, plugin install": "To install a plugin, install its Python package: pip install NAME",
    "update, upgrade": "Update tinkex with the tool that installed it, for example: "
    "pip install --upgrade tinkex",
}
#: Nouns to try for a verb without a noun.
_FIRST_NOUNS = ("checkpoint", "run")
#: Command → the option that words after it probably belong to.
_TEXT_OPTIONS = {"run": "--prompt"}
#: Commands of this project's plugins, which may not be installed → the plugin.
_PLUGIN_COMMANDS = {
    **dict.fromkeys(("chat", "compare", "grade", "score"), "tinkex-lab"),
    "local": "tinkex-local",
    **dict.fromkeys(
        ("checkpoint export", "checkpoint inspect", "checkpoint push-hf"), "tinkex-hub"
    ),
    "train sft": "tinkex-train",
}


def as_tinkex_error(error: BaseException, involved: Iterable[str] = ()) -> TinkexError:
    """Return *error* as a :class:`TinkexError` with a hint.

    :param involved: modules whose code was involved, see :func:`tinkex.plugins.suspects`.
    """
    if isinstance(error, TinkexError) and hasattr(error, "category"):  # else __init__() was skipped
        error.hint = hint_for(error)
        if error.aftermath:
            error.hint = f"{error.hint or ''} {error.aftermath}".lstrip()
            error.aftermath = None  # it is part of the hint now
        return error
    if limit := limit_error(error):
        limit.hint = hint_for(limit)
        return limit
    is_plugins, suspects = plugins.suspects(error, involved)
    if isinstance(error, OSError) and error.strerror:
        if error.errno == errno.ENOENT and not error.filename:
            return LocalError(
                "the current directory no longer exists",
                hint="Change to another directory with cd.",
            )
        # Of tinkex's own errors, only those of the standard streams have no file name.
        if error.filename or not is_plugins or error.errno in _OF_OUTPUT:
            where = f"{error.filename}: " if error.filename else "cannot write the output: "
            return LocalError(f"{where}{error.strerror}", hint=_hint_by_errno(error))
    names = " or ".join(suspects)
    where = f"the plugin {names}" if is_plugins else f"tinkex or in the plugin {names}"
    return PluginError(
        f"this is a bug in {where if suspects else 'tinkex'} ({plugins.reason(error)})",
        hint="Run the command again with --debug, and report the output to the maintainers.",
        category="bug",
    )


def hint_for(error: TinkexError) -> str | None:
    """Return the hint for *error*, or ``None`` if it depends on the command."""
    includes = isinstance(error, (exceptions.InvalidName, exceptions.LimitReached))
    if error.hint is not None and not includes:
        return error.hint
    if is_unloaded(error):
        return (
            "The server has unloaded this run. Save a new checkpoint from its training state with "
            "'tinkex checkpoint --model-path tinker://RUN/weights/NAME --output again.json', then "
            "sample from the new checkpoint immediately."
        )
    if type(error) is LocalError and (hint := _hint_by_errno(error.__cause__)):
        return hint
    found = next((HINTS[cls] for cls in type(error).__mro__ if cls in HINTS), None)
    return found(error) if callable(found) else found


def is_unloaded(error: TinkexError) -> bool:
    """Return whether the server rejected a request to sample an unloaded run, as SkyRL does."""
    return re.search(r"\bmodel [^\s/]+ (is )?not loaded", error.message, re.I) is not None


def _hint_by_errno(error: BaseException | None) -> str | None:
    return _HINTS_BY_ERRNO.get(error.errno or 0) if isinstance(error, OSError) else None


def print_error(
    error: TinkexError,
    operation: str,
    stream: TextIO,
    *,
    as_json: bool,
    warnings: Sequence[str] = (),
) -> None:
    """Write *error* to *stream*.

    :param operation: the subject of the sentence, such as ``Checkpoint list``.
    :param as_json: write one line of JSON: ``{"error": {…}}``.
    :param warnings: lines to include in the JSON object.
    """
    from tinkex.cli.formatters import wants_colour
    from tinkex.columns import json_text, printable

    red, bold, plain = _COLOURS if wants_colour(stream) else ("", "", "")
    if as_json:
        more = {"warnings": list(warnings)} if warnings else {}
        stream.write(json_text({"error": error.as_dict(operation), **more}) + "\n")
    else:
        stream.write(f"{red}{printable(error.sentence(operation))}{plain}\n")
        if error.hint:
            stream.write(f"{bold}Hint:{plain} {printable(error.hint)}\n")
    stream.flush()


def wants_json(words: Sequence[str]) -> bool:
    """Return whether a command line asks for JSON, even one that cannot be parsed."""
    return (
        not {"--json", "-fjson", "-f=json", "--format=json"}.isdisjoint(words)
        or ("-f", "json") in itertools.pairwise(words)
        or ("--format", "json") in itertools.pairwise(words)
    )


@contextmanager
def unwrapped_signals() -> Iterator[None]:
    """Re-raise a signal's exception if another error wraps it.

    A signal handler may raise anywhere, for example in a class body, where Python wraps the
    exception, or just before a cleanup that then fails.

    :raises KeyboardInterrupt, Terminated: one of them is the cause or context of an error.
    """
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        for _ in range(20):  # a chain may be circular
            if isinstance(found, (KeyboardInterrupt, Terminated)):
                raise found from None
            found = found and (found.__cause__ or found.__context__)
        raise


# ---------------------------------------------------------------------- what the user meant


def nearest(typed: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the name in *known* that *typed* abbreviates or misspells, or ``None``.

    :param cutoff: how similar the two must be, from 0 to 1.
    """
    import difflib

    known = list(known)
    begun = [name for name in known if len(typed) > 1 and name.startswith(typed)]
    if len(begun) == 1:
        return begun[0]
    return next(iter(difflib.get_close_matches(typed, known, 1, cutoff)), None)


def nearest_option(typed: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """Return the option in *known* that is closest to *typed*, possibly with a value."""
    for meant in _translated(typed):
        if meant.partition(" ")[0] in known:
            return meant
    long = [name.removeprefix("--") for name in known if name.startswith("--")]
    words = set(typed.strip("-").split("-"))
    for name in long:
        if words <= set(name.split("-")):  # --url for --base-url
            return f"--{name}"
    near = nearest(typed.strip("-"), long, cutoff)
    return f"--{near}" if near else None


def _with_a_noun(verb: str, known: Iterable[str]) -> Iterator[str]:
    verbs = (verb, *_translated(verb))
    others = sorted({name.split()[0] for name in known}.difference(_FIRST_NOUNS))
    yield from (f"{noun} {verb}" for noun in _FIRST_NOUNS for verb in verbs)
    yield from (f"{noun} {verb}" for verb in verbs for noun in others)


def _translated(word: str) -> list[str]:
    return [name for name, foreign in FOREIGN if word in foreign.split()]


def _is(start: str, command: str) -> bool:
    """Return whether *command* is *start*, or a command below it."""
    return f"{command} ".startswith(f"{start} ")


def unknown_command(
    words: Sequence[str], known: Iterable[str], rest: Sequence[str] = ()
) -> UsageError:
    """Return the error for *words*, which are not a command; the hint names the nearest command.

    :param rest: the words after them, which may be a prompt.
    """
    typed = " ".join(words)
    known = sorted(known)
    below = [name for name in known if name.startswith(words[0] + " ")]
    meant = (typed, *(name for name in _translated(words[0]) if name not in known))
    missing = [(n, p) for n, p in _PLUGIN_COMMANDS.items() if not any(_is(n, k) for k in known)]
    plugin = next((p for m in meant for n, p in missing if _is(n, m)), None)
    about = {words[0], " ".join(words[:2])}
    said = next((said for no, said in _NO_COMMANDS.items() if about & set(no.split(", "))), None)
    near = _meant_by_argument(words) or _nearest_command(words, known, below)
    hint = said or "See: tinkex help"
    if plugin:
        hint = f"This command requires the plugin {plugin}. {plugins.how_to_get(plugin)}"
    elif near and not said:
        hint = f"Did you mean 'tinkex {near}'?"
    elif below and not said:
        hint = f"Subcommands of '{words[0]}': " + ", ".join(below) + "."
        if option := text_option(words[0], ()):
            text = as_argument([*words[1:], *rest])
            hint += f" To send a prompt: tinkex {words[0]} --base-model MODEL {option} {text}"
    return UsageError(f"'{typed}' is not a tinkex command.", hint=hint, whole_line=True)


def _meant_by_argument(words: Sequence[str]) -> str | None:
    """Return the command for *words* if the last one is not a verb but an argument."""
    noun, last = ("", words[0]) if len(words) == 1 else words[:2]
    if noun == "checkpoint" and last in ("add", "create", "new", "save"):
        return "checkpoint --base-model MODEL --output FILE"
    is_checkpoint = last.startswith(("tinker://", "@")) or (noun and last == "latest")
    if is_checkpoint and noun in ("", "checkpoint"):
        return f"checkpoint info {'@latest' if last == 'latest' else shlex.quote(last)}"
    if noun == "run" and is_checkpoint:
        return f"run --model-path {shlex.quote(last)} --prompt TEXT"
    if noun == "run" and re.fullmatch(r"[\w.-]+/[\w.-]+", last):
        return f"run --base-model {last} --prompt TEXT"
    return None


def as_argument(words: Sequence[str]) -> str:
    """Return *words* as one shell argument, or ``TEXT`` if they are long."""
    text = " ".join(words)
    return shlex.quote(text) if len(text) <= 200 else "TEXT"


def text_option(command: str, given: Sequence[str]) -> str | None:
    """Return the option of *command* for words after it, unless *given* contains it."""
    option = _TEXT_OPTIONS.get(command)
    return None if option is None or any(word.startswith(option) for word in given) else option


def _nearest_command(words: Sequence[str], known: list[str], below: list[str]) -> str | None:
    if below and len(words) == 1:  # only a noun: no verb to compare
        return None
    noun = words[0] if below else nearest(words[0], {name.split()[0] for name in known}, 0.8)
    verb = words[1] if len(words) > 1 else "list"
    candidates = [] if below else [*_translated(words[0]), *_with_a_noun(words[0], known)]
    if noun and (len(words) > 1 or words[0] == noun + "s"):  # checkpoints
        candidates += [f"{noun} {meant}" for meant in (verb, *_translated(verb))]
    for name in candidates:
        if name in known:
            return name
    if not below:
        return nearest(" ".join(words), known)
    # Compared without the noun: it would make any two verbs look alike.
    near = nearest(" ".join(words[1:]), [name.partition(" ")[2] for name in below])
    return near and f"{noun} {near}"
