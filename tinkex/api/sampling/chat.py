"""Chat templates, which convert messages to the text of a prompt.

A tokenizer on the hub has its template in ``chat_template.jinja``, or in the member
``chat_template`` of ``tokenizer_config.json``. It is rendered as in transformers
(``transformers.utils.chat_template_utils``): sandboxed, with the same names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from tinkex.api.sampling.types import brief_json
from tinkex.exceptions import ChatTemplateError, UsageError

#: Files next to ``tokenizer.json`` that may contain the template.
CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
#: File next to ``tokenizer.json`` that may define further special tokens.
SPECIAL = "special_tokens_map.json"
#: File of a model, next to ``tokenizer.json``, with the tokens that end a generation
#: (``transformers.GenerationConfig``).
GENERATION_CONFIG = "generation_config.json"
#: Marks around the assistant's text: characters that Unicode reserves for internal use.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_GENERATION = re.compile(r"{%[-+]?\s*generation\b")

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """The chat template of a tokenizer.

    :param source: the template, in Jinja.
    :param special: name → text of each special token.
    :raises ChatTemplateError: *source* is not a template.
    """

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self._source = source
        self._special = dict(special)
        self._template = _compiled(source)

    @classmethod
    def from_directory(cls, directory: Path) -> ChatTemplate | None:
        """Read the template next to a ``tokenizer.json``; ``None`` if there is none.

        :raises ChatTemplateError: it cannot be read.
        """
        config = _config(directory / CONFIG)
        source = _read(directory / TEMPLATE)
        if source is None:
            source = config.get("chat_template")
        if not isinstance(source, str):
            return None
        return cls(source, special_tokens(directory))

    def render(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Render *messages* as text.

        :param tools: definitions of the functions that the assistant may call.
        :param add_generation_prompt: end with the beginning of a reply.
        :raises UsageError: *messages* are not text, or not valid for the template.
        """
        checked = self._checked(messages)
        return self._render(self._template, checked, tools, add_generation_prompt)

    def render_generated(
        self, messages: Messages, *, tools: Tools | None = None
    ) -> tuple[str, list[tuple[int, int]]] | None:
        """Render a conversation; return its text and the spans inside ``{% generation %}`` tags.

        Each span is the index of its first character and the index after its last one.

        :return: ``None`` if the template has no such tags, or if its text depends on them.
        :raises UsageError: see :meth:`render`.
        """
        if not _GENERATION.search(self._source):
            return None
        checked = self._checked(messages)
        text = self._render(self._template, checked, tools, False)
        marked = self._render(self._marking, checked, tools, False)
        if any(mark in text for mark in (_OPEN, _CLOSE)):
            raise UsageError("the messages must not contain the characters U+FDD0 or U+FDD1")
        spans, position = [], 0
        for piece in re.split(f"({_OPEN}[^{_CLOSE}]*{_CLOSE})", marked):
            length = len(piece)
            if piece.startswith(_OPEN):
                length -= 2
                spans.append((position, position + length))
            position += length
        is_same = re.sub(f"[{_OPEN}{_CLOSE}]", "", marked) == text and position == len(text)
        return (text, spans) if is_same else None

    def _checked(self, messages: Messages) -> list[dict[str, Any]]:
        checked = text_messages(messages)
        if self._takes_parts_only:
            for message in checked:
                message["content"] = [{"type": "text", "text": message["content"]}]
        return checked

    def _render(
        self,
        template: Any,
        messages: list[dict[str, Any]],
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        try:
            rendered: str = template.render(
                self._special,
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=list(tools) if tools else None,
                documents=None,
            )
        except Exception as error:  # a template may raise any exception
            reason = str(error) or type(error).__name__
            raise UsageError(f"the chat template rejects the messages: {reason}") from error
        return rendered

    @cached_property
    def _marking(self) -> Any:
        """The template, compiled so that it marks the text inside generation tags."""
        return _compiled(self._source, (_OPEN, _CLOSE))

    @cached_property
    def _takes_parts_only(self) -> bool:
        """Whether the template renders content only if it is a list of parts, not a string."""
        text = "content of a message"

        def shows(content: object) -> bool:
            with suppress(UsageError):
                return text in self._render(self._template, [{"role": "user", "content": content}])
            return False

        return not shows(text) and shows([{"type": "text", "text": text}])


def generation_ends(directory: Path) -> list[int]:
    """Return the ids of the tokens that end a generation, from the model's files in *directory*.

    :raises ChatTemplateError: they cannot be read.
    """
    ids = _config(directory / GENERATION_CONFIG).get("eos_token_id")
    return [number for number in (ids if isinstance(ids, list) else [ids]) if type(number) is int]


def text_messages(messages: object, must_be: str = "messages must be") -> list[dict[str, Any]]:
    """Return *messages* with all their content as text; text parts are joined.

    :param must_be: beginning of the error message.
    :raises UsageError: *messages* is not a list of messages, or has content that is not text.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UsageError(f"{must_be} a non-empty list of messages")
    checked = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(
                f'message {number} must be an object like {{"role": "user", "content": …}}, '
                f"not {brief_json(message)}"
            )
        content = message.get("content")
        if content is None and message.get("tool_calls"):
            content = ""
        text = _joined(content)
        if text is None:
            raise UsageError(
                f"the content of message {number} must be a string, or a list of "
                f'{{"type": "text", "text": …}}, not {brief_json(content)}'
            )
        checked.append({**message, "content": text})
    return checked


def _joined(content: object) -> str | None:
    """Return *content* as one string, or ``None`` if part of it is not text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        return None
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in content
    ]
    known = [text for text in texts if isinstance(text, str)]
    return "".join(known) if len(known) == len(texts) else None


def special_tokens(directory: Path) -> dict[str, str]:
    """Return name → text of the special tokens of the tokenizer in *directory*.

    As in transformers, ``special_tokens_map.json`` is ignored if ``tokenizer_config.json`` has the
    newer ``added_tokens_decoder``.

    :raises ChatTemplateError: a file cannot be read.
    """
    config, extra = _config(directory / CONFIG), _config(directory / SPECIAL)
    if "added_tokens_decoder" not in config:
        config = config | extra
    named = {name: token for name, token in config.items() if name.endswith("_token")}
    more = config.get("extra_special_tokens")
    named |= more if isinstance(more, dict) else {}
    special = {}
    for name, token in named.items():
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            special[name] = text
    return special


def _compiled(source: str, marks: tuple[str, str] = ("", "")) -> Any:
    """Compile a template.

    :param marks: text that it writes before and after the content of each generation tag.
    :raises ChatTemplateError: *source* is not a template.
    """
    import jinja2

    try:
        return _environment(marks).from_string(source)
    except jinja2.TemplateError as error:
        raise ChatTemplateError(f"the chat template is not valid: {error}") from error


def _environment(marks: tuple[str, str]) -> Any:
    from datetime import datetime

    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` encloses the assistant's text."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            before, after = (jinja2.nodes.Output([jinja2.nodes.TemplateData(m)]) for m in marks)
            return [before, *body, after]

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


def _config(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        value = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        raise ChatTemplateError(f"{path} is not JSON") from error
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ChatTemplateError(f"cannot read {path}: {reason}") from error
