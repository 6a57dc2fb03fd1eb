"""Data set rows for supervised training: conversations, prompts with completions, and texts."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from tinkex.api.sampling.chat import text_messages
from tinkex.api.sampling.types import brief_json, why_not_json
from tinkex.exceptions import LocalError, UsageError
from tinkex.files import MAX_INPUT

_HINT = (
    "Write each row as a JSON object on a separate line, with 'messages', with 'prompt' and "
    "'completion', or with 'text'."
)

Message = Mapping[str, Any]

#: Layout → the members that a row needs.
_NEEDED = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "text": ("text",),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
}
#: ``from`` of a ShareGPT message → role.
_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt"), "assistant"),
    **dict.fromkeys(("tool", "observation"), "tool"),
}


@dataclass(frozen=True)
class Conversation:
    """A conversation; the model is trained on the assistant replies.

    :ivar trained: whether each message is trained; ``None`` if the row does not specify it.
    :ivar tools: definitions of the functions that the assistant may call.
    """

    messages: Sequence[Message]
    trained: Sequence[bool] | None = None
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Completion:
    """A prompt without a chat template, and the completion that the model is trained on."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Text:
    """A text; the model is trained on all its tokens."""

    text: str


@dataclass(frozen=True)
class SupervisedRow:
    """One row of a data set.

    :ivar where: its position, for error messages: ``data.jsonl, line 7``.
    :ivar source: the row as it was read.
    """

    #: The layouts that a row can have.
    LAYOUTS: ClassVar[tuple[str, ...]] = tuple(_NEEDED)

    where: str
    content: Conversation | Completion | Text
    source: Mapping[str, Any]


def read_supervised_rows(
    file: IO[bytes], name: str, layout: str | None = None
) -> Iterator[SupervisedRow]:
    """Yield the rows of a file of JSON lines, or of a JSON array.

    :param name: name of the file for error messages.
    :param layout: the layout of all rows, one of :attr:`SupervisedRow.LAYOUTS`; by default each
        row's layout is derived from its members.
    :raises UsageError: a row is invalid; the message gives its position.
    :raises LocalError: the file cannot be read.
    """
    for where, text in _items(file, name):
        try:
            try:
                value = json.loads(text) if isinstance(text, bytes) else text
            except (ValueError, RecursionError) as error:
                raise UsageError(f"not JSON: {why_not_json(error)}") from error
            if not isinstance(value, dict):
                raise UsageError(f"a row must be a JSON object, not {brief_json(value)}")
            yield SupervisedRow(where, parse_row(value, layout), value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}", hint=error.hint or _HINT) from error


def _items(file: IO[bytes], name: str) -> Iterator[tuple[str, bytes | object]]:
    """Yield the position of each row, and its line in the file or its value in the array."""
    try:
        number, is_first = 0, True
        while line := file.readline(MAX_INPUT):
            number += 1
            where = f"{name}, line {number}"
            if len(line) == MAX_INPUT and not line.endswith(b"\n"):
                raise LocalError(f"{where} is longer than {MAX_INPUT} bytes", hint="Shorten it.")
            line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
            if line.startswith(b"[") and is_first:
                yield from _array(line + b"\n" + file.read(MAX_INPUT), name)
                return
            if line:
                is_first = False
                yield where, line
    except OSError as error:
        raise LocalError(f"cannot read {name}: {error.strerror}") from error


def _array(content: bytes, name: str) -> Iterator[tuple[str, object]]:
    if len(content) > MAX_INPUT:
        hint = "Convert it to one JSON object per line: jq -c '.[]' FILE > FILE.jsonl"
        raise LocalError(f"{name} is longer than {MAX_INPUT} bytes", hint=hint)
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        why = why_not_json(error)
        raise UsageError(f"{name} is not a JSON array: {why}", hint=_HINT) from error
    for number, row in enumerate(rows, 1):
        yield f"{name}, row {number}", row


def parse_row(
    row: Mapping[str, Any], layout: str | None = None
) -> Conversation | Completion | Text:
    """Return the content of *row*.

    :param layout: see :func:`read_supervised_rows`.
    :raises UsageError: its members are missing, ambiguous or of another type.
    """
    kinds = [layout] if layout else [kind for kind, names in _NEEDED.items() if names[0] in row]
    if len(kinds) > 1:
        raise UsageError(
            f"the row matches several formats: {' and '.join(kinds)}",
            hint="Keep the members of only one format in each row.",
        )
    if not kinds:
        names = ", ".join(repr(names[0]) for names in _NEEDED.values())
        raise UsageError(
            f"a row must have one of {names}, but this row has only {brief_json(list(row))}"
        )
    (kind,) = kinds
    missing = [name for name in _NEEDED[kind] if name not in row]
    if missing:
        raise UsageError(f"a row in the {kind!r} format must have {missing[0]!r}")
    if kind == "text":
        return Text(_text(row, "text"))
    if kind == "alpaca":
        return _alpaca(row)
    if kind == "sharegpt":
        return _sharegpt(row)
    if kind == "completion" and isinstance(row["prompt"], str):
        return Completion(row["prompt"], _text(row, "completion"))
    return _conversation(row, "messages" if kind == "messages" else None)


def _conversation(row: Mapping[str, Any], member: str | None) -> Conversation:
    """Return the conversation in *member*, or in ``prompt`` and ``completion``."""
    tools = row.get("tools") or ()
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise UsageError(f"'tools' must be an array, not {brief_json(tools)}")
    if member:
        messages = text_messages(row[member])
        trained = [_flag(message) for message in messages]
        if all(flag is None for flag in trained):
            flags = None
        else:
            flags = [
                message["role"] == "assistant" if flag is None else flag
                for message, flag in zip(messages, trained, strict=True)
            ]
    else:
        prompt = text_messages(row["prompt"], "'prompt' must be a string or")
        completion = text_messages(row["completion"], "'completion' must be")
        messages = [*prompt, *completion]
        flags = [False] * len(prompt) + [True] * len(completion)
    plain = [{k: v for k, v in m.items() if k not in ("trainable", "weight")} for m in messages]
    return Conversation(plain, flags, tools)


def _flag(message: Message) -> bool | None:
    """Return whether *message* is marked for training; ``None`` if it is not marked."""
    for name in ("trainable", "weight"):
        value = message.get(name)
        if value is None:
            continue
        if value not in (0, 1):
            raise UsageError(
                f"{name!r} in a message must be true, false, 0 or 1, not {brief_json(value)}"
            )
        return bool(value)
    return None


def _alpaca(row: Mapping[str, Any]) -> Conversation:
    question = _text(row, "instruction")
    if row.get("input"):
        question += "\n\n" + _text(row, "input")
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(row, "output")},
    ]
    if row.get("system"):
        messages.insert(0, {"role": "system", "content": _text(row, "system")})
    return Conversation(messages)


def _sharegpt(row: Mapping[str, Any]) -> Conversation:
    given = row["conversations"]
    if not isinstance(given, list) or not given:
        raise UsageError(f"'conversations' must be an array of messages, not {brief_json(given)}")
    messages = []
    if row.get("system"):
        messages.append({"role": "system", "content": _text(row, "system")})
    for number, message in enumerate(given, 1):
        if not isinstance(message, dict) or str(message.get("from")) not in _ROLES:
            raise UsageError(
                f"'from' in message {number} must be one of {', '.join(_ROLES)}: "
                f"{brief_json(message)}"
            )
        messages.append({"role": _ROLES[message["from"]], "content": _text(message, "value")})
    return Conversation(messages)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name!r} must be a non-empty string, not {brief_json(value)}")
    return value
