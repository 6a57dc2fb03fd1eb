"""Copies of checkpoints: each belongs to a new run, which has nothing else."""

from __future__ import annotations

import json
from typing import Any

from tinkex_local.problems import bad_request
from tinkex_local.state import checkpoints, operations, paths, runs, sessions, weights
from tinkex_local.state.paths import TinkerPath
from tinkex_local.state.service import Service
from tinkex_local.wire import bodies


def copy(service: Service, body: bodies.CopyWeights) -> dict[str, Any]:
    """Copy a checkpoint into a new run of a session; asked twice, it is copied once.

    :raises Problem: the original or the session is not there, the number was used otherwise, or
        a project is named, which this service does not have.
    """
    if body.destination_project_id is not None:
        raise bad_request("This service has no projects: give session_id and model_seq_id")
    if body.session_id is None or body.model_seq_id is None:
        raise bad_request("Give destination_project_id, or session_id and model_seq_id")
    source = paths.parse(body.source_path)
    session_id, number = body.session_id, body.model_seq_id
    run_id = runs.run_id_of(session_id, number)
    target = TinkerPath(run_id, source.kind, source.name)
    scope = runs.models_of(session_id)
    if operations.earlier(service, scope, number, body) is None:
        sessions.require_open(service, session_id)
        row = checkpoints.find(service, source)
        spec = runs.spec_of(runs.find(service, source.run_id))

        def action(staged: Any) -> dict[str, Any]:
            sessions.require_open(service, session_id)
            runs.insert(service, run_id, session_id, spec, None)
            runs.end(service, run_id)  # nothing more can be saved from it
            checkpoints.adopt(
                service, staged, target, ttl=body.ttl_seconds, user_metadata=_metadata(row)
            )
            return {"tinker_path": str(target)}

        with_files = weights.WithFiles(service, weights.copier(service, source), action)
        try:
            operations.perform(service, "copy_weights", scope, number, body, with_files.action)
        finally:
            with_files.clean()
    return {"tinker_path": str(target)}


def _metadata(row: Any) -> dict[str, Any] | None:
    return None if row["user_metadata"] is None else json.loads(row["user_metadata"])
