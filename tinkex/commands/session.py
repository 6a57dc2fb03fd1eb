"""Sessions: groups of training runs and samplers."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cliff.columns import FormattableColumn

from tinkex.columns import Size, cells, counted, plain_text
from tinkex.commands.arguments import add_limit, add_paging, add_scope, holds_all, print_rest
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import TinkexError, UsageError
from tinkex.options import non_empty

if TYPE_CHECKING:
    from tinkex.api import SessionInfo

_FIELDS = ("session_id", "display_name", "training_run_ids", "sampler_ids", "user_metadata")
_NOTHING = (None,) * (len(_FIELDS) - 1)
#: Maximum number of sessions whose details a table shows without ``--long``.
_DESCRIBED = 100
_STATUSES = ("active", "cancelled", "failed", "finished", "success", "errored", "interrupted")


class ListSession(Lister):
    """List sessions, newest first."""

    column_names = _FIELDS
    plain_columns = ("session_id",)
    droppable = ("user_metadata", "sampler_ids", "training_run_ids")
    examples = ("tinkex session list", "tinkex session list --long --limit 5")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_paging(parser, "sessions")
        add_scope(parser, "owned")
        parser.add_argument(
            "-l",
            "--long",
            action="store_true",
            help="show names, runs and samplers in every format, not only in tables (sends "
            "one additional request per session)",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        accessible = parsed_args.access_scope == "accessible"
        sessions, limit = self.client.sessions, parsed_args.limit
        page = sessions.list(limit or None, parsed_args.offset, accessible=accessible)
        self.app.remember("sessions", page, whole=holds_all(page))
        print_rest(self, page, "sessions")
        if not parsed_args.long and page.total is None and limit and len(page) == limit:
            # There may be more.
            self.status(f"{counted(len(page), 'session')} shown; --limit 0 shows all.")
        if not parsed_args.long:
            self.result = page
            if parsed_args.formatter != "table" or len(page) > _DESCRIBED:
                return _FIELDS[:1], [(session_id,) for session_id in page]
        known: Mapping[str, SessionInfo] = {}
        # Without --long, the list is a result even if fetching the details fails.
        with contextlib.suppress(*(() if parsed_args.long else (TinkexError,))):
            known = sessions.get_many(page, accessible=accessible)
        if parsed_args.long:
            self.result = [known[session_id] for session_id in page if session_id in known]
            return _FIELDS, [_values(session) for session in self.result]
        rows = [_values(known[x]) if x in known else (x, *_NOTHING) for x in page]
        return _FIELDS[:-1], [row[:-1] for row in rows]


class _Count(FormattableColumn[Sequence[str]]):
    """Ids: displayed as a count, and as the full list in machine-readable formats."""

    def human_readable(self) -> str:
        return str(len(self._value))


def _values(session: SessionInfo) -> tuple[Any, ...]:
    """Return the values of the columns :data:`_FIELDS`."""
    session_id, name, *_, metadata = cells(session, _FIELDS)
    runs, samplers = list(session.training_run_ids), list(session.sampler_ids)
    return (session_id, name, _Count(runs), _Count(samplers), metadata)


class ShowSession(ShowOne):
    """Show the training runs and samplers of a session."""

    column_names = _FIELDS
    examples = ("tinkex session show SESSION_ID",)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("session_id", metavar="<session_id>", help="session id")
        add_scope(parser, "owned")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        accessible = parsed_args.access_scope == "accessible"
        session = self.client.sessions.get(parsed_args.session_id, accessible=accessible)
        self.result = session
        self.app.remember("sessions", [session.session_id])
        self.app.remember("runs", session.training_run_ids)
        return _FIELDS, cells(session, _FIELDS)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        session = self.result
        name = f" ({plain_text(session.display_name)})" if session.display_name else ""
        lines = [plain_text(session.session_id) + name]
        lines += [f"Run: {plain_text(run_id)}" for run_id in session.training_run_ids]
        lines += [f"Sampler: {plain_text(sampler_id)}" for sampler_id in session.sampler_ids]
        pairs = (session.user_metadata or {}).items()
        return lines + [f"Metadata: {plain_text(k)}={plain_text(v)}" for k, v in pairs]


class SearchSession(Lister):
    """Search sessions by name, metadata, project and more."""

    column_names = (
        *("session_id", "display_name", "status", "created_at"),
        *("checkpoints_count", "checkpoint_storage_bytes", "owner", "project_id"),
        *("message", "user_metadata"),
    )
    plain_columns = ("session_id", "status", "display_name")
    droppable = column_names[:3:-1]
    examples = (
        "tinkex session search 'sweep lr' --status failed",
        "tinkex session search --metadata experiment=7 --owner all -f json",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        repeatable = functools.partial(parser.add_argument, action="append", default=[])
        parser.add_argument(
            "words", metavar="<words>", nargs="*", help="words in the name (case-insensitive)"
        )
        parser.add_argument(
            "--session-id",
            metavar="<session_id>",
            type=non_empty,
            help="only the session with this id",
        )
        repeatable(
            "--metadata",
            metavar="<key=value>",
            type=_pair,
            help="only sessions with this metadata pair; may be repeated to require several",
        )
        repeatable(
            "--project-id",
            metavar="<id>",
            type=non_empty,
            help="only sessions in this project; may be repeated to match any of several",
        )
        repeatable(
            "--owner",
            metavar="<urn>",
            type=non_empty,
            help="search this user's sessions instead of yours, or everyone's with 'all'; may be "
            "repeated",
        )
        repeatable(
            "--status",
            choices=_STATUSES,
            help="only sessions with this status; may be repeated to match any of several",
        )
        add_limit(parser, "sessions")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api import SessionQuery

        everyone = "all" in parsed_args.owner
        query = SessionQuery(
            display_name=" ".join(parsed_args.words) or None,
            session_id=parsed_args.session_id,
            user_metadata=dict(parsed_args.metadata),
            project_ids=parsed_args.project_id,
            owners=() if everyone else parsed_args.owner,
            accessible=everyone,
            statuses=parsed_args.status,
        )
        self.result = page = self.client.sessions.search(query, parsed_args.limit or None)
        self.app.remember("sessions", [session.session_id for session in page])
        if page.total is None:
            self.status(
                f"{counted(len(page), 'session')} shown; there are more. --limit 0 shows all."
            )
        return self.column_names, [cells(session, self.column_names) for session in page]


class ExportTraceSession(ShowOne):
    """Export a session's timeline as a Perfetto trace."""

    notes = "View the file at https://ui.perfetto.dev."
    operation = "Trace export"
    is_action = True
    column_names = ("session_id", "url", "destination", "file_size_bytes")
    examples = (
        "tinkex session export-trace SESSION_ID",
        "tinkex session export-trace SESSION_ID --output sweep.pftrace --timeout 10m",
        'curl -o sweep.pftrace "$(tinkex session export-trace SESSION_ID --url-only)"',
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("session_id", metavar="<session_id>", help="session id")
        parser.add_argument(
            "-o", "--output", metavar="<file>", help="output file (default: <session_id>.pftrace)"
        )
        parser.add_argument("--force", action="store_true", help="replace an existing file")
        parser.add_argument(
            "--url-only",
            action="store_true",
            help="print the signed URL instead of downloading the trace; the URL requires no key "
            "and is usually valid for an hour",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import check_writable, user_path

        session_id, output = parsed_args.session_id, parsed_args.output
        if parsed_args.url_only:
            if output:
                raise UsageError("use either --url-only or --output", hint="Omit --output.")
            self.result = self.client.sessions.trace_url(session_id)
            return self.column_names, (session_id, self.result, None, None)
        if output:
            check_writable(output)
        self.result = done = self.client.sessions.export_trace(
            session_id,
            user_path(output) if output else None,
            force=parsed_args.force,
            on_progress=self.app.display.transfer,
        )
        return self.column_names, (session_id, None, str(done.path), Size(done.size_bytes))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        if record["url"]:
            return [plain_text(record["url"])]
        size = record["file_size_bytes"].human_readable()
        return [f"Saved {size} to {record['destination']}"]


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"not of the form key=value: {text[:80]!r}")
    return key, value
