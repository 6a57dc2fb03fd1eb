"""The report that ``tinkex doctor --bundle`` writes, to be sent to somebody: without any secret."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tinkex import plugins
from tinkex.columns import iso
from tinkex.exceptions import TinkexError
from tinkex.version import line

if TYPE_CHECKING:
    from tinkex.api.http.probe import CheckResult
    from tinkex.settings import Settings

HIDDEN = "…"
#: Environment variables that matter to the program.
_TOLD = re.compile(
    r"TINKER|TINKEX|HF_|HUGGING_FACE|XDG_|SSL_|REQUESTS_CA|CURL_CA|LANG$|LC_|TERM$|NO_COLOR|CLICOLOR"
    r"|.*_PROXY$",
    re.IGNORECASE,
)
#: Of these only that they are set: they hold secrets, or commands that may.
_SECRET = re.compile(r".*(KEY|TOKEN|SECRET|PASS|CREDENTIAL|_CMD|PROXY|CLOUDFLARE).*", re.IGNORECASE)
#: What looks like a credential, whoever issued it.
_CREDENTIAL = re.compile(r"(?:tml-|eyJ|hf_|sk-)[\w.=…-]+|(?<=://)[^/@\s]+@")
_PACKAGES = ("cliff", "stevedore", "requests", "urllib3", "tokenizers", "rich", "huggingface_hub")


def report(found: Sequence[CheckResult], settings: Settings | None) -> str:
    """Return the report as JSON text."""
    from tinkex.settings import effective

    told = [] if settings is None else list(effective(settings))
    content = {
        "tinkex": line(),
        "made": iso(datetime.now(UTC).replace(microsecond=0)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "plugins": sorted({f"{d.name} {d.version}" for _, d in plugins.claims()}),
        "findings": [asdict(finding) for finding in found],
        "settings": [
            {"name": name, "value": value, "origin": origin}
            for name, value, origin in told
            if name not in ("api_key", "api_key_command")
        ],
        "environment": _environment(),
    }
    secrets = _secrets(settings)
    return json.dumps(_clean(content, secrets), indent=2, ensure_ascii=False) + "\n"


def _environment() -> dict[str, str]:
    return {
        name: "(set)" if _SECRET.fullmatch(name) and value else value
        for name, value in sorted(os.environ.items())
        if _TOLD.match(name)
    }


def _secrets(settings: Settings | None) -> list[str]:
    """Return all that must not be in the report, the longest first."""
    known = {value for name, value in os.environ.items() if _SECRET.fullmatch(name)}
    known |= _stored()
    if settings is not None:
        known |= {settings.api_key or "", settings.api_key_command or ""}
    known |= {quote(secret, safe="") for secret in known}
    return sorted((s for s in known if len(s) > 3), key=len, reverse=True)


def _stored() -> set[str]:
    from tinkex.config.keystore import KeyStore

    try:
        return {stored.key for stored in KeyStore().all()}
    except TinkexError:  # a damaged file; no key of it can be in the report
        return set()


def _clean(value: Any, secrets: Iterable[str]) -> Any:
    """Return *value* with every text in it cleaned of *secrets* and of the user's name."""
    if isinstance(value, dict):
        return {key: _clean(member, secrets) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(member, secrets) for member in value]
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, HIDDEN)
    home = os.path.expanduser("~")
    if len(home) > 1:
        value = value.replace(home, "~")
    return _CREDENTIAL.sub(HIDDEN, value)


def _version(name: str) -> str | None:
    distribution = plugins.find_distribution(name)
    return distribution.version if distribution is not None else None
