"""A sampling service with almost free responses, so that only the client is measured.

Prints its address and serves until it is terminated. It implements HTTP/1.1 directly on asyncio, so
that a single process is faster than any measured client. Every sample is the same: ``--tokens``
token ids with their logprobs, as protobuf if the client accepts it, else as JSON.

``--hold`` milliseconds pass between a question for a result and its answer, as if sampling took
that long; ``--busy N`` answers 429 to every Nth sample that is handed in; ``--certificate`` makes
it speak TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import struct
from typing import Any

from answers import BASE_MODEL, SESSION

PROTOBUF = b"application/x-protobuf"

FIXED: dict[str, Any] = SESSION | {
    "create_sampling_session": {
        "type": "create_sampling_session",
        "sampling_session_id": "session-0:sample:0",
    },
    "samplers/session-0:sample:0": {
        "sampler_id": "session-0:sample:0",
        "base_model": BASE_MODEL,
    },
}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _member(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _answer(status: str, kind: bytes, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nContent-Type: ".encode()
    return head + kind + b"\r\n\r\n" + body


def _json(value: Any, status: str = "200 OK") -> bytes:
    return _answer(status, b"application/json", json.dumps(value).encode())


class Answers:
    """The responses, encoded once.

    :param tokens: token ids in every sample.
    :param busy: one of this number of samples is refused; 0 for none.
    """

    def __init__(self, tokens: int, busy: int) -> None:
        ids = [1000 + n for n in range(tokens)]
        logprobs = [-0.5] * tokens
        sequence = _member(2, struct.pack(f"<{tokens}i", *ids))
        sequence += _member(3, struct.pack(f"<{tokens}f", *logprobs))
        self.fixed = {f"/api/v1/{path}".encode(): _json(value) for path, value in FIXED.items()}
        self.protobuf = _answer("200 OK", PROTOBUF, _member(1, b"\x08\x01" + sequence))
        one = {"tokens": ids, "logprobs": logprobs, "stop_reason": "length"}
        self.json = _json({"type": "sample", "sequences": [one], "prompt_logprobs": None})
        self.missing = _json({"detail": "Not Found"}, "404 Not Found")
        self.refused = _json({"detail": "Busy"}, "429 Too Many Requests")
        self.busy = busy
        self.samples = 0

    def accepted(self) -> bytes:
        """Return the response to another sample."""
        self.samples += 1
        if self.busy and self.samples % self.busy == 0:
            return self.refused
        return _json({"request_id": str(self.samples), "sample_sequence_ids": ["s"]})


class Connection(asyncio.Protocol):
    """The connection of a client."""

    def __init__(self, answers: Answers, hold: float) -> None:
        self._answers = answers
        self._hold = hold
        self._seen = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport for responses."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Respond to every complete request."""
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            head = self._seen[:end]
            lower = head.lower()
            at = lower.find(b"\r\ncontent-length:")
            size = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._seen) < end + 4 + size:
                return
            self._seen = self._seen[end + 4 + size :]
            self._answer(head.split(b" ", 2)[1].partition(b"?")[0], lower)

    def _answer(self, path: bytes, head: bytes) -> None:
        if path == b"/api/v1/asample":
            self._transport.write(self._answers.accepted())
        elif path == b"/api/v1/retrieve_future":
            result = self._answers.protobuf if PROTOBUF in head else self._answers.json
            if self._hold:
                loop = asyncio.get_running_loop()
                loop.call_later(self._hold, self._transport.write, result)
            else:
                self._transport.write(result)
        else:
            path = path.replace(b"%3A", b":")
            self._transport.write(self._answers.fixed.get(path, self._answers.missing))


async def serve(options: argparse.Namespace) -> None:
    """Serve until the process is terminated."""
    answers = Answers(options.tokens, options.busy)
    loop = asyncio.get_running_loop()
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
    server = await loop.create_server(
        lambda: Connection(answers, options.hold / 1000), "127.0.0.1", 0, backlog=4096, ssl=context
    )
    port = server.sockets[0].getsockname()[1]
    print(f"{'https' if context else 'http'}://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64, help="token ids in a sample")
    parser.add_argument("--hold", type=float, default=0.0, help="milliseconds a sample takes")
    parser.add_argument("--busy", type=int, default=0, help="refuse every Nth sample")
    parser.add_argument("--certificate", help="serve over TLS with this file, key included")
    asyncio.run(serve(parser.parse_args()))
