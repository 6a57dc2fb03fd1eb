"""A way to a server that can be cut, or closed, while it is used."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit

_BLOCK = 64 * 1024


class Gate:
    """Passes connections on to *url*, a byte at a time if it has to; a context manager.

    :ivar status: every request that comes is answered with this, and not passed on.
    :ivar turned_away: requests answered so, and connections cut.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._upstream = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.status: int | None = None
        self.turned_away = 0
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection, and each new one at once, until :meth:`mend`."""
        with self._lock:
            self._is_cut = True
            self.turned_away += len(self._open)
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections pass again."""
        self._is_cut, self.status = False, None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._upstream) as up:
            with self._lock:
                if self._is_cut:
                    self.turned_away += 1
                    return
                self._open |= {client, up}
            back = threading.Thread(target=self._pass, args=(up, client), daemon=True)
            back.start()
            self._pass(client, up, self._answered)
            back.join()
            with self._lock:
                self._open -= {client, up}

    def _pass(self, source: socket.socket, target: socket.socket, stops=None) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                if stops is not None and stops(source):
                    break
                target.sendall(block)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _answered(self, client: socket.socket) -> bool:
        if self.status is None:
            return False
        self.turned_away += 1
        head = f"HTTP/1.1 {self.status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        client.sendall(head.encode())
        return True
