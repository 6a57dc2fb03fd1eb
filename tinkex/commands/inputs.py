"""Prompts: a text, or token ids from a file."""

from __future__ import annotations

import json
from typing import Any, TextIO

from tinkex.exceptions import LocalError, UsageError
from tinkex.files import read_bytes

_EXAMPLE = "For example: --prompt 'Once upon a time', or --prompt-file prompt.txt."


def read_prompt(text: str | None, file: str | None, stdin: TextIO | None = None) -> str | list[int]:
    """Return the prompt that ``--prompt`` or ``--prompt-file`` gives.

    A file that is a JSON array of whole numbers, or ``{"tokens": [...]}``, is token ids; any other
    file is text, without the line breaks at its end (as the shell's ``$(cat file)``).

    :raises UsageError: none or both are given, or the prompt is empty.
    :raises LocalError: the file cannot be read, or is not UTF-8.
    """
    if (text is None) == (file is None):
        what = "is required for run command" if text is None else "exclude each other"
        verb = "or" if text is None else "and"
        raise UsageError(
            f"--prompt {verb} --prompt-file {what}",
            hint=_EXAMPLE,
        )
    prompt = text if file is None else _from_file(file, stdin)
    if not prompt:
        raise UsageError("the prompt is empty", hint=_EXAMPLE)
    return prompt


def _from_file(name: str, stdin: TextIO | None) -> str | list[int]:
    content = read_bytes(name, stdin)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LocalError(
            f"{name} is not UTF-8 text (byte {error.start})", hint="Convert it, say with iconv."
        ) from error
    return prompt_in(text)


def prompt_in(text: str) -> str | list[int]:
    """Return the prompt that is the content *text* of a file: text, or token ids.

    :raises UsageError: a token id is out of range.
    """
    tokens = _token_ids(text)
    return text.rstrip("\r\n") if tokens is None else tokens


def _token_ids(text: str) -> list[int] | None:
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = value.get("tokens")
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        return None
    if any(not 0 <= item < 2**31 for item in value):
        raise UsageError("token ids must be from 0 to 2147483647")
    return value
