"""A small service with checkpoints of any size, whose storage behaves as a test wants."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import random
import tarfile
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

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
    bytes: int = 0
    signature: str = ""


@dataclass
class Store:
    """The server; its members may be changed at any time.

    :ivar files: name → content.
    :ivar faults: one for each request for a file, as long as there are any.
    :ivar validators: files have entity tags and dates.
    :ivar lengths: answers say how long they are; otherwise the end of the connection is theirs.
    :ivar rate: bytes a second for each connection; 0 means as fast as it goes.
    :ivar refused: signatures that are no longer good.
    :ivar down: answers to the API are cut off; *cut_off* counts them.
    :ivar sending: files that are being sent.
    :ivar again: files that archives hold a second time.
    :ivar kind: the word for sampler checkpoints in lists.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    names: list[str] = field(default_factory=lambda: ["tar", "gz"])
    faults: list[Fault] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    validators: bool = True
    ranges: bool = True
    lengths: bool = True
    rate: int = 0
    version: int = 1
    refused: set[str] = field(default_factory=set)
    down: bool = False
    again: tuple[str, ...] = ()
    kind: str = "sampler"
    go: threading.Event = field(default_factory=threading.Event)
    signatures: int = 0
    cut_off: int = 0
    sending: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"store": self})
        self.http = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.go.set()
        self.http.shutdown()
        self.http.server_close()

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
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for member in [*self.files, *self.again]:
                data = self.files[member]
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        packed = buffer.getvalue()
        return packed if name == "tar" else gzip.compress(packed, 1, mtime=0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # downloads open many connections at once


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/files/"):
            signature = parse_qs(parts.query).get("sig", [""])[0]
            return self._file(parts.path.removeprefix("/files/"), signature)
        if self.store.down:
            self.store.cut_off += 1
            self.close_connection = True
            return self.connection.shutdown(2)
        words = parts.path.removeprefix("/api/v1/").split("/")
        if words[-1] == "external_weights_urls":
            urls = {name: self._signed(name) for name in self.store.files}
            return self._json({"urls": urls})
        if words[-1] == "archive":
            kind = "tar.gz" if words[-2] == "gz" else "tar"
            return self._json({"url": self._signed(kind)})
        if words[-1] == "checkpoints":
            found = [self._checkpoint(name) for name in self.store.names]
            return self._json({"checkpoints": found})
        return self._json({"detail": "Not Found"}, 404)

    def _checkpoint(self, name: str) -> dict[str, object]:
        path = f"tinker://{RUN}/sampler_weights/{name}"
        kind = {"checkpoint_id": f"sampler_weights/{name}", "checkpoint_type": self.store.kind}
        return {**kind, "tinker_path": path, "time": "2026-01-01T00:00:00Z"}

    def _signed(self, name: str) -> str:
        self.store.signatures += 1
        return f"{self.store.url}/files/{name}?sig={self.store.signatures}"

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, name: str, signature: str) -> None:
        store = self.store
        with store.lock:
            fault = store.faults.pop(0) if store.faults else Fault()
            if signature in store.refused:
                fault = Fault(status=403)
        if fault.status is not None:
            return self._json({"detail": "no"}, fault.status)
        body = store.body(name)
        tag = f'"{hashlib.md5(body).hexdigest()}-{store.version}"'
        if store.validators and self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            return self.end_headers()
        start, end = self._range(len(body), tag)
        if start is None:
            start, end = 0, len(body)
            self.send_response(200)
        else:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        if store.lengths:
            self.send_header("Content-Length", str(end - start))
        else:
            self.close_connection = True
        if store.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if store.validators:
            self.send_header("ETag", tag)
            self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.end_headers()
        sent = Sent(name, start, signature=signature)
        with store.lock:
            store.sent.append(sent)
            store.sending += 1
        try:
            self._send(memoryview(body)[start:end], sent, fault)
        finally:
            with store.lock:
                store.sending -= 1

    def _range(self, size: int, tag: str) -> tuple[int | None, int]:
        asked = self.headers.get("Range")
        if not asked or not self.store.ranges or self.headers.get("If-Range", tag) != tag:
            return None, size
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1 if last else size

    def _send(self, body: memoryview, sent: Sent, fault: Fault) -> None:
        began = time.monotonic()
        stop = min(x for x in (fault.cut, fault.hold, len(body)) if x is not None)
        while sent.bytes < len(body):
            if sent.bytes == fault.cut:
                self.close_connection = True
                return self.connection.shutdown(2)
            limit = stop if sent.bytes < stop else len(body)
            block = body[sent.bytes : min(sent.bytes + _BLOCK, limit)]
            self.wfile.write(block)
            sent.bytes += len(block)
            if self.store.rate:
                time.sleep(max(0, began + sent.bytes / self.store.rate - time.monotonic()))
            if sent.bytes == fault.hold and not self.store.go.wait(30):
                return None
        return None
