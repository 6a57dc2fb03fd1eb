"""A checkpoint as an archive, extracted while it arrives."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinkex.api import archive
from tinkex.api.archive import Mark
from tinkex.api.landing import Landing, local_errors
from tinkex.api.lockfile import LockedFile
from tinkex.api.meter import Meter
from tinkex.api.separate import Files
from tinkex.api.storage import WHOLE, Span, Storage
from tinkex.api.stream import Address, Changed, Stream

#: Members of this many bytes and more are worth a note of where they begin.
_WORTH = 1024 * 1024


class Packed:
    """An archive under way.

    :param storage: where it comes from.
    :param landing: where its files go.
    :param address: its signed address.
    :param name: what it is called in progress reports.
    """

    def __init__(
        self, storage: Storage, landing: Landing, address: Address, name: str, meter: Meter
    ) -> None:
        self._storage, self._landing, self._address = storage, landing, address
        self._name, self._meter = name, meter
        self._stage = landing.stage

    def fetch(self) -> Files:
        """Extract the archive, or what is missing of it, into the stage.

        An earlier attempt is gone on with if the archive is not compressed: of a compressed one
        nothing can be read without all that came before.
        """
        with local_errors(self._landing.directory):
            mark, entry = self._mark()
            if mark is not None:
                try:
                    start = mark.data + mark.have
                    span = Span(start, None, entry["validator"])
                    with Stream(self._storage, self._address, span) as stream:
                        self._meter.begin(self._name, stream.body.total, start)
                        return self._extract(stream, mark)
                except Changed:
                    pass
            self._stage.clear()
            with Stream(self._storage, self._address, WHOLE) as stream:
                self._meter.begin(self._name, stream.body.total)
                return self._extract(stream, None)

    def _extract(self, stream: Stream, after: Mark | None) -> Files:
        body = stream.body
        noted = body.validator is not None and body.total is not None

        def note(mark: Mark) -> None:
            if mark.size < _WORTH and mark.data - last[0] < _WORTH:
                return
            last[0] = mark.data + mark.size
            with self._stage.changing(at_once=True) as journal:
                journal["archive"] = {
                    "validator": body.validator,
                    "member": [mark.name, mark.data, mark.size],
                    "files": [
                        [p.as_posix(), f.size_bytes, f.sha256] for p, f in mark.files.items()
                    ],
                }

        last = [0]
        source = _Heard(stream, self._name, self._meter)
        return archive.extract(
            source,
            self._stage.content,
            self._landing.admit,
            after=after,
            on_member=note if noted else None,
        )

    def _mark(self) -> tuple[Mark | None, dict[str, Any]]:
        """Return where an earlier attempt has come to; what lies beyond it is removed."""
        entry = self._stage.journal.get("archive")
        if entry is None:
            return None, {}
        name, data, size = entry["member"]
        files = {Path(n): LockedFile(s, sha256) for n, s, sha256 in entry["files"]}
        content = self._stage.content
        for file in [path for path in content.rglob("*") if path.is_file()]:
            if file.relative_to(content) not in {*files, Path(name)}:
                file.unlink()
        sizes = {path: known.size_bytes for path, known in files.items()}
        if not (content / name).is_file() or sizes != _sizes(content, sizes):
            return None, {}
        have = min((content / name).stat().st_size, size)
        return Mark(name, data, size, have, files), entry


def _sizes(directory: Path, files: Iterable[Path]) -> dict[Path, int]:
    return {p: (directory / p).stat().st_size for p in files if (directory / p).is_file()}


class _Heard:
    """A stream whose every block is counted."""

    def __init__(self, stream: Stream, name: str, meter: Meter) -> None:
        self._stream, self._name, self._meter = stream, name, meter

    def readinto(self, room: memoryview, /) -> int:
        count = self._stream.readinto(room)
        self._meter.add(self._name, count)
        return count
