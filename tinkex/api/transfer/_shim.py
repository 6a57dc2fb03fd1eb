"""TEMPORARY: the interface of the new HTTP room on the old one; goes when `http` is merged."""

from __future__ import annotations

from urllib3.exceptions import HTTPError

from tinkex.api.http import errors, network
from tinkex.api.http.adapter import limited
from tinkex.api.http.addresses import joined as join_url
from tinkex.api.http.addresses import same_origin
from tinkex.api.http.answers import Response
from tinkex.api.http.retry import Retrying as _Old
from tinkex.api.http.transport import CONNECT_TIMEOUT, new_session

__all__ = ["CONNECT_TIMEOUT", "Response", "Retrying", "join_url", "open_", "read_"]
_sessions = {}


class Retrying:
    def __init__(self, repeatable):
        self._old = _Old("GET", repeatable)

    def after_response(self, status, headers):
        return self._old.after_answer(Response(status, headers, b""))

    def pause_after(self, error, deadline):
        cause = error.__cause__
        self._old.pause_after(
            cause if isinstance(cause, Exception) else HTTPError(), error, deadline
        )


class _Response:
    def __init__(self, response, url, limit, patience):
        self.raw, self.url, self.limit, self.patience = response, url, limit, patience
        self.status = response.status_code
        self.headers = {k.lower(): v for k, v in response.headers.items()}

    def chunks(self, size):
        import http.client

        encoded = self.headers.get("content-encoding", "identity") != "identity"
        read = getattr(self.raw.raw, "read1", None) or self.raw.raw.read
        try:
            while True:
                self.limit.restart(self.patience)
                block = read(size, decode_content=encoded)
                if not block:
                    return
                yield block
        except (*errors.FOREIGN, http.client.HTTPException) as error:
            raise errors.translated(error, self.url) from error

    def close(self):
        self.raw.close()


def open_(transport, url, headers, timeouts):
    if same_origin(url, transport.base_url):
        session, auth, proxies = transport.session, transport.auth, None
    else:
        session = _sessions.get(id(transport))
        if session is None:
            session = _sessions[id(transport)] = new_session("", transport.settings.pool_options)
            session.proxies = {}
        auth, proxies = None, network.proxies_for(url)
    if url.startswith("https:") and session is not transport.session and session.verify is True:
        session.verify = network.trusted(transport.settings.pool_options)
    try:
        with limited(timeouts.read) as limit:
            response = session.get(
                url,
                headers=dict(headers),
                auth=auth,
                proxies=proxies,
                allow_redirects=False,
                stream=True,
                timeout=(timeouts.connect, timeouts.read),
            )
    except errors.FOREIGN as error:
        raise errors.translated(error, url) from error
    return _Response(response, url, limit, timeouts.read)


def read_(transport, response, deadline):
    try:
        return transport.read(response.raw, deadline)
    except errors.FOREIGN as error:
        raise errors.translated(error, response.url) from error
