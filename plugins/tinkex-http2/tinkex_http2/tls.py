"""What a connection trusts, from what requests says."""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Any

from certifi import where


@cache
def context(verify: Any, cert: Any = None) -> ssl.SSLContext:
    """Return the TLS settings, made once, for the ``verify`` and ``cert`` of a request.

    :param verify: ``True`` for certifi's authorities, ``False`` for no check at all, or the path
        of a file or a hashed directory of certificates.
    :param cert: path of a client certificate with its key, or the two paths.
    :raises OSError: a file is not there or is no certificate.
    """
    made = ssl.create_default_context() if verify is False else _trusting(verify)
    if verify is False:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if cert:
        certificate, key = (cert, None) if isinstance(cert, str) else cert
        _require(certificate, "TLS certificate file")
        made.load_cert_chain(certificate, key)
    return made


def _trusting(verify: Any) -> ssl.SSLContext:
    place = where() if verify is True else os.fspath(verify)
    _require(place, "TLS CA certificate bundle")
    if os.path.isdir(place):
        return ssl.create_default_context(capath=place)
    return ssl.create_default_context(cafile=place)


def _require(path: str, what: str) -> None:
    if not os.path.exists(path):
        raise OSError(f"Could not find a suitable {what}, invalid path: {path}")
