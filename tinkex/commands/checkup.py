"""The examination behind ``tinkex doctor``: what is looked at, side by side and within a time."""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tinkex.api.http.probe import CheckResult, Status
from tinkex.columns import Size
from tinkex.config import keys
from tinkex.exceptions import RequestShown, TinkexError

if TYPE_CHECKING:
    from tinkex.plugins import HttpPool
    from tinkex.settings import Settings

Check = Callable[[], list[CheckResult]]

#: Bytes of free space below which it is told.
_LITTLE = 1_000_000_000
_NETWORK = ("proxy", "dns", "tls", "service", "access", "endpoints")


def examine(
    settings: Settings | TinkexError, seconds: float, pool: HttpPool | None = None
) -> list[CheckResult]:
    """Return all findings, in the order of a request's way; a broken check costs only itself.

    :param settings: the effective settings, or why there are none.
    :param seconds: after which a check that has not ended counts as failed.
    :param pool: see :class:`tinkex.api.http.probe.Prober`; with one, only requests are made.
    """
    checks: dict[str, Check] = {}
    if isinstance(settings, TinkexError):
        error = settings
        checks["settings"] = lambda: [CheckResult.from_error("settings", error)]
        for name in _NETWORK:
            checks[name] = _skipped(name)
    else:
        from tinkex.api.http.probe import Prober

        checks["settings"] = lambda: [_settings(settings)]
        checks["key"] = lambda: [_key(settings)]
        checks |= Prober(settings, seconds, pool).checks()
    if pool is not None:
        del checks["settings"], checks["key"]
    else:
        checks |= {"tokenizer": _tokenizer, "hub": _hub, "disk": _disk}
    return _side_by_side(checks, seconds)


def _side_by_side(checks: Mapping[str, Check], seconds: float) -> list[CheckResult]:
    done: queue.SimpleQueue[tuple[str, list[CheckResult] | RequestShown]] = queue.SimpleQueue()

    def work(name: str, check: Check) -> None:
        try:
            done.put((name, check()))
        except RequestShown as shown:
            done.put((name, shown))
        except TinkexError as error:
            done.put((name, [CheckResult.from_error(name, error)]))
        except Exception as error:  # one check must not end the others
            detail = f"the check itself failed: {type(error).__name__}: {error}"
            done.put((name, [CheckResult(name, "fail", detail, "Report it with --debug.")]))

    for name, check in checks.items():
        threading.Thread(target=work, args=(name, check), daemon=True).start()
    found: dict[str, list[CheckResult] | RequestShown] = {}
    # Their own time limits come first, so that they can say more than that.
    end = time.monotonic() + seconds + 0.5
    while len(found) < len(checks):
        try:
            name, result = done.get(timeout=max(0.01, end - time.monotonic()))
        except queue.Empty:
            break
        found[name] = result
    shown = [found[name] for name in checks if isinstance(found.get(name), RequestShown)]
    if shown:
        raise RequestShown(*(line for each in shown for line in _lines(each)))
    late = f"no result within {seconds:g} s"
    findings = []
    for name in checks:
        result = found.get(name, [CheckResult(name, "fail", late, "Allow more with --timeout.")])
        findings += result if isinstance(result, list) else []
    return findings


def _lines(shown: object) -> tuple[str, ...]:
    return shown.lines if isinstance(shown, RequestShown) else ()


def _skipped(name: str) -> Check:
    return lambda: [CheckResult(name, "skipped", "needs settings that can be read")]


def _settings(settings: Settings) -> CheckResult:
    from tinkex.config.file import config_path

    def told(name: str, value: object) -> str:
        return f"{name} {value} ({settings.origins.get(name, 'default')})"

    path = config_path()
    parts = [
        told("profile", settings.profile) if settings.profile else "no profile",
        told("base_url", settings.base_url),
        told("timeout", f"{settings.timeout:g}s"),
        told("http_pool", settings.http_pool),
        str(path) if path.exists() else f"no {path}",
    ]
    return CheckResult("settings", "ok", "; ".join(parts))


def _key(settings: Settings) -> CheckResult:
    if not settings.needs_api_key:
        return CheckResult("key", "ok", "none is needed")
    try:
        key = settings.credential() or ""
    except TinkexError as error:
        return CheckResult.from_error("key", error)
    from tinkex.settings import stray_key

    name = "api_key" if settings.api_key else "api_key_command"
    origin = settings.origins.get(name, "default")
    detail = f"{keys.mask(key)} from {origin}, {len(key)} characters"
    if keys.is_expired(key):
        return CheckResult(
            "key", "fail", f"{detail}: the token has expired", "Get a new one from where it came."
        )
    warning = settings.key_warning() or stray_key(settings)
    if warning:
        return CheckResult("key", "warning", detail, warning)
    return CheckResult("key", "ok", detail)


def _tokenizer() -> list[CheckResult]:
    from importlib.util import find_spec

    from tinkex import plugins

    if find_spec("tokenizers") is None:
        hint = "Install it: pip install tokenizers"
        return [CheckResult("tokenizer", "fail", "the package tokenizers is missing", hint)]
    names = sorted(ep.name for ep in plugins.entry_points(plugins.TOKENIZERS))
    broken = []
    for name in names:
        try:
            plugins.load_driver(plugins.TOKENIZERS, name)
        except TinkexError as error:
            broken.append(f"{name}: {error}")
    if broken:
        return [CheckResult("tokenizer", "warning", "; ".join(broken), "See: tinkex plugin list")]
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    count = sum(1 for _ in cache.glob("models--*/snapshots/*/tokenizer.json"))
    detail = f"sources: {', '.join(names)}; {count} tokenizers in {cache}"
    return [CheckResult("tokenizer", "ok", detail)]


def _hub() -> list[CheckResult]:
    from tinkex.api.sampling.tokenizer import hub_state

    address, problem, has_token = hub_state()
    token = "with a token" if has_token else "without a token"
    if problem is None:
        return [CheckResult("hub", "ok", f"{address} answers ({token})")]
    hint = "Needed only for tokenizers that are not in the cache; HF_ENDPOINT names a mirror."
    status: Status = "skipped" if problem == "HF_HUB_OFFLINE is set" else "warning"
    return [CheckResult("hub", status, f"{address}: {problem}", hint)]


def _disk() -> list[CheckResult]:
    from tinkex.cli.cachefile import cache_directory

    try:
        found = [_room("disk here", Path.cwd())]
    except FileNotFoundError:
        gone, hint = "the current directory is not there any more", "Go to another one with cd."
        found = [CheckResult("disk here", "warning", gone, hint)]
    name = "disk for temporary files"
    try:
        found.append(_room(name, Path(tempfile.gettempdir())))
    except OSError:  # nothing can be written in any of them
        hint = "Make room, or name a directory with TMPDIR."
        found.append(CheckResult(name, "warning", "there is no directory that takes one", hint))
    cache = cache_directory("completion")
    return found if cache is None else [*found, _room("disk for the cache", cache)]


def _room(name: str, path: Path) -> CheckResult:
    existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return CheckResult(name, "warning", f"{existing}: {error.strerror}")
    detail = f"{Size(free).human_readable()} free in {existing}"
    if not os.access(existing, os.W_OK):
        return CheckResult(name, "warning", f"{existing} is not writable", "Work somewhere else.")
    if free < _LITTLE:
        return CheckResult(
            name, "warning", detail, "Make room, or name another place with --output."
        )
    return CheckResult(name, "ok", detail)
