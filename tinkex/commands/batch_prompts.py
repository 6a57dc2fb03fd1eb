"""The prompts that a batch reads.

Prompts are lines of JSONL, lines of text, or the files of a directory. They are read twice: once
to check all of them before anything is sampled, and once row by row while sampling, so that memory
does not grow with the number of rows. A JSON array of rows is made into lines first.
"""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from tinkex.commands.inputs import conversation, nearly_token_ids, prompt_in
from tinkex.exceptions import LocalError, TinkexError, UsageError
from tinkex.files import MAX_INPUT, user_path

if TYPE_CHECKING:
    from tinkex.api import SamplingParams

__all__ = ["PromptRow", "PromptSource", "PromptsChanged"]

#: Members of a JSONL row that hold the prompt; exactly one of them is required.
_PROMPTS = ("prompt", "tokens", "messages")
#: Members that override the options of the same names for one row.
_OVERRIDES = ("max_tokens", "temperature", "top_k", "top_p", "stop", "seed", "num_samples")
_KNOWN = frozenset({"id", *_PROMPTS, *_OVERRIDES})
_MAX_SAMPLES = 4096


class PromptsChanged(LocalError):
    """The prompts changed after they were checked."""


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """One prompt of a batch.

    :ivar index: position among all prompts, from 0.
    :ivar id: the ``id`` of the row, or the number of its line, or the name of its file.
    :ivar where: for messages: ``prompts.jsonl, line 7``.
    :ivar prompt: a string, token ids, or messages.
    :ivar extra: other members of the row, returned with its result.
    """

    index: int
    id: str
    where: str
    prompt: Any
    params: SamplingParams
    num_samples: int
    extra: dict[str, Any]


class PromptSource:
    """The checked prompts of a file, a directory or standard input.

    :param name: file or directory; ``-`` is *stdin*.
    :param params: sampling parameters of rows that do not override them.
    :param kind: ``jsonl``, ``text`` (a prompt per line) or ``file`` (a single prompt, as text or
        token ids); by default derived from the name or the first line.
    :param otherwise: the kind of a file that is not JSONL.
    :param chat: treat each text prompt as a user message.
    :param system: system message to put before text prompts and messages; implies *chat*.
    :ivar total: number of prompts.
    :ivar digest: hash of their content.
    :ivar needs_tokenizer: whether any prompt is not token ids.
    :ivar needs_template: whether any prompt is a list of messages.
    :ivar doubtful: number of text prompts that look like token ids.
    :ivar first_doubtful: location of the first one, and why it is text.
    :raises UsageError: a row is invalid, two have the same id, or there are none.
    :raises LocalError: they cannot be read.
    """

    def __init__(
        self,
        name: str,
        stdin: TextIO | None,
        params: SamplingParams,
        num_samples: int,
        kind: str | None = None,
        *,
        otherwise: str = "text",
        chat: bool = False,
        system: str | None = None,
    ) -> None:
        self._name = "standard input" if name == "-" else name
        self._params = params
        self._num_samples = num_samples
        self._chat, self._system = chat or system is not None, system
        self._file: IO[bytes] | None = None
        if name != "-" and user_path(name).is_dir():
            self._kind = "directory"
        else:
            self._file = _seekable(name, stdin)
            self._kind = kind or _kind_of(name, self._file, otherwise)
        self._item = "line"
        self.total = 0
        self.needs_tokenizer = self.needs_template = False
        self.doubtful, self.first_doubtful = 0, ("", "")
        try:
            if self._file and self._kind == "jsonl" and _first(self._file)[:1] == b"[":
                self._file, self._item = _array_as_lines(self._name, self._file), "row"
            self.digest = self._check(is_text=kind == "text")
        except BaseException:
            self.close()
            raise

    def doubt(self, use: str) -> str | None:
        """Return a warning about text prompts that look like token ids, or ``None``.

        :param use: the use of the prompts, such as ``encoded``.
        """
        if not self.doubtful:
            return None
        where, why = self.first_doubtful
        more = f" ({self.doubtful} such prompts in total)" if self.doubtful > 1 else ""
        return f"{where} is {use} as text, not as token ids: {why}{more}"

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[PromptRow]:
        """Yield the checked rows.

        :raises PromptsChanged: after the last row, if the prompts have changed.
        """
        digest = hashlib.sha256()
        invalid: UsageError | None = None
        try:
            for row in self._rows(digest):
                if row.index < self.total:
                    yield row
        except UsageError as error:  # the row was valid before
            invalid = error
        if invalid or digest.hexdigest() != self.digest:
            raise PromptsChanged(
                f"{self._name} changed while it was being read",
                hint="The results may come from both versions. Start over with a copy that "
                "does not change.",
            ) from invalid

    def _check(self, *, is_text: bool) -> str:
        """Read everything once; return the digest.

        :param is_text: do not report any prompt as doubtful.
        """
        from tinkex.api.sampling.types import are_token_ids

        digest = hashlib.sha256()
        seen: set[int] = set()
        for row in self._rows(digest):
            # Eight bytes are enough to distinguish all ids of a file.
            id = row.id.encode("utf-8", "surrogatepass")
            mark = int.from_bytes(hashlib.blake2b(id, digest_size=8).digest())
            if mark in seen:
                first = next(r for r in self._rows(hashlib.sha256()) if r.id == row.id)
                raise UsageError(
                    f"two rows have the id {row.id[:80]!r}: {first.where}, and {row.where}",
                    hint="Give every row a unique id, or omit the ids.",
                )
            seen.add(mark)
            self.total += 1
            if not are_token_ids(row.prompt):
                self.needs_tokenizer = True
                self.needs_template |= not isinstance(row.prompt, str)
            if not is_text and self._kind != "jsonl" and (why := nearly_token_ids(row.prompt)):
                self.doubtful += 1
                if self.doubtful == 1:
                    self.first_doubtful = (row.where, why)
        if not self.total:
            raise UsageError(f"there are no prompts in {self._name}")
        return digest.hexdigest()

    def _rows(self, digest: hashlib._Hash) -> Iterator[PromptRow]:
        digest.update(self._kind.encode())
        contents = self._files(digest)
        if self._file:
            contents = self._whole(digest) if self._kind == "file" else self._lines(digest)
        for index, (id, where, content) in enumerate(contents):
            try:
                text = content.decode()
                if self._kind == "jsonl":
                    row = self._from_json(index, id, where, text)
                else:
                    prompt = text if self._kind == "text" else prompt_in(text)
                    if not prompt:
                        raise UsageError("the prompt is empty")
                    params, num_samples = self._params, self._num_samples
                    prompt = self._as_chat(prompt)
                    row = PromptRow(index, id, where, prompt, params, num_samples, {})
            except UnicodeDecodeError as error:
                hint = "Convert the file to UTF-8 with iconv."
                message = f"{where} is not UTF-8 text (byte {error.start})"
                raise LocalError(message, hint=hint) from error
            except TinkexError as error:
                raise UsageError(f"{where}: {error}", hint=error.hint) from error
            yield row

    def _lines(self, digest: hashlib._Hash) -> Iterator[tuple[str, str, bytes]]:
        """Yield the number, the location and the content of each line that is not blank."""
        assert self._file is not None
        self._file.seek(0)
        number = 0
        while line := self._file.readline(MAX_INPUT):
            number += 1
            digest.update(line)
            where = f"{self._name}, {self._item} {number}"
            if len(line) == MAX_INPUT and not line.endswith(b"\n"):
                raise LocalError(f"{where} is longer than {MAX_INPUT} bytes", hint="Shorten it.")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield str(number), where, line.rstrip(b"\r\n")

    def _whole(self, digest: hashlib._Hash) -> Iterator[tuple[str, str, bytes]]:
        """Yield the id, the name and the content of the file; the id is the name."""
        assert self._file is not None
        self._file.seek(0)
        content = self._file.read(MAX_INPUT + 1)
        if len(content) > MAX_INPUT:
            raise LocalError(f"{self._name} is longer than {MAX_INPUT} bytes", hint="Split it.")
        digest.update(content)
        yield self._name, self._name, content.removeprefix(codecs.BOM_UTF8)

    def _files(self, digest: hashlib._Hash) -> Iterator[tuple[str, str, bytes]]:
        """Yield the name, the path and the content of each file in the directory."""
        directory = user_path(self._name)
        for path in _below(directory):
            name = path.relative_to(directory).as_posix()
            try:
                content = path.read_bytes()
            except OSError as error:
                raise LocalError(f"cannot read {path}: {error.strerror}") from error
            digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
            yield name, str(path), content.removeprefix(codecs.BOM_UTF8)

    def _from_json(self, index: int, number: str, where: str, text: str) -> PromptRow:
        row = _object(text)
        given = [name for name in _PROMPTS if row.get(name) is not None]
        if len(given) != 1:
            found = " and ".join(map(repr, given)) or "none"
            raise UsageError(
                f"expected exactly one of 'prompt', 'tokens' and 'messages', but found {found}",
                hint='For example: {"prompt": "Once upon a time"}',
            )
        prompt = self._as_chat(_checked_prompt(given[0], row[given[0]]))
        changes = {name: row[name] for name in _OVERRIDES if name in row and row[name] is not None}
        num_samples = changes.pop("num_samples", self._num_samples)
        if type(num_samples) is not int or not 1 <= num_samples <= _MAX_SAMPLES:
            must_be = f"num_samples must be a whole number from 1 to {_MAX_SAMPLES}"
            raise UsageError(f"{must_be}, not {num_samples!r}")
        if isinstance(changes.get("stop"), str):
            changes["stop"] = [changes["stop"]]
        params = dataclasses.replace(self._params, **changes) if changes else self._params
        extra = {name: value for name, value in row.items() if name not in _KNOWN}
        for name, value in extra.items():
            _check_extra(name, value)
        id = number if row.get("id") is None else row["id"]
        if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
            must_be = "'id' must be a non-empty string or a whole number"
            raise UsageError(f"{must_be}, not {json.dumps(id)[:40]}")
        return PromptRow(index, str(id), where, prompt, params, num_samples, extra)

    def _as_chat(self, prompt: Any) -> Any:
        """Return text (with ``chat``) and messages as a conversation, token ids unchanged."""
        from tinkex.api.sampling.types import is_chat

        is_message = isinstance(prompt, str) and self._chat
        return conversation(prompt, self._system) if is_message or is_chat(prompt) else prompt


def _below(directory: Path) -> Iterator[Path]:
    """Yield the files below *directory* by name, without hidden ones."""

    def refuse(error: OSError) -> None:
        raise LocalError(f"cannot read {error.filename}: {error.strerror}") from error

    for parent, directories, files in os.walk(directory, onerror=refuse):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _seekable(name: str, stdin: TextIO | None) -> IO[bytes]:
    """Open *name*; a stream that cannot be read twice is copied to a temporary file first."""
    try:
        if name != "-":
            file: IO[bytes] = user_path(name).open("rb")
            if file.seekable():
                return file
        elif stdin is None:
            raise LocalError("cannot read standard input: it is closed", hint="Specify a file.")
        else:
            file = stdin.buffer if hasattr(stdin, "buffer") else io.BytesIO(stdin.read().encode())
        copy: IO[bytes] = tempfile.TemporaryFile(prefix="tinkex-")  # noqa: SIM115 - returned
        shutil.copyfileobj(file, copy)
        if name != "-":
            file.close()
        return copy
    except OSError as error:
        where = "standard input" if name == "-" else name
        raise LocalError(f"cannot read {where}: {error.strerror}") from error


def _kind_of(name: str, file: IO[bytes], otherwise: str) -> str:
    if name.endswith((".jsonl", ".ndjson")) or (name.endswith(".json") and otherwise == "text"):
        return "jsonl"
    if name.endswith(".txt"):
        return otherwise
    return "jsonl" if re.match(rb"\{|\[\s*(\{|\]\s*$)", _first(file)) else otherwise


def _first(file: IO[bytes]) -> bytes:
    """Return the beginning of the first lines that are not blank."""
    file.seek(0)
    while line := file.readline(MAX_INPUT):
        if line := line.removeprefix(codecs.BOM_UTF8).lstrip():
            return line + file.read(1024)
    return b""


def _array_as_lines(name: str, file: IO[bytes]) -> IO[bytes]:
    """Return a temporary file with one line for each item of the JSON array in *file*.

    :raises UsageError: it is not a JSON array.
    """
    with file:
        file.seek(0)
        content = file.read(MAX_INPUT + 1)
    if len(content) > MAX_INPUT:
        hint = "Convert it to one JSON object per line: jq -c '.[]' FILE > FILE.jsonl"
        raise LocalError(f"{name} is longer than {MAX_INPUT} bytes", hint=hint)
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        from tinkex.api.sampling.types import why_not_json

        hint = "Write one JSON object per line, or use --input-format text for one prompt per line."
        raise UsageError(f"{name} is not a JSON array: {why_not_json(error)}", hint=hint) from error
    lines: IO[bytes] = tempfile.TemporaryFile(prefix="tinkex-")  # noqa: SIM115 - returned
    lines.writelines(json.dumps(row).encode() + b"\n" for row in rows)
    return lines


def _object(text: str) -> dict[str, Any]:
    from tinkex.api.sampling.types import brief_json, why_not_json

    try:
        row = json.loads(text)
        if isinstance(row, dict):
            return row
        why = f"it is {brief_json(row)}"
    except (ValueError, RecursionError) as error:
        why = why_not_json(error)
    hint = "Write one JSON object per line, or use --input-format text for one prompt per line."
    raise UsageError(f"not a JSON object: {why}", hint=hint)


def _checked_prompt(kind: str, value: Any) -> Any:
    from tinkex.api.sampling.types import are_token_ids, brief_json, why_not_token_ids

    if kind == "prompt":
        if not isinstance(value, str) or not value:
            raise UsageError(f"'prompt' must be a non-empty string, not {brief_json(value)}")
    elif kind == "tokens":
        if value and are_token_ids(value):
            return value
        why = why_not_token_ids(value) if value else f"it is {brief_json(value)}"
        if why:
            raise UsageError(f"'tokens' must be an array of token ids from 0 to 2147483647: {why}")
    else:
        from tinkex.api.sampling.chat import text_messages

        return text_messages(value)
    return value


def _check_extra(name: str, value: Any) -> None:
    """Check a member that is only returned with the result.

    :raises UsageError: its name is a misspelt override, or its value is not valid JSON.
    """
    plain = name.lower().replace("-", "").replace("_", "").rstrip("s")
    for known in (*_PROMPTS, *_OVERRIDES):
        if plain == known.replace("_", "").rstrip("s"):
            raise UsageError(f"unknown field {name!r}", hint=f"Did you mean {known!r}?")
    try:
        json.dumps(value, allow_nan=False)  # Python's parser accepts NaN
    except ValueError as error:
        raise UsageError(
            f"{name[:80]!r} contains NaN or an infinite number, which JSON does not allow",
            hint="Use null instead.",
        ) from error
