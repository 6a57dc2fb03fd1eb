"""A small service with checkpoints of any size, whose storage fails as a test says."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http.server import BaseHTTPRequestHandler

from tests.serving import Reply, Request, serving

RUN = "run-1:train:0"
SEPARATE = f"tinker://{RUN}/external_weights/files"
#: Path of a checkpoint whose archive is of this kind.
ARCHIVES = {
    "tar": f"tinker://{RUN}/sampler_weights/tar",
    "tar.gz": f"tinker://{RUN}/sampler_weights/gz",
}
_BLOCK = 64 * 1024


def content(size: int, seed: int = 0) -> bytes:
    """Return bytes that cannot be compressed."""
    return random.Random(seed).randbytes(size)


@dataclass
class Fault:
    """What becomes of the next request for a file.

    :ivar status: this answer, without a file.
    :ivar cut: end the connection after so many bytes.
    :ivar hold: wait for :attr:`Store.go` after so many bytes.
    """

    status: int | None = None
    cut: int | None = None
    hold: int | None = None


@dataclass
class Sent:
    """A request for a file and how many bytes of it were sent."""

    name: str
    start: int
    signature: str
    bytes: int = 0


@dataclass
class Store:
    """The server; its members may be changed at any time.

    :ivar files: name → content.
    :ivar faults: one for each request for a file, as long as there are any.
    :ivar rate: bytes a second for each connection; 0 means as fast as it goes.
    :ivar sending: requests for files that are being answered.
    :ivar down: answers to the API are cut off; :attr:`refused` says that one was.
    :ivar has_ranges: requests for parts of a file are answered with these.
    :ivar instead: body of every archive.
    :ivar directory: address of a directory that is given instead of an archive.
    """

    files: dict[str, bytes]
    names: list[str] = field(default_factory=lambda: ["tar", "gz"])
    faults: list[Fault] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    rate: int = 0
    down: bool = False
    has_ranges: bool = True
    instead: bytes | None = None
    directory: str = ""
    go: threading.Event = field(default_factory=threading.Event)
    refused: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    signatures: int = 0
    sending: int = 0
    url: str = ""

    def received(self) -> int:
        """Return how many bytes of files were sent since the last call."""
        with self.lock:
            count = sum(sent.bytes for sent in self.sent)
            self.sent.clear()
        return count

    def body(self, name: str) -> bytes:
        """Return what is at the address *name*."""
        if name not in ARCHIVES:
            return self.files[name]
        return _archive(name, *self.files.items()) if self.instead is None else self.instead

    def answer(self, request: Request) -> Reply | None:
        *_, noun, last = request.path.split("/")
        if request.path.startswith("/files/"):
            return self._file(request, last)
        if self.down:
            self.refused.set()
            return _cut(request.handler)
        if last == "external_weights_urls":
            return Reply({"urls": {name: self._signed(name) for name in self.files}})
        if last == "archive":
            if self.directory:
                return Reply({"url": self.directory})
            return Reply({"url": self._signed("tar.gz" if noun == "gz" else "tar")})
        if last == "checkpoints":
            return Reply({"checkpoints": [_checkpoint(name) for name in self.names]})
        return Reply({"detail": "Not Found"}, 404)

    def _signed(self, name: str) -> str:
        self.signatures += 1
        return f"{self.url}/files/{name}?sig={self.signatures}"

    def _file(self, request: Request, name: str) -> Reply | None:
        with self.lock:
            fault = self.faults.pop(0) if self.faults else Fault()
        if fault.status is not None:
            return Reply({"detail": "no"}, fault.status)
        body, handler = self.body(name), request.handler
        tag = _tag(body)
        asked = request.headers.get("range", "").removeprefix("bytes=")
        is_part = self.has_ranges and bool(asked) and request.headers.get("if-range", tag) == tag
        first, _, last = asked.partition("-") if is_part else ("0", "", "")
        start, end = int(first), int(last) + 1 if last else len(body)
        headers = {"Content-Length": str(end - start), "ETag": tag}
        if self.has_ranges:
            headers["Accept-Ranges"] = "bytes"
        headers["Last-Modified"] = formatdate(0, usegmt=True)
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        handler.send_response(206 if is_part else 200)
        for header in headers.items():
            handler.send_header(*header)
        handler.end_headers()
        sent = Sent(name, start, request.query["sig"])
        with self.lock:
            self.sent.append(sent)
            self.sending += 1
        try:
            return self._send(handler, memoryview(body)[start:end], sent, fault)
        finally:
            with self.lock:
                self.sending -= 1

    def _send(
        self, handler: BaseHTTPRequestHandler, body: memoryview, sent: Sent, fault: Fault
    ) -> None:
        began = time.monotonic()
        stop = min(x for x in (fault.cut, fault.hold, len(body)) if x is not None)
        while sent.bytes < len(body):
            if sent.bytes == fault.cut:
                return _cut(handler)
            limit = stop if sent.bytes < stop else len(body)
            block = body[sent.bytes : min(sent.bytes + _BLOCK, limit)]
            handler.wfile.write(block)
            handler.wfile.flush()
            sent.bytes += len(block)
            if self.rate:
                time.sleep(max(0, began + sent.bytes / self.rate - time.monotonic()))
            if sent.bytes == fault.hold and not self.go.wait(30):
                break


@lru_cache(2)  # each of many ranges asks again
def _archive(kind: str, *files: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in files:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    packed = buffer.getvalue()
    return packed if kind == "tar" else gzip.compress(packed, 1, mtime=0)


@lru_cache(2)
def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def _checkpoint(name: str) -> dict[str, str]:
    path = f"tinker://{RUN}/sampler_weights/{name}"
    kind = {"checkpoint_id": f"sampler_weights/{name}", "checkpoint_type": "sampler"}
    return {**kind, "tinker_path": path, "time": "2026-01-01T00:00:00Z"}


def _cut(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.wfile.flush()
    handler.connection.shutdown(2)


@contextmanager
def storing(files: dict[str, bytes]) -> Iterator[Store]:
    """Serve a :class:`Store` with these files during the block."""
    store = Store(files)
    with serving(store.answer) as store.url:
        yield store
        store.go.set()
