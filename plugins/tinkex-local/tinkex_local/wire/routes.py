"""The routes of the service and their handlers."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

from tinkex_local.access import SIGNATURE_LIFETIME
from tinkex_local.engines.runner import POLL_SECONDS, Runner
from tinkex_local.problems import Problem, bad_request, not_found
from tinkex_local.state import (
    checkpoints,
    operations,
    paths,
    runs,
    sampling,
    sessions,
    traces,
    training,
    usage,
    weights,
)
from tinkex_local.state.archive import Archive
from tinkex_local.state.paths import TinkerPath
from tinkex_local.state.service import Service
from tinkex_local.state.store import iso
from tinkex_local.wire import PATIENCE, PREFIX, bodies, protobuf
from tinkex_local.wire.batches import Encoded
from tinkex_local.wire.http import (
    Routes,
    answer,
    body_as,
    body_bytes,
    check_scope,
    environ,
    file_of,
    own_url,
    page,
    query_values,
    raw,
)

#: Size in bytes above which the size of a result is sent first, if the client allows that.
INLINE = 1024 * 1024


def add(app: Routes, service: Service, runner: Runner) -> None:
    """Add the routes to *app*."""
    _add_posts(app, service)
    _add_training(app, service, runner)
    _add_sessions(app, service)
    _add_sampling(app, service, runner)
    _add_listings(app, service)
    _add_changes(app, service)
    _add_addresses(app, service)
    _add_downloads(app, service)
    _add_traces(app, service)


#: Path → the body and the handler of a POST.
_POSTS: dict[str, tuple[Callable[[Service, Any], Any], type[bodies.Body]]] = {
    "create_session": (sessions.create, bodies.CreateSession),
    "session_heartbeat": (sessions.heartbeat, bodies.SessionHeartbeat),
    "sessions/search": (sessions.search, bodies.SearchSessions),
    "create_model": (runs.create, bodies.CreateModel),
    "get_info": (runs.info, bodies.ModelOnly),
    "unload_model": (runs.unload, bodies.ModelOnly),
    "weights_info": (runs.weights_info, bodies.WeightsInfo),
    "copy_weights": (weights.copy, bodies.CopyWeights),
    "create_sampling_session": (sampling.create_session, bodies.CreateSamplingSession),
    "asample": (sampling.submit, bodies.Sample),
}


def _add_posts(app: Routes, service: Service) -> None:
    def handler(do: Callable[[Service, Any], Any], kind: type[bodies.Body]) -> Callable[[], Any]:
        return lambda: do(service, body_as(kind))

    for path, (do, kind) in _POSTS.items():
        app.on("POST", path)(handler(do, kind))


def _add_training(app: Routes, service: Service, runner: Runner) -> None:
    """Add the routes whose requests have a number in a run."""

    def add(name: str, call: Callable[[Encoded], Any]) -> None:
        @app.on("POST", name)
        def handler() -> Any:
            content_type = environ().get("CONTENT_TYPE", "").partition(";")[0].strip()
            body = Encoded(name, body_bytes(), content_type == protobuf.CONTENT_TYPE)
            try:
                return call(body)
            except Problem as problem:
                training.note_refusal(service, body, problem)
                raise
            finally:
                runner.arrived()

    for name in ("forward", "forward_backward"):
        add(name, lambda body: training.forward(service, runner.engines, body))
    add(
        "optim_step",
        lambda _: training.optim_step(service, runner.engines, body_as(bodies.OptimStep)),
    )
    add("save_weights", lambda _: weights.save(service, body_as(bodies.SaveWeights)))
    add(
        "save_weights_for_sampler",
        lambda _: weights.save_for_sampler(service, body_as(bodies.SaveWeightsForSampler)),
    )
    add(
        "save_weights_external",
        lambda _: weights.save_external(service, body_as(bodies.SaveWeightsExternal)),
    )
    add("load_weights", lambda _: weights.load(service, body_as(bodies.LoadWeights)))


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
        outcome = runner.retrieve(body.request_id, patience)
        protobuf_wanted = protobuf.CONTENT_TYPE in environ().get("HTTP_ACCEPT", "")
        if outcome.get("type") in ("forward", "forward_backward"):
            response = _losses(service, body.request_id, outcome, protobuf_wanted)
        elif outcome.get("type") == "sample" and protobuf_wanted:
            response = raw(protobuf.sample_response(outcome), protobuf.CONTENT_TYPE)
        else:
            response = answer(outcome)
        size = len(response.body)
        if body.allow_metadata_only and size > INLINE:
            return {"status": "complete_metadata", "response_payload_size": size}
        return response


def _losses(
    service: Service, request_id: str, outcome: dict[str, Any], protobuf_wanted: bool
) -> Any:
    encoded = operations.arrays(service, request_id)
    if encoded is None:
        raise Problem(410, "The result of this request has expired; results are kept for one hour")
    if protobuf_wanted:
        return raw(encoded, protobuf.CONTENT_TYPE)
    outputs = protobuf.loss_fn_outputs(encoded)
    records = {"loss_fn_output_type": protobuf.RECORDS, "loss_fn_outputs": outputs}
    return answer(outcome | records)


_KINDS = "|".join(paths.TYPES)
_CHECKPOINT = f"training_runs/<run_id>/checkpoints/<kind:re:{_KINDS}>/<name>"
#: Paths of signed URLs, which need no key.
SIGNED = "signed"
_SIGNED = f"{SIGNED}/<run_id>/<kind:re:{_KINDS}>/<name>"
_FORMATS = {"tar": "application/x-tar", "tar.gz": "application/gzip"}


def _on_path(app: Routes, method: str, route: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for handlers of routes that contain a checkpoint's path."""

    def add(handler: Callable[..., Any]) -> None:
        def call(run_id: str, kind: str, name: str, **more: str) -> Any:
            return handler(TinkerPath(run_id, kind, name), **more)

        app.on(method, route)(call)

    return add


def _add_listings(app: Routes, service: Service) -> None:
    @app.on("GET", "training_runs")
    def list_runs() -> Any:
        check_scope()
        return runs.listing(service, *page(20, 1000))

    @app.on("GET", "training_runs/<run_id>")
    def get_run(run_id: str) -> Any:
        check_scope()
        return runs.as_dict(service, service.find("training run", run_id))

    @app.on("GET", "training_runs/<run_id>/checkpoints")
    def list_run_checkpoints(run_id: str) -> Any:
        service.find("training run", run_id)
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
    @_on_path(app, "DELETE", _CHECKPOINT)
    def delete(path: TinkerPath) -> Any:
        checkpoints.delete(service, path)

    @_on_path(app, "POST", f"{_CHECKPOINT}/publish")
    def publish(path: TinkerPath) -> Any:
        checkpoints.set_public(service, path, True)

    @_on_path(app, "DELETE", f"{_CHECKPOINT}/publish")
    def unpublish(path: TinkerPath) -> Any:
        checkpoints.set_public(service, path, False)

    @_on_path(app, "PUT", f"{_CHECKPOINT}/ttl")
    def set_ttl(path: TinkerPath) -> Any:
        checkpoints.set_ttl(service, path, body_as(bodies.Ttl).ttl_seconds)


def _add_addresses(app: Routes, service: Service) -> None:
    @_on_path(app, "GET", f"{_CHECKPOINT}/archive")
    def archive(path: TinkerPath) -> Any:
        checkpoints.find(service, path)
        suffix = query_values().get("format", "tar")
        if suffix not in _FORMATS:
            raise bad_request(f"Unknown archive format; valid formats: {', '.join(_FORMATS)}")
        expires = int(service.clock()) + SIGNATURE_LIFETIME
        url = _signed(service, f"{path.run_id}/{path.checkpoint_id}/archive.{suffix}", expires)
        headers = {"Location": url, "Expires": formatdate(expires, usegmt=True)}
        return answer({"url": url, "expires": iso(expires)}, 302, headers)

    @_on_path(app, "GET", f"{_CHECKPOINT}/external_weights_urls")
    def external_weights_urls(path: TinkerPath) -> Any:
        row = checkpoints.find(service, path)
        if path.kind != paths.EXTERNAL:
            raise bad_request(f"{path} is not an export; save_weights_external creates exports")
        names = sorted(file.name for file in (service.checkpoints / row["id"]).iterdir())
        expires = int(service.clock()) + SIGNATURE_LIFETIME
        base = f"{path.run_id}/{path.checkpoint_id}/files"
        urls = {name: _signed(service, f"{base}/{name}", expires) for name in names}
        return {"urls": urls, "expires": iso(expires)}


def _add_downloads(app: Routes, service: Service) -> None:
    def directory(path: TinkerPath) -> tuple[Path, float]:
        _check_signature(service)
        row = checkpoints.find(service, path)
        return service.checkpoints / row["id"], row["created"]

    @_on_path(app, "GET", f"{_SIGNED}/archive.<suffix>")
    def download_archive(path: TinkerPath, suffix: str) -> Any:
        packed = Archive(*directory(path), gzip=suffix != "tar")
        headers = {"Content-Disposition": f'attachment; filename="{path.name}.{suffix}"'}
        if suffix == "tar":
            headers["Content-Length"] = str(packed.length)
        return raw(packed, _FORMATS[suffix], headers=headers)

    @_on_path(app, "GET", f"{_SIGNED}/files/<file>")
    def download_file(path: TinkerPath, file: str) -> Any:
        root, _ = directory(path)
        if file not in {path.name for path in root.iterdir()}:
            raise not_found("file", file)
        return file_of(root, file)


def _add_traces(app: Routes, service: Service) -> None:
    @app.on("GET", "sessions/<session_id>/trace_export")
    def trace_export(session_id: str) -> Any:
        # A week of operations is read quickly, so the trace is generated on request.
        service.find("session", session_id)
        expires = int(service.clock()) + traces.LIFETIME
        url = _signed(service, f"sessions/{session_id}/trace.pftrace", expires)
        return {"status": "ready", "url": url, "error": None}

    @app.on("GET", f"{SIGNED}/sessions/<session_id>/trace.pftrace")
    def download_trace(session_id: str) -> Any:
        _check_signature(service)
        return raw(traces.trace(service, session_id), "application/octet-stream")


def _signed(service: Service, path: str, expires: int) -> str:
    return own_url() + service.signer.sign(f"{PREFIX}/{SIGNED}/{path}", expires)


def _check_signature(service: Service) -> None:
    query = query_values()
    asked = environ()["PATH_INFO"]
    expires, signature = query.get("expires", ""), query.get("signature", "")
    if not service.signer.valid(asked, expires, signature, service.clock()):
        raise Problem(403, "The URL is invalid or has expired")
