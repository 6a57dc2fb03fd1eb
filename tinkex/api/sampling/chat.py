"""Chat templates: from messages to the text of a prompt, as the model's makers wrote it down.

A tokenizer of the hub brings its template in ``chat_template.jinja``, or in the member
``chat_template`` of ``tokenizer_config.json``; it is rendered as transformers renders it
(``transformers.utils.chat_template_utils``): sandboxed, with the same names at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tinkex.exceptions import LocalError, UsageError

#: Files beside ``tokenizer.json`` that are looked at.
CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
#: Bytes of either that are read at most; the longest known have some ten thousand.
_MAX_FILE = 64 * 1024 * 1024
#: Special tokens that templates ask for by name.
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")

_HINT = "Give the prompt as text, or name a tokenizer that has one with --tokenizer."


class ChatTemplate:
    """The template of one tokenizer.

    :param source: Jinja.
    :param special: names and texts of special tokens.
    :raises LocalError: *source* is no template.
    """

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        import jinja2

        self._special = dict(special)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise LocalError(f"the chat template is broken: {error}", hint=_HINT) from error

    @classmethod
    def from_directory(cls, directory: Path) -> ChatTemplate | None:
        """Read the template beside a ``tokenizer.json``; ``None`` if there is none.

        :raises LocalError: it cannot be read.
        """
        config = _config(directory / CONFIG)
        source = _read(directory / TEMPLATE)
        if source is None:
            source = _from_config(config.get("chat_template"))
        if source is None:
            return None
        special = {name: _token_text(config.get(name)) for name in _SPECIAL}
        return cls(source, {name: text for name, text in special.items() if text is not None})

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt for the reply to *messages*.

        :raises UsageError: they are no messages, or not such as the template takes.
        """
        check_messages(messages)
        try:
            rendered: str = self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._special,
            )
        except Exception as error:  # a template may run into anything
            why = str(error) or type(error).__name__
            raise UsageError(f"the chat template refuses the messages: {why}") from error
        return rendered


def check_messages(messages: object) -> None:
    """Check that *messages* are some.

    :raises UsageError: they are not.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UsageError("messages must be a list of at least one")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError('each message must be an object like {"role": "user", "content": …}')


def no_template(name: str) -> UsageError:
    """Return the error for a tokenizer without a template."""
    return UsageError(f"the tokenizer {name} has no chat template", hint=_HINT)


def _environment() -> Any:
    from datetime import datetime

    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what the assistant says; here it only stands there."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _from_config(value: object) -> str | None:
    if isinstance(value, list):  # several with names, of which one is meant for chats
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _config(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        value = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise LocalError(f"{path} is not JSON", hint=_HINT) from error
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> str | None:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise LocalError(f"{path} is too large for a chat template", hint=_HINT)
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise LocalError(f"cannot read {path}: {reason}", hint=_HINT) from error
