"""Copies of checkpoints: into a project, or into a run of one's own."""

from __future__ import annotations

from tinkex.api.http import schema
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import TinkerPath
from tinkex.api.resources.records import read_path
from tinkex.api.resources.sessions import Sessions, outcome_of
from tinkex.exceptions import SettingsError

#: Carries the access token of the account that the original belongs to.
TOKEN_HEADER = "X-Tinker-Weights-Access-Token"  # noqa: S105 - a name, not a token


def copy(
    transport: Transport,
    sessions: Sessions,
    source: TinkerPath,
    *,
    project_id: str | None,
    ttl_seconds: int | None,
    access_token: str | None,
) -> str:
    """Copy *source*; return the path of the copy. See :meth:`Checkpoints.copy`."""
    deadline = transport.deadline("the checkpoint to be copied")
    body: dict[str, object] = {"source_path": str(source)}
    if ttl_seconds is not None:
        body["ttl_seconds"] = ttl_seconds
    headers = {TOKEN_HEADER: _checked(access_token)} if access_token else {}
    session = None
    if project_id:
        body["destination_project_id"] = project_id
    else:
        session = sessions.create(deadline=deadline)
        body |= {"session_id": session.session_id, "model_seq_id": session.model_seq_id}
    # Every try carries the same idempotency key, so a second one makes no second copy.
    request = Request(
        "POST", "copy_weights", body, headers=headers, repeatable=True, what="copies of checkpoints"
    )
    try:
        answer = transport.call(request, deadline).object()
    except BaseException as error:
        if session is not None:
            session.finish(outcome_of(type(error)))
        raise
    if session is not None:
        session.finish()
    return str(read_path(schema.text(answer, "tinker_path")))


def _checked(token: str) -> str:
    if not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise SettingsError("the access token holds a space, a line break or a non-ASCII character")
    return token
