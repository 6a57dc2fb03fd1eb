"""The routes of the service: what each request does with the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tinkex_local.access import SIGNATURE_LIFETIME
from tinkex_local.engines.runner import POLL_SECONDS, Runner
from tinkex_local.problems import Problem, bad_request, not_found
from tinkex_local.state import (
    checkpoints,
    paths,
    runs,
    sampling,
    sessions,
    traces,
    usage,
    weights,
)
from tinkex_local.state.archive import Archive, gzipped
from tinkex_local.state.paths import TinkerPath
from tinkex_local.state.service import Service
from tinkex_local.state.times import PATIENCE, http_date, iso
from tinkex_local.wire import PREFIX, bodies, protobuf
from tinkex_local.wire.http import (
    Routes,
    answer,
    body_as,
    check_scope,
    environ,
    file_of,
    header,
    own_url,
    page,
    query_values,
    raw,
)

#: Bytes of a result above which a client that allows it gets the size first.
INLINE = 1024 * 1024


def add(app: Routes, service: Service, runner: Runner) -> None:
    """Add the routes to *app*."""
    _add_posts(app, service)
    _add_sessions(app, service)
    _add_sampling(app, service, runner)
    _add_listings(app, service)
    _add_changes(app, service)
    _add_addresses(app, service)
    _add_downloads(app, service)
    _add_traces(app, service)


#: Path → what a POST of this body does.
_POSTS: dict[str, tuple[Callable[[Service, Any], Any], type[bodies.Body]]] = {
    "create_session": (sessions.create, bodies.CreateSession),
    "session_heartbeat": (sessions.heartbeat, bodies.SessionHeartbeat),
    "sessions/search": (sessions.search, bodies.SearchSessions),
    "create_model": (runs.create, bodies.CreateModel),
    "get_info": (runs.info, bodies.ModelOnly),
    "unload_model": (runs.unload, bodies.ModelOnly),
    "weights_info": (runs.weights_info, bodies.WeightsInfo),
    "save_weights": (weights.save, bodies.SaveWeights),
    "save_weights_for_sampler": (weights.save_for_sampler, bodies.SaveWeightsForSampler),
    "save_weights_external": (weights.save_external, bodies.SaveWeightsExternal),
    "load_weights": (weights.load, bodies.LoadWeights),
    "copy_weights": (weights.copy, bodies.CopyWeights),
    "create_sampling_session": (sampling.create_session, bodies.CreateSamplingSession),
    "asample": (sampling.submit, bodies.Sample),
}


def _add_posts(app: Routes, service: Service) -> None:
    def handler(do: Callable[[Service, Any], Any], kind: type[bodies.Body]) -> Callable[[], Any]:
        return lambda: do(service, body_as(kind))

    for path, (do, kind) in _POSTS.items():
        app.on("POST", path)(handler(do, kind))
    for name in ("forward", "forward_backward", "optim_step"):
        app.on("POST", name)(_no_training)


def _add_sessions(app: Routes, service: Service) -> None:
    @app.on("GET", "sessions")
    def list_sessions() -> Any:
        return sessions.listing(service, *page(20, 1000))

    @app.on("GET", "sessions/<session_id>")
    def get_session(session_id: str) -> Any:
        return sessions.info(service, session_id)

    @app.on("POST", "sessions/<session_id>/finish")
    def finish_session(session_id: str) -> Any:
        sessions.finish(service, session_id, body_as(bodies.FinishSession))


def _add_sampling(app: Routes, service: Service, runner: Runner) -> None:
    @app.on("GET", "samplers/<sampler_id>")
    def get_sampler(sampler_id: str) -> Any:
        return sampling.info(service, sampler_id)

    @app.on("POST", "retrieve_future")
    def retrieve_future() -> Any:
        body = body_as(bodies.RetrieveFuture)
        patience = float(environ().get(PATIENCE, POLL_SECONDS))
        response = _encoded(runner.retrieve(body.request_id, patience), header("Accept"))
        size = len(response.body)
        if body.allow_metadata_only and size > INLINE:
            return {"status": "complete_metadata", "response_payload_size": size}
        return response


def _encoded(outcome: dict[str, Any], accept: str) -> Any:
    if outcome.get("type") == "sample" and protobuf.CONTENT_TYPE in accept:
        return raw(protobuf.sample_response(outcome), protobuf.CONTENT_TYPE)
    return answer(outcome)


def _no_training() -> Any:
    raise bad_request(
        "This service does not train: it saves, shows, serves and samples. Use a Tinker server "
        "with a training backend for forward_backward and optim_step"
    )


_KINDS = "|".join(paths.TYPES)
_CHECKPOINT = f"training_runs/<run_id>/checkpoints/<kind:re:{_KINDS}>/<name>"
#: Signed addresses; they need no key.
SIGNED = "signed"
_FORMATS = {"tar": "application/x-tar", "tar.gz": "application/gzip"}


def _add_listings(app: Routes, service: Service) -> None:
    @app.on("GET", "training_runs")
    def list_runs() -> Any:
        check_scope()
        return runs.listing(service, *page(20, 1000))

    @app.on("GET", "training_runs/<run_id>")
    def get_run(run_id: str) -> Any:
        check_scope()
        return runs.as_dict(service, runs.find(service, run_id))

    @app.on("GET", "training_runs/<run_id>/checkpoints")
    def list_run_checkpoints(run_id: str) -> Any:
        runs.find(service, run_id)
        found = checkpoints.listing(service, run_id=run_id)
        cursor = {"offset": 0, "limit": len(found), "total_count": len(found)}
        return {"checkpoints": found, "cursor": cursor}

    @app.on("GET", "billing/usage/events")
    def billing_events() -> Any:
        return usage.events(service, query_values())

    @app.on("GET", "billing/usage/checkpoints/current")
    def billing_storage() -> Any:
        return usage.storage(service, query_values().get("project_id"))

    @app.on("GET", "checkpoints")
    def list_checkpoints() -> Any:
        check_scope()
        limit, offset = page(100, 1000)
        found = checkpoints.listing(service, limit=limit, offset=offset)
        total = checkpoints.count(service)
        cursor = {"offset": offset, "limit": limit, "total_count": total}
        return {"checkpoints": found, "cursor": cursor}


def _add_changes(app: Routes, service: Service) -> None:
    @app.on("DELETE", _CHECKPOINT)
    def delete(run_id: str, kind: str, name: str) -> Any:
        checkpoints.delete(service, TinkerPath(run_id, kind, name))

    @app.on("POST", f"{_CHECKPOINT}/publish")
    def publish(run_id: str, kind: str, name: str) -> Any:
        checkpoints.set_public(service, TinkerPath(run_id, kind, name), True)

    @app.on("DELETE", f"{_CHECKPOINT}/publish")
    def unpublish(run_id: str, kind: str, name: str) -> Any:
        checkpoints.set_public(service, TinkerPath(run_id, kind, name), False)

    @app.on("PUT", f"{_CHECKPOINT}/ttl")
    def set_ttl(run_id: str, kind: str, name: str) -> Any:
        path = TinkerPath(run_id, kind, name)
        checkpoints.set_ttl(service, path, body_as(bodies.Ttl).ttl_seconds)


def _add_addresses(app: Routes, service: Service) -> None:
    def signed(path: str) -> tuple[str, int]:
        expires = int(service.clock()) + SIGNATURE_LIFETIME
        return own_url() + service.signer.sign(f"{PREFIX}/{path}", expires), expires

    @app.on("GET", f"{_CHECKPOINT}/archive")
    def archive(run_id: str, kind: str, name: str) -> Any:
        path = TinkerPath(run_id, kind, name)
        checkpoints.find(service, path)
        suffix = query_values().get("format", "tar")
        if suffix not in _FORMATS:
            raise bad_request(f"Unknown archive format; known: {', '.join(_FORMATS)}")
        url, expires = signed(f"{SIGNED}/{run_id}/{kind}/{name}/archive.{suffix}")
        headers = {"Location": url, "Expires": http_date(expires)}
        return answer({"url": url, "expires": iso(expires)}, 302, headers)

    @app.on("GET", f"{_CHECKPOINT}/external_weights_urls")
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

    @app.on("GET", f"{base}/archive.<suffix>")
    def download_archive(run_id: str, kind: str, name: str, suffix: str) -> Any:
        row = _signed_for(service, TinkerPath(run_id, kind, name))
        packed = Archive(checkpoints.directory_of(service, row["id"]), row["created"])
        headers = {"Content-Disposition": f'attachment; filename="{name}.{suffix}"'}
        if suffix == "tar":
            headers["Content-Length"] = str(packed.length)
        body = _Stream(packed, gzip=suffix != "tar")
        return raw(body, _FORMATS[suffix], headers=headers)

    @app.on("GET", f"{base}/files/<file>")
    def download_file(run_id: str, kind: str, name: str, file: str) -> Any:
        row = _signed_for(service, TinkerPath(run_id, kind, name))
        root = checkpoints.directory_of(service, row["id"])
        if file not in {path.name for path in root.iterdir()}:
            raise not_found("file", file)
        return file_of(root, file)


def _add_traces(app: Routes, service: Service) -> None:
    @app.on("GET", "sessions/<session_id>/trace_export")
    def trace_export(session_id: str) -> Any:
        # A week of operations is read in a moment, so the trace is made when it is fetched.
        sessions.find(service, session_id)
        path = f"{PREFIX}/{SIGNED}/sessions/{session_id}/trace.pftrace"
        signed = service.signer.sign(path, int(service.clock()) + traces.LIFETIME)
        return {"status": "ready", "url": own_url() + signed, "error": None}

    @app.on("GET", f"{SIGNED}/sessions/<session_id>/trace.pftrace")
    def download_trace(session_id: str) -> Any:
        _check_signature(service)
        content = traces.trace(service, session_id)
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
