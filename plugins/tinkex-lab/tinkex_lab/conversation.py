"""A conversation with a chat model."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import IO, Any

from tinkex.api import SamplingClient, SamplingParams, Tokenizer
from tinkex.exceptions import LocalError, UsageError
from tinkex.files import acquire_lock, check_writable, user_path

Message = dict[str, str]

#: Seconds to wait for another process that writes to the log.
_LOCK_TIMEOUT = 10.0
#: Number of tokens of an answer if ``max_tokens`` is not set, as in ``tinkex.api``.
DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True)
class ChatModel:
    """A model to talk to.

    :ivar name: path of the checkpoint, or name of the base model.
    :ivar label: the name that the user typed.
    :ivar context: maximum number of tokens of prompt and answer together, if known.
    """

    name: str
    label: str
    sampling: SamplingClient
    tokenizer: Tokenizer
    context: int | None


@dataclass(frozen=True)
class Answer:
    """An answer of the model.

    :ivar prompt_tokens: number of tokens of the conversation before it.
    :ivar avg_logprob: mean logprob of its tokens in nats, if known.
    """

    content: str
    stop_reason: str
    prompt_tokens: int
    token_count: int
    avg_logprob: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as a message with additional members."""
        return {"role": "assistant", **vars(self)}


class ContextFull(UsageError):
    """The conversation and the longest possible answer exceed the context of the model."""


@dataclass
class Conversation:
    """The messages so far, and the model that answers them.

    If an answer was interrupted or failed, the last message is one of the user.
    """

    model: ChatModel
    params: SamplingParams
    system: str | None = None
    turns: list[Message] = field(default_factory=list)
    _answers: int = 0

    @property
    def messages(self) -> list[Message]:
        """The system message, if any, and all turns."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self.turns]

    def say(self, text: str) -> Answer:
        """Add a user message and return the answer.

        A previous message without an answer is replaced.

        :raises ContextFull: there is no room for an answer; the message is not added.
        """
        before = list(self.turns)
        self._drop_unanswered()
        self.turns.append({"role": "user", "content": text})
        try:
            return self._answer()
        except ContextFull:
            self.turns = before
            raise

    def retry(self) -> Answer:
        """Replace the last answer with a new one.

        :raises UsageError: there is no message to answer.
        """
        before = list(self.turns)
        if self.turns and self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        if not self.turns:
            raise UsageError("there is no message to answer")
        try:
            return self._answer()
        except BaseException:  # an interrupted attempt does not lose the answer
            self.turns = before
            raise

    def undo(self) -> str:
        """Remove the last user message and its answer; return the text of the message.

        :raises UsageError: there are no messages.
        """
        if not self.turns:
            raise UsageError("there is no message to remove")
        if self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        return self.turns.pop()["content"]

    def reset(self) -> None:
        """Remove all turns; the system message is kept."""
        self.turns = []

    def set_param(self, name: str, text: str) -> None:
        """Set a sampling parameter.

        :param text: its value as JSON, or a string; empty for the default value.
        :raises UsageError: the parameter does not exist, or the value is not valid.
        """
        known: dict[str, Any] = {item.name: item.default for item in fields(SamplingParams)}
        if name not in known:
            raise UsageError(
                f"unknown parameter {name!r}", hint=f"Valid parameters: {', '.join(known)}."
            )
        value = _value(text) if text else known[name]
        if name == "stop" and isinstance(value, str):
            value = [value]
        self.params = replace(self.params, **{name: value})

    def size(self) -> int:
        """Return the number of tokens of the conversation, as a prompt for an answer."""
        return len(self._prompt()) if self.turns else 0

    def _drop_unanswered(self) -> None:
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()

    def _prompt(self) -> list[int]:
        return self.model.tokenizer.encode_messages(self.messages)

    def _answer(self) -> Answer:
        prompt = self._prompt()
        self._check_room(len(prompt))
        tokenizer, params = self.model.tokenizer, self.params
        if params.seed is not None:  # otherwise /retry would return the same answer
            params = replace(params, seed=params.seed + self._answers)
        self._answers += 1
        params = tokenizer.stop_sequences.added_to(params)
        (sequence, *_) = self.model.sampling.sample(prompt, params).sequences
        content = tokenizer.decode_reply(sequence.tokens)
        self.turns.append({"role": "assistant", "content": content})
        logprobs = [value for value in sequence.logprobs or () if math.isfinite(value)]
        return Answer(
            content,
            sequence.stop_reason,
            len(prompt),
            len(sequence.tokens),
            sum(logprobs) / len(logprobs) if logprobs else None,
        )

    def _check_room(self, size: int) -> None:
        """Check the room for the longest possible answer to a prompt of *size* tokens.

        :raises ContextFull: prompt and answer exceed the context.
        """
        longest = self.params.max_tokens or DEFAULT_MAX_TOKENS
        context = self.model.context
        if context is not None and size + longest > context:
            raise ContextFull(
                f"the conversation has {size} tokens; with an answer of up to {longest}, it could "
                f"exceed the context of {context} tokens",
                hint=self._hint_for_room(context - size),
            )

    def _hint_for_room(self, room: int) -> str:
        """Return what to do if an answer can have at most *room* tokens."""
        ways = ["remove turns with /undo or /reset"] if len(self.turns) > 1 else []
        if room > 0:
            ways.append(f"reduce the maximum length of answers: /params max_tokens {room}")
        hint = ", or ".join(ways or ["send a shorter message"])
        return f"{hint[0].upper()}{hint[1:]}{'' if room > 0 else '.'}"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class ConversationLog:
    """A file of conversations, one line of JSON each.

    The line of the current conversation is replaced after each answer, so that the file is
    complete at any time. Other processes may append to the same file.

    :param name: name of the file; it is created if necessary.
    :raises LocalError: the file cannot be written.
    """

    def __init__(self, name: str) -> None:
        check_writable(name)
        self._path = user_path(name)
        if self._path.exists() and not self._path.is_file():
            raise LocalError(f"{name} is not a regular file", hint="Specify another file.")
        self._start, self._line = 0, b""
        self._write(b"")

    def write(self, messages: Sequence[Message], model: str) -> None:
        """Write the line of the current conversation, or remove it if there is no answer.

        :raises LocalError: the file cannot be written; the previous line is kept.
        """
        answered = list(messages)
        while answered and answered[-1]["role"] != "assistant":
            answered.pop()
        row = {"messages": answered, "model": model}
        text = json.dumps(row, ensure_ascii=False) + "\n"
        self._write(text.encode("utf-8", "backslashreplace") if answered else b"")

    def begin(self) -> None:
        """Begin a new conversation; the line of the current one is kept."""
        self._line = b""

    def _write(self, line: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b", buffering=0) as file:
                if not acquire_lock(file, timeout=_LOCK_TIMEOUT):
                    raise LocalError(
                        f"another process is writing to {self._path}",
                        hint="Try again, or specify another file with --log.",
                    )
                self._replace(file, line)
        except OSError as error:
            raise LocalError(f"cannot write {self._path}: {error.strerror}") from error

    def _replace(self, file: IO[bytes], line: bytes) -> None:
        end = file.seek(0, os.SEEK_END)
        if not self._line or end != self._start + len(self._line):  # not the last line
            self._start, self._line = end, b""
            file.seek(max(0, end - 1))
            if end and line and file.read(1) != b"\n":
                line = b"\n" + line
        file.truncate(self._start)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                file.truncate(self._start)
                file.write(self._line)
            raise
        self._line = line
