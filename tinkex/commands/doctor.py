"""Checks of the configuration, the connection and the service."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex import plugins
from tinkex.cli.errors import hint_for
from tinkex.columns import Size, plain_text
from tinkex.commands.base import Lister
from tinkex.config import credentials
from tinkex.config.file import config_path
from tinkex.exceptions import TinkexError
from tinkex.files import xdg_directory

if TYPE_CHECKING:
    from tinkex.api.http.probe import CheckResult, Status
    from tinkex.plugins import HttpPool
    from tinkex.settings import Settings

Check = Callable[[], "list[CheckResult]"]

#: SGR codes.
_COLOURS = {"ok": 32, "warning": 33, "fail": 31, "absent": 2, "skipped": 2}
#: Default timeout of a check in seconds; a working service responds much faster.
_TIMEOUT = 15.0
#: Bytes of free space below which a disk gets a warning.
_LOW_SPACE = 1_000_000_000
_MOVE_CACHE = "set XDG_CACHE_HOME to another directory"
_AGAIN = "Try again later. If the problem persists, contact the service operator."
#: Checks that need settings.
_NETWORK = ("proxy", "dns", "tls", "service", "access", "endpoints")


class Doctor(Lister):
    """Check settings, key, network, service and disk."""

    notes = "This command changes nothing. The exit code is 1 if a check fails."
    is_action = True  # a table has no room for whole sentences
    tolerates_bad_settings = True  # it reports them
    column_names = ("check", "status", "detail", "hint")
    examples = ("tinkex doctor", "tinkex --profile skyrl doctor --timeout 5s")

    def run(self, parsed_args: argparse.Namespace) -> int:
        code = super().run(parsed_args)
        failed = [result.check for result in self.result or () if result.status == "fail"]
        warned = [result.check for result in self.result or () if result.status == "warning"]
        if failed:
            self.status(f"Failed checks: {', '.join(failed)}.")
        elif warned:
            self.status(f"Checks with warnings: {', '.join(warned)}.")
        else:
            self.status("All checks passed.")
        return code or int(bool(failed))

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        settings: Settings | TinkexError
        timeout = _TIMEOUT
        try:
            settings = self.settings
            if "timeout" in settings.origins:
                timeout = settings.timeout
        except TinkexError as error:
            settings = error
        self.app.display.expect("the results")
        self.result = found = run_checks(settings, timeout, self.app.pool)
        return self.column_names, [
            (f.check, f.status, f.detail, (f.error and hint_for(f.error)) or f.hint) for f in found
        ]

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        """Return a line of four fields; on a terminal, wrapped text with any hint below it."""
        stream = self.app.stdout
        if not stream.isatty():
            return super().plain_row(record)
        from tinkex.cli.formatters import wants_colour

        check, status, detail, hint = (plain_text(record[name]) for name in self.column_names)
        width, margin = max(shutil.get_terminal_size().columns, 40), " " * 10
        fill = textwrap.TextWrapper(
            width,
            initial_indent=margin,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        ).fill
        colour = _COLOURS.get(status) if wants_colour(stream) else None
        shown = f"\x1b[{colour}m{status:<8}\x1b[0m" if colour else f"{status:<8}"
        lines = [f"{shown}  {fill(f'{check}: {detail}')[10:]}"]
        if hint and status in ("fail", "warning"):
            lines.append(fill(f"-> {hint}"))
        return "\n".join(lines)


def run_checks(
    settings: Settings | TinkexError, timeout: float, pool: HttpPool | None = None
) -> list[CheckResult]:
    """Run all checks concurrently; return the results in the order of a request's stages.

    :param settings: the effective settings, or the error from reading them.
    :param timeout: seconds after which a check that has not ended counts as failed.
    :param pool: see :class:`tinkex.api.http.probe.Prober`; if given, skip proxy, DNS and TLS.
    """
    from tinkex.api.http.concurrency import map_ordered

    checks: dict[str, Check] = {}
    if isinstance(settings, TinkexError):
        error = settings
        checks["settings"] = lambda: [_failed("settings", error)]
        checks |= {name: _skipped(name) for name in _NETWORK}
    else:
        from tinkex.api.http.probe import Prober

        if pool is None:
            checks["settings"] = lambda: [_settings(settings)]
            checks["key"] = lambda: [_key(settings)]
        checks |= Prober(settings, timeout, pool).checks()
    if pool is None:
        checks |= {"plugins": _plugins, "tokenizer": _tokenizer, "hub": _hub, "disk": _disk}
    results = map_ordered(
        lambda name: _run(name, checks[name], timeout), checks, workers=len(checks)
    )
    return [result for each in results for result in each]


def _run(name: str, check: Check, timeout: float) -> list[CheckResult]:
    """Return the results of one check; an exception or a timeout counts as a failure."""
    from tinkex.api.http.concurrency import run_in_thread

    try:
        # The checks themselves have shorter time limits and more specific messages.
        return run_in_thread(check, timeout + 0.5)
    except TimeoutError:
        late = f"no result within {timeout:g} s"
        return [_result(name, "fail", late, "Allow more time with --timeout.")]
    except TinkexError as error:
        return [_failed(name, error)]
    except Exception as error:
        detail = f"the check itself failed: {type(error).__name__}: {error}"
        return [_result(name, "fail", detail, "Report this bug to the maintainers of tinkex.")]


def _result(check: str, status: Status, detail: str, hint: str | None = None) -> CheckResult:
    from tinkex.api.http.probe import CheckResult

    return CheckResult(check, status, detail, hint)


def _failed(check: str, error: TinkexError) -> CheckResult:
    return _result(check, "fail", str(error), hint_for(error) or _AGAIN)


def _skipped(check: str) -> Check:
    return lambda: [_result(check, "skipped", "requires valid settings")]


def _settings(settings: Settings) -> CheckResult:
    from tinkex.settings import effective

    shown = ("profile", "base_url", "timeout", "http_pool")
    found = [(n, value, origin) for n, value, origin in effective(settings) if n in shown]
    parts = [f"{n} {value} ({origin})" for n, value, origin in found if value]
    path = config_path()
    parts.append(str(path) if path.exists() else f"no {path}")
    return _result("settings", "ok", "; ".join(parts))


def _key(settings: Settings) -> CheckResult:
    from tinkex.settings import stray_key

    if not settings.needs_api_key:
        return _result("key", "ok", "not needed")
    try:
        key = settings.credential() or ""
    except TinkexError as error:
        return _failed("key", error)
    name = "api_key" if settings.api_key else "api_key_command"
    origin = settings.origins.get(name, "default")
    detail = f"{credentials.mask(key)} from {origin}, {len(key)} characters"
    if credentials.is_expired(key):
        hint = "Get a new token from its issuer."
        return _result("key", "fail", f"{detail}: the token has expired", hint)
    warning = settings.key_warning() or stray_key(settings)
    return _result("key", "warning" if warning else "ok", detail, warning)


def _plugins() -> list[CheckResult]:
    from tinkex.cli.inventory import Inventory

    inventory = Inventory()
    found = []
    for ep, owner, problem in inventory.problems():
        hint = (
            f"See: tinkex plugin show {owner.name}. "
            f"To run without this plugin: {plugins.turn_off(owner.name)}"
        )
        detail = f"{owner.name} {owner.version}: {ep.group}: {ep.name}: {problem}"
        found.append(_result("plugins", "warning", detail, hint))
    for text in plugins.installed(tuple(sys.path)).unreadable:
        found.append(
            _result("plugins", "warning", text, "Reinstall or uninstall the plugin with pip.")
        )
    if unknown := inventory.not_installed():
        detail = f"{plugins.ONLY} lists plugins that are not installed: {', '.join(unknown)}"
        found.append(_result("plugins", "warning", detail, "See: tinkex plugin list"))
    used = {
        plugins.owner_of(ep)
        for ep, owner in inventory.claims
        if not plugins.is_builtin(ep) and not plugins.why_off(owner.name)
    }
    return found or [_result("plugins", "ok", ", ".join(sorted(used)) or "none installed")]


def _tokenizer() -> list[CheckResult]:
    from huggingface_hub import constants

    names = sorted(ep.name for ep in plugins.entry_points(plugins.TOKENIZERS))
    cache = Path(constants.HF_HUB_CACHE)
    count = sum(1 for _ in cache.glob("models--*/snapshots/*/tokenizer.json"))
    detail = f"sources: {', '.join(names)}; cached tokenizers in {cache}: {count}"
    return [_result("tokenizer", "ok", detail)]


def _hub() -> list[CheckResult]:
    from tinkex.api.sampling.tokenizer import hub_state

    address, problem, has_token = hub_state()
    token = "with a token" if has_token else "without a token"
    if problem is None:
        return [_result("hub", "ok", f"{address} responds ({token})")]
    hint = "Only uncached tokenizers require the hub. To use a mirror, set HF_ENDPOINT."
    status: Status = "skipped" if problem == "HF_HUB_OFFLINE is set" else "warning"
    return [_result("hub", status, f"{address}: {problem}", hint)]


def _disk() -> list[CheckResult]:
    found = []
    for name, place, hint in (
        ("disk here", Path.cwd, "change to another directory with cd"),
        ("disk for temporary files", tempfile.gettempdir, "set TMPDIR to another directory"),
        ("disk for the cache", partial(xdg_directory, "cache"), _MOVE_CACHE),
    ):
        try:
            found.append(_space(name, Path(place()), hint))
        except OSError as error:  # gettempdir() says itself that no directory is writable
            gone = name == "disk here" and isinstance(error, FileNotFoundError)
            problem = "the current directory no longer exists" if gone else str(error.strerror)
            found.append(_result(name, "warning", problem, f"{hint[0].upper()}{hint[1:]}."))
    return found


def _space(name: str, path: Path, otherwise: str) -> CheckResult:
    existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    detail = f"{Size(free).human_readable()} free in {existing}"
    if not os.access(existing, os.W_OK):
        hint = f"Check the permissions, or {otherwise}."
        return _result(name, "warning", f"{existing} is not writable", hint)
    if free < _LOW_SPACE:
        return _result(name, "warning", detail, f"Free some disk space, or {otherwise}.")
    return _result(name, "ok", detail)
