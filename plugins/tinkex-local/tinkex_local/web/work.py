"""Routes of sessions, models, saving and sampling: everything that is done."""

from __future__ import annotations

from typing import Any

from tinkex_local import bodies, protobuf, runs, sampling, search, sessions, weights
from tinkex_local.problems import bad_request
from tinkex_local.runner import POLL_SECONDS, Runner
from tinkex_local.service import Service
from tinkex_local.times import PATIENCE
from tinkex_local.web.wire import Routes, answer, body_as, environ, header, page, raw

#: Bytes of a result above which a client that allows it is told the size first.
INLINE = 1024 * 1024


def add(app: Routes, service: Service, runner: Runner) -> None:
    """Add the routes to *app*."""
    _add_sessions(app, service)
    _add_models(app, service)
    _add_sampling(app, service, runner)


def _add_sessions(app: Routes, service: Service) -> None:
    @app.post("create_session")
    def create_session() -> Any:
        return sessions.create(service, body_as(bodies.CreateSession))

    @app.post("session_heartbeat")
    def session_heartbeat() -> Any:
        return sessions.heartbeat(service, body_as(bodies.SessionHeartbeat).session_id)

    @app.post("sessions/<session_id>/finish")
    def finish_session(session_id: str) -> Any:
        sessions.finish(service, session_id, body_as(bodies.FinishSession))

    @app.get("sessions")
    def list_sessions() -> Any:
        return sessions.listing(service, *page(20, 1000))

    @app.post("sessions/search")
    def search_sessions() -> Any:
        return search.search(service, body_as(bodies.SearchSessions))

    @app.get("sessions/<session_id>")
    def get_session(session_id: str) -> Any:
        return sessions.info(service, session_id)


def _add_models(app: Routes, service: Service) -> None:
    @app.post("create_model")
    def create_model() -> Any:
        return runs.create(service, body_as(bodies.CreateModel))

    @app.post("get_info")
    def get_info() -> Any:
        return runs.info(service, body_as(bodies.ModelOnly).model_id)

    @app.post("unload_model")
    def unload_model() -> Any:
        return runs.unload(service, body_as(bodies.ModelOnly))

    @app.post("save_weights")
    def save_weights() -> Any:
        return weights.save(service, body_as(bodies.SaveWeights))

    @app.post("save_weights_for_sampler")
    def save_weights_for_sampler() -> Any:
        return weights.save_for_sampler(service, body_as(bodies.SaveWeightsForSampler))

    @app.post("save_weights_external")
    def save_weights_external() -> Any:
        return weights.save_external(service, body_as(bodies.SaveWeightsExternal))

    @app.post("load_weights")
    def load_weights() -> Any:
        return weights.load(service, body_as(bodies.LoadWeights))

    for name in ("forward", "forward_backward", "optim_step"):
        app.post(name)(_no_training)


def _add_sampling(app: Routes, service: Service, runner: Runner) -> None:
    @app.post("create_sampling_session")
    def create_sampling_session() -> Any:
        return sampling.create_session(service, body_as(bodies.CreateSamplingSession))

    @app.get("samplers/<sampler_id>")
    def get_sampler(sampler_id: str) -> Any:
        return sampling.info(service, sampler_id)

    @app.post("asample")
    def asample() -> Any:
        return sampling.submit(service, body_as(bodies.Sample))

    @app.post("retrieve_future")
    def retrieve_future() -> Any:
        body = body_as(bodies.RetrieveFuture)
        patience = float(environ().get(PATIENCE, POLL_SECONDS))
        outcome = runner.retrieve(body.request_id, patience)
        response = _encoded(outcome, header("Accept"))
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
