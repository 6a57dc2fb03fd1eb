"""Many prompts: rows of JSONL, lines of text, or the files of a directory.

Everything is read twice: once to check it before anything is sampled, and once row by row while
sampling, so that memory does not grow with the number of rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from tinkex.commands.inputs import prompt_in
from tinkex.exceptions import LocalError, TinkexError, UsageError
from tinkex.files import MAX_INPUT, user_path

if TYPE_CHECKING:
    from tinkex.api import SamplingParams

#: The members of a row that hold the prompt; exactly one of them is there.
PROMPTS = ("prompt", "tokens", "messages")
#: The members that say how this row is sampled: as the options of those names.
OVERRIDES = ("max_tokens", "temperature", "top_k", "top_p", "stop", "seed", "num_samples")
_MAX_SAMPLES = 4096
_BLOCK = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """One prompt of many.

    :ivar index: its place among all, from 0.
    :ivar id: given in the row, or the number of its line, or the name of its file.
    :ivar where: for messages: ``prompts.jsonl, line 7``.
    :ivar prompt: a text, token ids, or messages.
    :ivar extra: members of the row that mean nothing here.
    """

    index: int
    id: str
    where: str
    prompt: Any
    params: SamplingParams
    num_samples: int
    extra: dict[str, Any]


class Prompts:
    """All prompts of one source, checked; a context manager that closes it.

    :ivar total: how many there are.
    :ivar digest: a fingerprint of their content.
    :ivar needs_tokenizer: whether one of them is more than token ids.
    :ivar needs_template: whether one of them is messages.
    """

    def __init__(
        self,
        read: Callable[[Any], Iterator[PromptRow]],
        file: IO[bytes] | None,
        name: str,
        kind: str,
    ) -> None:
        self._read = read
        self._file = file
        self._name = name
        self._kind = kind
        self.total = 0
        self.digest = ""
        self.needs_tokenizer = self.needs_template = False

    def __enter__(self) -> Prompts:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[PromptRow]:
        """Yield the rows that were checked.

        :raises LocalError: behind the last one: they are not what was checked.
        """
        digest = hashlib.sha256(self._kind.encode())
        try:
            for row in self._read(digest):
                if row.index < self.total:
                    yield row
        except UsageError as error:  # it was a good row before
            raise self._changed() from error
        if digest.hexdigest() != self.digest:
            raise self._changed()

    def _changed(self) -> LocalError:
        return LocalError(
            f"{self._name} changed while it was being sampled",
            hint="Rows of before and after may stand among the results. Begin anew with a copy "
            "that stays as it is.",
        )

    def check(self) -> None:
        """Read everything once.

        :raises UsageError: a row is bad, two have the same id, or there are none.
        :raises LocalError: they cannot be read.
        """
        digest = hashlib.sha256(self._kind.encode())
        seen: set[int] = set()
        for row in self._read(digest):
            # Eight bytes tell apart more ids than anybody has.
            id = row.id.encode("utf-8", "surrogatepass")
            mark = int.from_bytes(hashlib.blake2b(id, digest_size=8).digest())
            if mark in seen:
                first = next(other for other in self._read(None) if other.id == row.id)
                raise UsageError(
                    f"two rows have the id {row.id[:80]!r}: {first.where}, and {row.where}",
                    hint="Give every row an id of its own, or none of them any.",
                )
            seen.add(mark)
            self.total += 1
            if not _is_tokens(row.prompt):
                self.needs_tokenizer = True
                self.needs_template |= not isinstance(row.prompt, str)
        if not self.total:
            raise UsageError(f"there are no prompts in {self._name}")
        self.digest = digest.hexdigest()


def open_prompts(
    name: str,
    stdin: TextIO | None,
    params: SamplingParams,
    num_samples: int,
    kind: str | None = None,
) -> Prompts:
    """Check and return the prompts that *name* means: a file, a directory, or ``-``.

    :param params: how tokens are drawn where a row does not say otherwise.
    :param kind: ``jsonl`` or ``text``; by default told from the name or the first line.
    :raises UsageError: see :meth:`Prompts.check`.
    """
    maker = _Maker(params, num_samples)
    label = "standard input" if name == "-" else name
    if name != "-" and user_path(name).is_dir():
        path = user_path(name)
        prompts = Prompts(lambda digest: _files(path, maker, digest), None, label, "directory")
    else:
        file = _seekable(name, stdin)
        kind = kind or _kind_of(name, file)
        parse = maker.from_json if kind == "jsonl" else maker.from_text
        prompts = Prompts(lambda digest: _lines(file, label, parse, digest), file, label, kind)
    try:
        prompts.check()
    except BaseException:
        prompts.__exit__()
        raise
    return prompts


class _Maker:
    """Makes rows out of what is read."""

    def __init__(self, params: SamplingParams, num_samples: int) -> None:
        self._params = params
        self._num_samples = num_samples

    def from_text(self, index: int, number: int, where: str, text: str) -> PromptRow:
        return self._plain(index, str(number), where, text)

    def from_file(self, index: int, name: str, where: str, text: str) -> PromptRow:
        prompt = prompt_in(text)
        if not prompt:
            raise UsageError("the prompt is empty")
        return self._plain(index, name, where, prompt)

    def _plain(self, index: int, id: str, where: str, prompt: Any) -> PromptRow:
        return PromptRow(index, id, where, prompt, self._params, self._num_samples, {})

    def from_json(self, index: int, number: int, where: str, text: str) -> PromptRow:
        row = _object(text)
        given = [name for name in PROMPTS if row.get(name) is not None]
        if len(given) != 1:
            found = " and ".join(map(repr, given)) or "none"
            raise UsageError(f"one of 'prompt', 'tokens' and 'messages' is needed, not {found}")
        prompt = _checked_prompt(given[0], row[given[0]])
        changes = {name: row[name] for name in OVERRIDES if row.get(name) is not None}
        num_samples = _whole("num_samples", changes.pop("num_samples", self._num_samples))
        if not 1 <= num_samples <= _MAX_SAMPLES:
            raise UsageError(f"num_samples must be from 1 to {_MAX_SAMPLES}, not {num_samples}")
        params = self._params
        if changes:
            checked = {name: _checked(name, value) for name, value in changes.items()}
            params = dataclasses.replace(params, **checked)
        known = {"id", *PROMPTS, *OVERRIDES}
        extra = {name: value for name, value in row.items() if name not in known}
        for name, value in extra.items():
            _refuse_misspelt(name)
            _refuse_no_number(name, value)
        return PromptRow(index, _id(row, number), where, prompt, params, num_samples, extra)


def _lines(
    file: IO[bytes],
    label: str,
    parse: Callable[[int, int, str, str], PromptRow],
    digest: Any,
) -> Iterator[PromptRow]:
    file.seek(0)
    index = number = 0
    while line := file.readline(MAX_INPUT):
        number += 1
        if digest is not None:
            digest.update(line)
        where = f"{label}, line {number}"
        if len(line) == MAX_INPUT and not line.endswith(b"\n"):
            raise LocalError(f"{where} is longer than {MAX_INPUT} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            if not text.strip():
                continue
            row = parse(index, number, where, text)
        except UnicodeDecodeError as error:
            raise LocalError(f"{where} is not UTF-8 text", hint="Convert it with iconv.") from error
        except TinkexError as error:
            raise UsageError(f"{where}: {error}", hint=error.hint) from error
        yield row
        index += 1


def _files(directory: Path, maker: _Maker, digest: Any) -> Iterator[PromptRow]:
    for index, path in enumerate(_below(directory)):
        name = path.relative_to(directory).as_posix()
        try:
            content = path.read_bytes()
            text = content.decode("utf-8-sig")
            row = maker.from_file(index, name, str(path), text)
        except UnicodeDecodeError as error:
            raise LocalError(f"{path} is not UTF-8 text", hint="Convert it with iconv.") from error
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror}") from error
        except TinkexError as error:
            raise UsageError(f"{path}: {error}", hint=error.hint) from error
        if digest is not None:
            digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
        yield row


def _below(directory: Path) -> Iterator[Path]:
    """Yield the files below *directory* in the order of their names, hidden ones left out."""

    def refuse(error: OSError) -> None:
        raise LocalError(f"cannot read {error.filename}: {error.strerror}") from error

    for parent, directories, files in os.walk(directory, onerror=refuse):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _seekable(name: str, stdin: TextIO | None) -> IO[bytes]:
    """Open *name*; what can be read only once is copied to a temporary file first."""
    try:
        if name != "-":
            file = user_path(name).open("rb")
            if file.seekable():
                return file
            with file:
                return _copied(file)
        if stdin is None:
            raise LocalError("cannot read standard input: it is closed")
        binary = getattr(stdin, "buffer", None)
        return _copied(binary) if binary else _copied_text(stdin)
    except OSError as error:
        where = "standard input" if name == "-" else name
        raise LocalError(f"cannot read {where}: {error.strerror}") from error


def _copied(source: IO[bytes]) -> IO[bytes]:
    copy: IO[bytes] = tempfile.TemporaryFile(prefix="tinkex-")  # noqa: SIM115 - it is returned
    while block := source.read(_BLOCK):
        copy.write(block)
    return copy


def _copied_text(source: TextIO) -> IO[bytes]:
    copy: IO[bytes] = tempfile.TemporaryFile(prefix="tinkex-")  # noqa: SIM115 - it is returned
    copy.write(source.read().encode())
    return copy


def _kind_of(name: str, file: IO[bytes]) -> str:
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if name.endswith(".txt"):
        return "text"
    file.seek(0)
    while line := file.readline(MAX_INPUT):
        if line.strip():
            return "jsonl" if line.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" else "text"
    return "text"


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "Each line is one JSON object; for one prompt a line: --input-format text."
        raise UsageError("not a JSON object", hint=hint) from error
    if not isinstance(row, dict):
        raise UsageError("not a JSON object", hint='For example: {"prompt": "Once upon a time"}')
    return row


def _id(row: dict[str, Any], number: int) -> str:
    value = row.get("id")
    if value is None:
        return str(number)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise UsageError("'id' must be a text or a whole number")
    return str(value)


def _checked_prompt(kind: str, value: Any) -> Any:
    if kind == "prompt":
        if not isinstance(value, str) or not value:
            raise UsageError("'prompt' must be a text that is not empty")
    elif kind == "tokens":
        if not isinstance(value, list) or not value or not _is_tokens(value):
            raise UsageError("'tokens' must be a list of token ids, from 0 to 2147483647")
    else:
        from tinkex.api.sampling.chat import check_messages

        check_messages(value)
    return value


def _is_tokens(value: Any) -> bool:
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        return False
    return not value or (min(value) >= 0 and max(value) < 2**31)


def _checked(name: str, value: Any) -> Any:
    if name == "stop":
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UsageError("'stop' must be a text or a list of texts")
        return tuple(texts)
    if name in ("temperature", "top_p"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"{name!r} must be a number")
        try:
            float(value)
        except OverflowError as error:  # a whole number of hundreds of digits
            raise UsageError(f"{name!r} is an absurd number") from error
        return value
    return _whole(name, value)


def _whole(name: str, value: Any) -> int:
    if type(value) is not int:
        raise UsageError(f"{name!r} must be a whole number")
    return value


def _refuse_misspelt(name: str) -> None:
    """Refuse what was surely meant to say how the row is sampled: it would be ignored."""
    plain = name.lower().replace("-", "").replace("_", "").rstrip("s")
    for known in (*PROMPTS, *OVERRIDES):
        if plain == known.replace("_", "").rstrip("s"):
            raise UsageError(f"there is no member {name!r}", hint=f"Did you mean {known!r}?")


def _refuse_no_number(name: str, value: Any) -> None:
    """Refuse what the line of the result could not say again: Python reads and writes NaN."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise UsageError(
            f"{name[:80]!r} holds NaN or an infinite number, which JSON does not have",
            hint="Write null in its place.",
        ) from error
