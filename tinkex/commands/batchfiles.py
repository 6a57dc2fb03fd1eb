"""The files of a batch: the prompts that it reads and the results that it writes.

Prompts are lines of JSONL, lines of text, or the files of a directory. They are read twice: once
to check all of them before anything is sampled, and once row by row while sampling, so that memory
does not grow with the number of rows. A JSON array of rows is made into lines first.

Each result is one line, written at once. Next to ``OUT.jsonl`` are ``OUT.batch.json``, which
records how the results were made, and ``OUT.failed.jsonl`` with the rows that failed. To resume,
rows with a complete line count as done; an incomplete last line is dropped.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from tinkex.api.sampling.types import are_token_ids, shown, why_not_token_ids
from tinkex.commands.inputs import nearly_token_ids, prompt_in
from tinkex.exceptions import LocalError, TinkexError, UsageError
from tinkex.files import (
    MAX_INPUT,
    acquire_lock,
    check_writable,
    replacing,
    user_path,
    write_atomically,
)

if TYPE_CHECKING:
    from tinkex.api import SamplingParams

__all__ = ["PromptRow", "PromptSource", "PromptsChanged", "ResultsFile"]

#: Members of a JSONL row that hold the prompt; exactly one of them is required.
_PROMPTS = ("prompt", "tokens", "messages")
#: Members that override the options of the same names for one row.
_OVERRIDES = ("max_tokens", "temperature", "top_k", "top_p", "stop", "seed", "num_samples")
_MAX_SAMPLES = 4096
_VERSION = 1
#: Start of the line of a row that has no result.
_NOWHERE = 2**64 - 1


class PromptsChanged(LocalError):
    """The prompts are not those that were checked before sampling."""


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """One prompt of a batch.

    :ivar index: position among all prompts, from 0.
    :ivar id: the ``id`` of the row, or the number of its line, or the name of its file.
    :ivar where: for messages: ``prompts.jsonl, line 7``.
    :ivar prompt: a text, token ids, or messages.
    :ivar extra: members of the row without a meaning here.
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
    :param kind: ``jsonl`` or ``text``; by default derived from the name or the first line.
    :ivar total: number of prompts.
    :ivar digest: hash of their content.
    :ivar needs_tokenizer: whether a prompt is not token ids.
    :ivar needs_template: whether a prompt is messages.
    :ivar doubtful: number of prompts that look like token ids, and are text.
    :ivar first_doubtful: where the first of them is, and why it is text.
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
    ) -> None:
        self._name = "standard input" if name == "-" else name
        self._params = params
        self._num_samples = num_samples
        self._file: IO[bytes] | None = None
        if name != "-" and user_path(name).is_dir():
            self._kind = "directory"
        else:
            self._file = _seekable(name, stdin)
            self._kind = kind or _kind_of(name, self._file)
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

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[PromptRow]:
        """Yield the checked rows.

        :raises PromptsChanged: after the last row: they are not those that were checked.
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
                f"{self._name} changed while it was being sampled",
                hint="The results may contain rows of both versions. Start over with a copy that "
                "does not change.",
            ) from invalid

    def _check(self, *, is_text: bool) -> str:
        """Read everything once; return the digest.

        :param is_text: no prompt is reported as doubtful.
        """
        digest = hashlib.sha256()
        seen: set[int] = set()
        for row in self._rows(digest):
            # Eight bytes distinguish more ids than any file has.
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
        contents = self._lines(digest) if self._file else self._files(digest)
        for index, (id, where, content) in enumerate(contents):
            try:
                text = content.decode()
                if self._kind == "jsonl":
                    row = self._from_json(index, id, where, text)
                else:
                    prompt = prompt_in(text) if self._kind == "directory" else text
                    if not prompt:
                        raise UsageError("the prompt is empty")
                    params, num_samples = self._params, self._num_samples
                    row = PromptRow(index, id, where, prompt, params, num_samples, {})
            except UnicodeDecodeError as error:
                hint = "Convert it with iconv."
                raise LocalError(f"{where} is not UTF-8 text", hint=hint) from error
            except TinkexError as error:
                raise UsageError(f"{where}: {error}", hint=error.hint) from error
            yield row

    def _lines(self, digest: hashlib._Hash) -> Iterator[tuple[str, str, bytes]]:
        """Yield the number, the place and the content of each line that is not blank."""
        assert self._file is not None
        self._file.seek(0)
        number = 0
        while line := self._file.readline(MAX_INPUT):
            number += 1
            digest.update(line)
            where = f"{self._name}, {self._item} {number}"
            if len(line) == MAX_INPUT and not line.endswith(b"\n"):
                raise LocalError(f"{where} is longer than {MAX_INPUT} bytes")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield str(number), where, line.rstrip(b"\r\n")

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
            raise UsageError(f"expected one of 'prompt', 'tokens' and 'messages', not {found}")
        prompt = _checked_prompt(given[0], row[given[0]])
        changes = {name: row[name] for name in _OVERRIDES if row.get(name) is not None}
        num_samples = changes.pop("num_samples", self._num_samples)
        if type(num_samples) is not int or not 1 <= num_samples <= _MAX_SAMPLES:
            raise UsageError(f"num_samples must be from 1 to {_MAX_SAMPLES}, not {num_samples!r}")
        if isinstance(changes.get("stop"), str):
            changes["stop"] = [changes["stop"]]
        params = dataclasses.replace(self._params, **changes) if changes else self._params
        extra = {n: v for n, v in row.items() if n not in ("id", *_PROMPTS, *_OVERRIDES)}
        for name, value in extra.items():
            _check_extra(name, value)
        id = number if row.get("id") is None else row["id"]
        if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
            raise UsageError(f"'id' must be a text or a whole number, not {shown(id)}")
        return PromptRow(index, str(id), where, prompt, params, num_samples, extra)


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
            raise LocalError("cannot read standard input: it is closed")
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


def _kind_of(name: str, file: IO[bytes]) -> str:
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if name.endswith(".txt"):
        return "text"
    return "jsonl" if re.match(rb"\{|\[\s*[{\]]", _first(file)) else "text"


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
        hint = "Write one JSON object a line: jq -c '.[]'"
        raise LocalError(f"{name} is longer than {MAX_INPUT} bytes", hint=hint)
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        hint = "Write one JSON object a line; for one prompt a line: --input-format text."
        raise UsageError(
            f"{name} is not a JSON array: {_why_not_json(error)}", hint=hint
        ) from error
    lines: IO[bytes] = tempfile.TemporaryFile(prefix="tinkex-")  # noqa: SIM115 - returned
    lines.writelines(json.dumps(row).encode() + b"\n" for row in rows)
    return lines


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
        why = f"it is {shown(row)}"
    except (ValueError, RecursionError) as error:
        row, why = None, _why_not_json(error)
    if isinstance(row, dict):
        return row
    hint = "Each line is one JSON object; for one prompt a line: --input-format text."
    raise UsageError(f"not a JSON object: {why}", hint=hint)


def _why_not_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    line = f"line {error.lineno}, " if error.lineno > 1 else ""
    return f"{error.msg} ({line}column {error.colno})"


def _checked_prompt(kind: str, value: Any) -> Any:
    if kind == "prompt":
        if not isinstance(value, str) or not value:
            raise UsageError(f"'prompt' must be a text that is not empty, not {shown(value)}")
    elif kind == "tokens":
        why = why_not_token_ids(value) if value else f"it is {shown(value)}"
        if why:
            raise UsageError(f"'tokens' must be a list of token ids, from 0 to 2147483647: {why}")
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
            f"{name[:80]!r} holds NaN or an infinite number, which JSON does not have",
            hint="Write null in its place.",
        ) from error


class ResultsFile:
    """The results of a batch, one line each, and the files next to it.

    :param output: name of the file.
    :param made_by: the options that the results depend on; a batch is resumed only with the same.
    :param total: number of rows in all.
    :ivar done: number of rows with a line.
    :ivar failed_path: file for the rows that failed.
    """

    def __init__(self, output: str, made_by: Mapping[str, Any], total: int) -> None:
        check_writable(output)
        self.name = output
        self.done = 0
        self._path = user_path(output)
        stem = str(self._path).removesuffix(".jsonl")
        self._record_path = Path(f"{stem}.batch.json")
        self.failed_path = Path(f"{stem}.failed.jsonl")
        self._made_by = dict(made_by)
        self._starts = array("Q", [_NOWHERE]) * total
        self._end = 0
        self._file: IO[bytes] | None = None
        self._failures: IO[bytes] | None = None

    def check_apart_from(self, prompts: str) -> None:
        """Check that no file of the results is one of the prompts.

        :param prompts: name of a file or directory.
        :raises UsageError: one is, or would be in the directory.
        """
        source = Path(os.path.realpath(user_path(prompts)))
        for path in (self._path, self.failed_path, self._record_path):
            place = Path(os.path.realpath(path))
            if place.is_relative_to(source) or (place.exists() and place.samefile(source)):
                is_in = "is among the prompts" if source.is_dir() else "has the prompts"
                raise UsageError(
                    f"{path} {is_in}", hint="Put the results somewhere else with --output."
                )

    def check(self, *, resume: bool, force: bool) -> None:
        """Raise what :meth:`open` would, without changing anything.

        :raises UsageError: the file exists, and may be neither resumed nor replaced, or it was
            made with other options or prompts.
        """
        if not self._path.exists():
            return
        if not self._path.is_file():
            raise UsageError(
                f"{self.name} is not a regular file",
                hint="Leave --output out to write results to standard output.",
            )
        if force or self._is_blank():
            return
        if not resume:
            raise UsageError(
                f"{self.name} exists already",
                hint="To resume it: --resume; to start over: --force.",
            )
        try:
            before = dict(json.loads(self._record_path.read_bytes())["made_by"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"cannot resume {self.name}: its record {self._record_path} is missing or "
                "not valid",
                hint="To start over: --force.",
            ) from error
        for name, now in self._made_by.items():
            if before.get(name) != now:
                option = f"--{name.replace('_', '-')} {json.dumps(before.get(name))}"
                made_with = f"{option}, but this run uses {json.dumps(now)}"
                raise UsageError(
                    f"{self.name} was created with "
                    + ("different prompts" if name == "prompts" else made_with),
                    hint="Use the prompts and options of the first run, or start over with "
                    "--force.",
                )

    def open(self, *, resume: bool) -> None:
        """Open the file for writing; ``done`` counts the rows that it has.

        :param resume: keep its rows; otherwise it is emptied.
        :raises LocalError: a file cannot be written, or another run is writing it.
        """
        resume = resume and self._path.exists() and not self._is_blank()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            if not acquire_lock(self._file):
                raise LocalError(
                    f"another run is writing {self.name}",
                    hint="Wait for it, or choose another file.",
                )
            if resume:
                self._read_done(self._file)
            else:
                self._file.truncate(0)
                record = {"version": _VERSION, "made_by": self._made_by}
                write_atomically(str(self._record_path), json.dumps(record, indent=2) + "\n")
            self.failed_path.unlink(missing_ok=True)  # failed rows are sampled again
        except OSError as error:
            raise LocalError(f"cannot write {self.name}: {error.strerror}") from error

    def __contains__(self, index: int) -> bool:
        """Return whether the row *index* has its line."""
        return self._starts[index] != _NOWHERE

    def write(self, index: int, record: Mapping[str, Any]) -> None:
        """Write the line of the row *index*: completely, or not at all.

        :raises LocalError: it cannot be written.
        """
        assert self._file is not None
        line = _line(record)
        try:
            _write_all(self._file, line)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise LocalError(
                f"cannot write {self.name}: {error.strerror}", hint="Its lines are complete."
            ) from error
        self._starts[index] = self._end
        self._end += len(line)
        self.done += 1

    def write_failed(self, record: Mapping[str, Any]) -> None:
        """Write the line of a row that failed.

        :raises LocalError: it cannot be written.
        """
        try:
            if self._failures is None:
                self._failures = self.failed_path.open("wb", buffering=0)
            _write_all(self._failures, _line(record))
        except OSError as error:
            raise LocalError(f"cannot write {self.failed_path}: {error.strerror}") from error

    def sort(self) -> None:
        """Sort the lines by row; the file is replaced in one step.

        :raises LocalError: there is no space for a second copy; the file is unchanged.
        """
        starts = [start for start in self._starts if start != _NOWHERE]
        if all(one < other for one, other in pairwise(starts)):
            return
        target = Path(os.path.realpath(self._path))
        try:
            with target.open("rb") as lines, replacing(target) as ordered:
                for start in starts:
                    lines.seek(start)
                    ordered.write(lines.readline())
        except OSError as error:
            raise LocalError(
                f"cannot sort {self.name}: {error.strerror}",
                hint="It has all results, in the order in which they were completed.",
            ) from error

    def close(self) -> None:
        """Flush everything to the disk, and close the files."""
        for file in (self._file, self._failures):
            if file is not None:
                with contextlib.suppress(OSError):
                    os.fsync(file.fileno())
                file.close()
        self._file = self._failures = None

    def _is_blank(self) -> bool:
        """Return whether a run was killed, or its disk was full, before it wrote anything."""
        return self._path.stat().st_size == 0 and not self._record_path.exists()

    def _read_done(self, file: IO[bytes]) -> None:
        """Find out which rows have their line, and drop an incomplete last line."""
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                index = _index(line)
                if index is None or not index < len(self._starts):
                    raise LocalError(
                        f"{self.name}, line {number} is not a result of this run",
                        hint="Remove it, or start over with --force.",
                    )
                if index not in self:
                    self._starts[index] = self._end
                    self.done += 1
                self._end += len(line)
        file.truncate(self._end)


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair has no encoding; its escape is valid JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _write_all(file: IO[bytes], line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


def _index(line: bytes) -> int | None:
    try:
        value = json.loads(line)["index"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if type(value) is int and value >= 0 else None
