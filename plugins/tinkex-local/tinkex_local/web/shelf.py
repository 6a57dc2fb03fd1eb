"""Routes of runs and checkpoints: everything that is shown, shared and fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinkex_local import bodies, checkpoints, copying, paths, runs, sessions, timeline, usage
from tinkex_local.archive import Archive, gzipped
from tinkex_local.paths import TinkerPath
from tinkex_local.problems import Problem, bad_request, not_found
from tinkex_local.service import Service
from tinkex_local.signing import LIFETIME
from tinkex_local.times import http_date, iso
from tinkex_local.web import PREFIX
from tinkex_local.web.wire import (
    Routes,
    answer,
    body_as,
    check_scope,
    environ,
    file_of,
    own_url,
    page,
    query_values,
    raw,
)

_KINDS = "|".join(paths.TYPES)
_CHECKPOINT = f"training_runs/<run_id>/checkpoints/<kind:re:{_KINDS}>/<name>"
#: Signed addresses; they need no key.
SIGNED = "signed"
_FORMATS = {"tar": "application/x-tar", "tar.gz": "application/gzip"}


def add(app: Routes, service: Service) -> None:
    """Add the routes to *app*."""
    _add_listings(app, service)
    _add_changes(app, service)
    _add_addresses(app, service)
    _add_downloads(app, service)
    _add_traces(app, service)


def _add_listings(app: Routes, service: Service) -> None:
    @app.get("training_runs")
    def list_runs() -> Any:
        check_scope()
        return runs.listing(service, *page(20, 1000))

    @app.get("training_runs/<run_id>")
    def get_run(run_id: str) -> Any:
        check_scope()
        return runs.as_dict(service, runs.find(service, run_id))

    @app.get("training_runs/<run_id>/checkpoints")
    def list_run_checkpoints(run_id: str) -> Any:
        runs.find(service, run_id)
        found = checkpoints.listing(service, run_id=run_id)
        cursor = {"offset": 0, "limit": len(found), "total_count": len(found)}
        return {"checkpoints": found, "cursor": cursor}

    @app.get("billing/usage/events")
    def billing_events() -> Any:
        return usage.events(service, query_values())

    @app.get("billing/usage/checkpoints/current")
    def billing_storage() -> Any:
        return usage.storage(service, query_values().get("project_id"))

    @app.get("checkpoints")
    def list_checkpoints() -> Any:
        check_scope()
        limit, offset = page(100, 1000)
        return {
            "checkpoints": checkpoints.listing(service, limit=limit, offset=offset),
            "cursor": {
                "offset": offset,
                "limit": limit,
                "total_count": checkpoints.count(service),
            },
        }

    @app.post("weights_info")
    def weights_info() -> Any:
        return runs.weights_info(service, body_as(bodies.WeightsInfo).tinker_path)


def _add_changes(app: Routes, service: Service) -> None:
    @app.post("copy_weights")
    def copy_weights() -> Any:
        return copying.copy(service, body_as(bodies.CopyWeights))

    @app.delete(_CHECKPOINT)
    def delete(run_id: str, kind: str, name: str) -> Any:
        checkpoints.delete(service, TinkerPath(run_id, kind, name))

    @app.post(f"{_CHECKPOINT}/publish")
    def publish(run_id: str, kind: str, name: str) -> Any:
        checkpoints.set_public(service, TinkerPath(run_id, kind, name), True)

    @app.delete(f"{_CHECKPOINT}/publish")
    def unpublish(run_id: str, kind: str, name: str) -> Any:
        checkpoints.set_public(service, TinkerPath(run_id, kind, name), False)

    @app.put(f"{_CHECKPOINT}/ttl")
    def set_ttl(run_id: str, kind: str, name: str) -> Any:
        path = TinkerPath(run_id, kind, name)
        checkpoints.set_ttl(service, path, body_as(bodies.Ttl).ttl_seconds)


def _add_addresses(app: Routes, service: Service) -> None:
    def signed(path: str) -> tuple[str, int]:
        expires = int(service.clock()) + LIFETIME
        return own_url() + service.signer.sign(f"{PREFIX}/{path}", expires), expires

    @app.get(f"{_CHECKPOINT}/archive")
    def archive(run_id: str, kind: str, name: str) -> Any:
        path = TinkerPath(run_id, kind, name)
        checkpoints.find(service, path)
        suffix = query_values().get("format", "tar")
        if suffix not in _FORMATS:
            raise bad_request(f"Unknown archive format; there are: {', '.join(_FORMATS)}")
        url, expires = signed(f"{SIGNED}/{run_id}/{kind}/{name}/archive.{suffix}")
        return answer(
            {"url": url, "expires": iso(expires)},
            302,
            {"Location": url, "Expires": http_date(expires)},
        )

    @app.get(f"{_CHECKPOINT}/external_weights_urls")
    def external_weights_urls(run_id: str, kind: str, name: str) -> Any:
        path = TinkerPath(run_id, kind, name)
        row = checkpoints.find(service, path)
        if kind != paths.EXTERNAL:
            raise bad_request(f"{path} is not an export; save_weights_external makes one")
        files = sorted(checkpoints.directory_of(service, row["id"]).iterdir())
        made = {
            file.name: signed(f"{SIGNED}/{run_id}/{kind}/{name}/files/{file.name}")
            for file in files
        }
        expires = min(expiry for _, expiry in made.values())
        return {"urls": {file: url for file, (url, _) in made.items()}, "expires": iso(expires)}


def _add_downloads(app: Routes, service: Service) -> None:
    base = f"{SIGNED}/<run_id>/<kind:re:{_KINDS}>/<name>"

    @app.get(f"{base}/archive.<suffix>")
    def download_archive(run_id: str, kind: str, name: str, suffix: str) -> Any:
        row = _signed_for(service, TinkerPath(run_id, kind, name))
        packed = Archive(checkpoints.directory_of(service, row["id"]), row["created"])
        headers = {
            "Content-Disposition": f'attachment; filename="{name}.{suffix}"',
        }
        if suffix == "tar":
            headers["Content-Length"] = str(packed.length)
        body = _Stream(packed, gzip=suffix != "tar")
        return raw(body, _FORMATS[suffix], headers=headers)

    @app.get(f"{base}/files/<file>")
    def download_file(run_id: str, kind: str, name: str, file: str) -> Any:
        row = _signed_for(service, TinkerPath(run_id, kind, name))
        root = checkpoints.directory_of(service, row["id"])
        if file not in {path.name for path in root.iterdir()}:
            raise not_found("file", file)
        return file_of(root, file)


def _add_traces(app: Routes, service: Service) -> None:
    @app.get("sessions/<session_id>/trace_export")
    def trace_export(session_id: str) -> Any:
        # A week of operations is read in a moment, so there is nothing to wait for: the trace is
        # made when it is fetched.
        sessions.find(service, session_id)
        path = f"{PREFIX}/{SIGNED}/sessions/{session_id}/trace.pftrace"
        signed = service.signer.sign(path, int(service.clock()) + timeline.LIFETIME)
        return {"status": "ready", "url": own_url() + signed, "error": None}

    @app.get(f"{SIGNED}/sessions/<session_id>/trace.pftrace")
    def download_trace(session_id: str) -> Any:
        _check_signature(service)
        content = timeline.trace(service, session_id)
        return raw(content, "application/octet-stream")


def _signed_for(service: Service, path: TinkerPath) -> Any:
    _check_signature(service)
    return checkpoints.find(service, path)


def _check_signature(service: Service) -> None:
    query = query_values()
    asked = environ()["PATH_INFO"]
    expires, signature = query.get("expires", ""), query.get("signature", "")
    if not service.signer.valid(asked, expires, signature, service.clock()):
        raise Problem(403, "The address is not valid, or no longer")


class _Stream:
    """An archive as a WSGI response: closed also when the client goes away."""

    def __init__(self, packed: Archive, *, gzip: bool) -> None:
        self._packed = packed
        chunks = packed.chunks()
        self._chunks = gzipped(chunks) if gzip else chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._chunks.close()
        self._packed.close()
