"""A checkpoint in separate files, several of them at a time."""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path
from threading import Lock

from tinkex.api.http.concurrency import together
from tinkex.api.transfer import archive
from tinkex.api.transfer.manifest import LockedFile
from tinkex.api.transfer.progress import Meter
from tinkex.api.transfer.ranges import Piece
from tinkex.api.transfer.signing import SignedFiles
from tinkex.api.transfer.staging import StagingDirectory, local_errors
from tinkex.api.transfer.storage import Storage
from tinkex.api.transfer.streams import Address
from tinkex.exceptions import InvalidResponse

#: Files under way at once.
_CONCURRENCY = 4


def fetch(signed: SignedFiles, storage: Storage, staging: StagingDirectory, meter: Meter) -> Files:
    """Fetch the files that *signed* has addresses of into *staging*."""
    guard = Lock()
    wanted = {archive.safe_relative(name): name for name in sorted(signed.urls())}
    if not wanted:
        raise InvalidResponse("the checkpoint has no files")
    for relative in wanted:
        staging.admit(relative)
    meter.expect([relative.as_posix() for relative in wanted])
    staging.open()

    def look_up(name: str, *, anew: bool) -> str:
        with guard:
            urls = signed.renewed() if anew else signed.urls()
        if name not in urls:
            raise InvalidResponse(f"the checkpoint has lost its file {name[:200]!r}")
        return urls[name]

    waiting = deque(wanted)
    found: Files = {}

    def work(_: int) -> None:
        while waiting:
            try:
                relative = waiting.popleft()
            except IndexError:
                return  # another thread took the last
            meter.check()
            found[relative] = fetch_one(relative)

    def fetch_one(relative: Path) -> LockedFile:
        name = wanted[relative]
        address = Address(partial(look_up, name, anew=False), partial(look_up, name, anew=True))
        with local_errors(staging.target):
            return Piece(storage, staging, address, relative, meter).fetch()

    together(work, range(min(_CONCURRENCY, len(wanted))))
    return found


#: Relative path → what is known about the file.
Files = dict[Path, LockedFile]
