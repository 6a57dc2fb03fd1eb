"""A checkpoint as an archive, extracted while it arrives."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from stat import S_ISREG
from typing import Any

from tinkex.api.transfer import archive
from tinkex.api.transfer.archive import Mark
from tinkex.api.transfer.body import Body
from tinkex.api.transfer.manifest import LockedFile
from tinkex.api.transfer.progress import Inside, Meter
from tinkex.api.transfer.ranges import LARGE, Piece
from tinkex.api.transfer.separate import Files
from tinkex.api.transfer.staging import StagingDirectory, local_errors
from tinkex.api.transfer.storage import WHOLE, Span, Storage
from tinkex.api.transfer.streams import Address, Changed, Stream

#: Members of this many bytes and more are worth a note of where they begin.
_WORTH = 1024 * 1024


class Packed:
    """An archive under way.

    :param storage: where it comes from.
    :param staging: where its files go.
    :param address: its signed address.
    :param name: what it is called in progress reports.
    """

    def __init__(
        self,
        storage: Storage,
        staging: StagingDirectory,
        address: Address,
        name: str,
        meter: Meter,
    ) -> None:
        self._storage, self._staging, self._address = storage, staging, address
        self._name, self._meter = name, meter

    def fetch(self) -> Files:
        """Extract the archive, or what is missing of it, into the staging directory.

        An earlier attempt is gone on with if the archive is not compressed: of a compressed one
        nothing can be read without all that came before. Where parts do not hold together,
        another attempt asks for none.
        """
        with local_errors(self._staging.target):
            self._staging.open()
            mark, entry = self._mark()
            try:
                if mark is not None:
                    validator, total = entry["validator"], entry["total"]
                    if self._is_apart(mark):
                        mark.known = self._fetch_apart(mark, validator, total)
                    return self._extract(Span(mark.next, None, validator, total), mark)
                self._staging.clear()
                return self._extract(WHOLE, None)
            except Changed:
                self._staging.clear()
                return self._extract(WHOLE, None, many=False)

    def _extract(self, span: Span, after: Mark | None, *, many: bool = True) -> Files:
        with _Source(self._storage, self._address, self._name, self._meter) as source:
            body = source.open(span)
            validator, total = body.validator, body.total
            last = 0

            def on_member(mark: Mark) -> LockedFile | None:
                nonlocal last
                if validator is None or total is None:
                    return None
                if mark.size >= _WORTH or mark.data - last >= _WORTH:
                    last = mark.end
                    self._note(mark, validator, total)
                # An archive that ends with it is incomplete, which is found out on the way.
                if not many or mark.size < LARGE or mark.end >= total or not body.ranged:
                    return None
                source.close()  # unread, it would go on to fill the buffers on the way
                known = self._fetch_apart(mark, validator, total)
                source.open(Span(mark.end, None, validator, total))
                return known

            return archive.extract(
                source,
                self._staging.content,
                self._staging.admit,
                after=after,
                on_member=on_member,
            )

    def _fetch_apart(self, mark: Mark, validator: str, total: int) -> LockedFile:
        """Fetch a large file of the archive as if it were not in one: in ranges, if need be."""
        inside = Inside(self._meter, self._name, total, mark.data)
        span = Span(mark.data, mark.data + mark.size, validator, total)
        place = Path(mark.name)
        return Piece(self._storage, self._staging, self._address, place, inside, span).fetch()

    # What an earlier attempt has left --------------------------------------------------------

    def _note(self, mark: Mark, validator: str, total: int) -> None:
        with self._staging.changing(at_once=True) as state:
            state["archive"] = {
                "validator": validator,
                "total": total,
                "member": [mark.name, mark.data, mark.size],
                "files": [[p.as_posix(), f.size_bytes, f.sha256] for p, f in mark.files.items()],
            }

    def _is_apart(self, mark: Mark) -> bool:
        """Tell whether the file is fetched by itself: as before, or as nothing of it is here."""
        known = mark.name in self._staging.state.get("files", {})
        return known or self._staging.content.stat(mark.name) is None

    def _mark(self) -> tuple[Mark | None, dict[str, Any]]:
        """Return where an earlier attempt has come to; what lies beyond it is removed."""
        entry = self._staging.state.get("archive")
        if entry is None:
            return None, {}
        name, data, size = entry["member"]
        files = {Path(n): LockedFile(s, sha256) for n, s, sha256 in entry["files"]}
        content = self._staging.content
        here = {p: known.st_size for p, known in content.entries() if S_ISREG(known.st_mode)}
        for relative in here.keys() - {*files, Path(name)}:
            content.remove(relative)
        mark = Mark(name, data, size, 0, files)
        if any(here.get(path) != known.size_bytes for path, known in files.items()):
            return None, {}
        if not self._is_apart(mark):
            mark.have = min(here[Path(name)], size)
        elif mark.end >= entry["total"]:
            return None, {}
        return mark, entry


class _Source:
    """What comes from the archive, from any place on, every block counted; a context manager."""

    def __init__(self, storage: Storage, address: Address, name: str, meter: Meter) -> None:
        self._storage, self._address = storage, address
        self._name, self._meter = name, meter
        self._stack = ExitStack()

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._stack.close()

    def open(self, span: Span) -> Body:
        """Go on with *span*."""
        self.close()
        stream = Stream(self._storage, self._address, span)
        self._stream = self._stack.enter_context(stream)
        self._meter.begin(self._name, stream.body.total, span.start)
        return stream.body

    def readinto(self, room: memoryview, /) -> int:
        """Put what comes next into *room*; return how many bytes that is, none at the end."""
        count = self._stream.readinto(room)
        self._meter.add(self._name, count)
        return count
