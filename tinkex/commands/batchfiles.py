"""The files of a batch: prompts that are read, and results that are written.

Prompts are rows of JSONL, lines of text, or the files of a directory. Everything is read twice:
once to check it before anything is sampled, and once row by row while sampling, so that memory
does not grow with the number of rows.

Each result is one line, written at once. Beside ``OUT.jsonl`` lie ``OUT.batch.json``, which says
how the results were made, and ``OUT.failed.jsonl`` with the rows that failed. A run that was cut
off goes on where it was: rows with a whole line are done, and a torn last line is not one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from tinkex.commands.inputs import prompt_in
from tinkex.exceptions import LocalError, TinkexError, UsageError
from tinkex.files import MAX_INPUT, check_writable, replacing, user_path, write_atomically

if TYPE_CHECKING:
    from tinkex.api import SamplingParams

#: The members of a row that hold the prompt; exactly one of them is there.
PROMPTS = ("prompt", "tokens", "messages")
#: The members that say how this row is sampled: as the options of those names.
OVERRIDES = ("max_tokens", "temperature", "top_k", "top_p", "stop", "seed", "num_samples")
_MAX_SAMPLES = 4096
_BLOCK = 1024 * 1024
_VERSION = 1
_NOWHERE = 2**64 - 1


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


class Ledger:
    """Lines of results, each of one row of *total*.

    :param output: name of the file.
    :param made_by: what decides about results; a run goes on only with the same.
    :param total: rows in all.
    :ivar done: how many rows have their line.
    :ivar failed_path: file for the rows that failed.
    """

    def __init__(self, output: str, made_by: Mapping[str, Any], total: int) -> None:
        check_writable(output)
        self.name = output
        self.done = self.failed = 0
        self._path = user_path(output)
        stem = str(self._path).removesuffix(".jsonl")
        self._record_path = Path(f"{stem}.batch.json")
        self.failed_path = Path(f"{stem}.failed.jsonl")
        self._made_by = dict(made_by)
        self._starts = array("Q", [_NOWHERE]) * total
        self._end = 0
        self._file: IO[bytes] | None = None
        self._failures: IO[bytes] | None = None

    def keep_off(self, prompts: str) -> None:
        """Refuse to write over what is read, or into the directory that is.

        :param prompts: name of the file or directory.
        :raises UsageError: one of the files of results is, or would be, among the prompts.
        """
        source = Path(os.path.realpath(user_path(prompts)))
        for path in (self._path, self.failed_path, self._record_path):
            place = Path(os.path.realpath(path))
            if place.is_relative_to(source) or (place.exists() and place.samefile(source)):
                raise UsageError(
                    f"{path} is among the prompts"
                    if source.is_dir()
                    else f"{path} has the prompts",
                    hint="Put the results somewhere else with --output.",
                )

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse what :meth:`open` would, without changing anything.

        :raises UsageError: the file is there and neither is to be gone on with nor replaced, or it
            was made in another way.
        """
        if not self._path.exists():
            return
        if not self._path.is_file():
            raise UsageError(
                f"{self.name} is no regular file",
                hint="Results go to standard output where there is no --output.",
            )
        if force or self._is_blank():
            return
        if not resume:
            raise UsageError(
                f"{self.name} exists already",
                hint="To go on with it: --resume; to begin anew: --force.",
            )
        before = self._recorded()
        changed = [name for name in self._made_by if before.get(name) != self._made_by[name]]
        if changed:
            raise UsageError(
                f"{self.name} was made with {_told(changed[0], before, self._made_by)}",
                hint="Give the prompts and options of the first run, or begin anew with --force.",
            )

    def open(self, *, resume: bool) -> None:
        """Begin to write; the rows that are there already are counted in ``done``.

        :param resume: keep them; otherwise the file is emptied.
        :raises LocalError: a file cannot be written, or another run is writing it.
        """
        try:
            self._open(going_on=resume and self._path.exists() and not self._is_blank())
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                message = f"cannot write {self.name}: {error.strerror}"
                raise LocalError(message) from error
            raise

    def _is_blank(self) -> bool:
        """Tell whether a run ended, or its disk was full, before it had begun with the file."""
        return self._path.stat().st_size == 0 and not self._record_path.exists()

    def _open(self, *, going_on: bool) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        self._lock()
        if going_on:
            self._take_stock()
        else:
            self._file.truncate(0)
            record = {"version": _VERSION, "made_by": self._made_by}
            write_atomically(str(self._record_path), json.dumps(record, indent=2) + "\n")
        self.failed_path.unlink(missing_ok=True)  # what failed is tried again

    def __contains__(self, index: int) -> bool:
        """Tell whether the row *index* has its line."""
        return self._starts[index] != _NOWHERE

    def write(self, index: int, record: Mapping[str, Any]) -> None:
        """Write the line of the row *index*: whole, or not at all.

        :raises LocalError: it cannot be written.
        """
        assert self._file is not None
        line = _line(record)
        self._append(self._file, line, self.name, self._end)
        self._starts[index] = self._end
        self._end += len(line)
        self.done += 1

    def fail(self, record: Mapping[str, Any]) -> None:
        """Write the line of a row that failed.

        :raises LocalError: it cannot be written.
        """
        try:
            if self._failures is None:
                self._failures = self.failed_path.open("wb", buffering=0)
            self._append(self._failures, _line(record), str(self.failed_path), None)
        except OSError as error:
            raise LocalError(f"cannot write {self.failed_path}: {error.strerror}") from error
        self.failed += 1

    def sort(self) -> None:
        """Put the lines into the order of their rows; the file changes in one step.

        :raises LocalError: there is no room for a second copy; the file is as it was.
        """
        assert self._file is not None
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
                f"cannot put {self.name} into order: {error.strerror}",
                hint="It holds all results, in the order in which they were completed.",
            ) from error

    def close(self) -> None:
        """Let the system put everything on the disk, and let go of the files."""
        for file in (self._file, self._failures):
            if file is not None:
                with contextlib.suppress(OSError):
                    os.fsync(file.fileno())
                file.close()
        self._file = self._failures = None

    def _append(self, file: IO[bytes], line: bytes, name: str, end: int | None) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            if end is not None:
                with contextlib.suppress(OSError):
                    file.truncate(end)
            raise LocalError(
                f"cannot write {name}: {error.strerror}", hint="What it holds is whole."
            ) from error

    def _lock(self) -> None:
        assert self._file is not None
        try:
            import fcntl
        except ImportError:  # another system: nothing keeps two runs from one file there
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._taken() from error
        # Another run may have put its results into order, and ended, since the file was opened.
        try:
            current = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            current = False
        if not current:
            raise self._taken()

    def _taken(self) -> LocalError:
        return LocalError(
            f"another run is writing {self.name}", hint="Wait for it, or choose another file."
        )

    def _recorded(self) -> dict[str, Any]:
        try:
            made_by = json.loads(self._record_path.read_bytes())["made_by"]
        except FileNotFoundError:
            made_by = None
        except OSError as error:
            raise LocalError(f"cannot read {self._record_path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError):
            made_by = None
        if not isinstance(made_by, dict):
            raise UsageError(
                f"nothing tells how {self.name} was made: {self._record_path} is missing or broken",
                hint="To begin anew: --force.",
            )
        return made_by

    def _take_stock(self) -> None:
        """Find out which rows have their line, and cut a torn last line off."""
        assert self._file is not None
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                index = _index(line)
                if index is None or not index < len(self._starts):
                    raise LocalError(
                        f"{self.name}, line {number} is no result of this run",
                        hint="Take it out, or begin anew with --force.",
                    )
                if index not in self:
                    self._starts[index] = self._end
                    self.done += 1
                self._end += len(line)
        self._file.truncate(self._end)


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair can only be written as an escape, which is that of JSON as well.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _index(line: bytes) -> int | None:
    try:
        value = json.loads(line)["index"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if type(value) is int and value >= 0 else None


def _told(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if name == "prompts":
        return "other prompts"
    option = "--" + name.replace("_", "-")
    then = before.get(name)
    return f"{option} {json.dumps(then)}, and now it is {json.dumps(now[name])}"
