"""Sessions: what training runs and samplers belong to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any

from tinkex.columns import Size, Structure, Time, plain_text
from tinkex.commands.arguments import add_paging, add_scope, holds_all, tell_rest
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import UsageError
from tinkex.options import integer, non_empty

if TYPE_CHECKING:
    from tinkex.api.resources.session_info import SessionSummary

_STATUSES = ("active", "cancelled", "failed", "finished", "success", "errored", "interrupted")


class ListSession(Lister):
    """List the ids of sessions, the newest first."""

    column_names = (
        "session_id",
        "display_name",
        "training_run_ids",
        "sampler_ids",
        "user_metadata",
    )
    plain_columns = ("session_id",)
    droppable = ("user_metadata", "sampler_ids")
    examples = ("tinkex session list", "tinkex session list --long --limit 5")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_paging(parser, "sessions")
        add_scope(parser, "owned")
        parser.add_argument(
            "-l",
            "--long",
            action="store_true",
            help="also names, runs and samplers; asks about every session that is shown",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        accessible = parsed_args.access_scope == "accessible"
        sessions = self.client.sessions
        page = sessions.list(parsed_args.limit or None, parsed_args.offset, accessible=accessible)
        self.app.remember("sessions", page, whole=holds_all(page))
        tell_rest(self, page, "sessions")
        if not parsed_args.long:
            self.result = page
            # There is no word of how many there are.
            if page.total is None and parsed_args.limit and len(page) == parsed_args.limit:
                self.status(f"{_counted(page)} shown; --limit 0 shows all.")
            return self.column_names[:1], [(session_id,) for session_id in page]
        known = sessions.get_many(page.items, accessible=accessible)
        self.result = [known[session_id] for session_id in page if session_id in known]
        return self.column_names, [
            (
                session.session_id,
                session.display_name,
                Structure(list(session.training_run_ids)),
                Structure(list(session.sampler_ids)),
                Structure(session.user_metadata),
            )
            for session in self.result
        ]


class ShowSession(ShowOne):
    """Show the training runs and samplers of a session."""

    column_names = (
        "session_id",
        "display_name",
        "training_run_ids",
        "sampler_ids",
        "user_metadata",
    )
    examples = ("tinkex session show SESSION_ID",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_session(parser)
        add_scope(parser, "owned")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        accessible = parsed_args.access_scope == "accessible"
        session = self.client.sessions.get(parsed_args.session_id, accessible=accessible)
        self.result = session
        self.app.remember("sessions", [session.session_id])
        self.app.remember("runs", session.training_run_ids)
        return self.column_names, (
            session.session_id,
            session.display_name,
            Structure(list(session.training_run_ids)),
            Structure(list(session.sampler_ids)),
            Structure(session.user_metadata),
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        name = plain_text(record["display_name"])
        lines = [plain_text(record["session_id"]) + (f" ({name})" if name else "")]
        for title, member in (("Run", "training_run_ids"), ("Sampler", "sampler_ids")):
            lines += [f"{title}: {plain_text(i)}" for i in record[member].machine_readable()]
        metadata = record["user_metadata"].machine_readable() or {}
        return lines + [f"Metadata: {plain_text(k)}={plain_text(v)}" for k, v in metadata.items()]


class SearchSession(Lister):
    """Search sessions by name, metadata, project, owner and status, the newest first."""

    column_names = (
        "session_id",
        "display_name",
        "status",
        "created_at",
        "checkpoints_count",
        "checkpoint_storage_bytes",
        "owner",
        "project_id",
        "message",
        "user_metadata",
    )
    plain_columns = ("session_id", "status", "display_name")
    droppable = (
        "user_metadata",
        "message",
        "project_id",
        "owner",
        "checkpoint_storage_bytes",
        "checkpoints_count",
    )
    examples = (
        "tinkex session search 'sweep lr' --status failed",
        "tinkex session search --metadata experiment=7 --owner all -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "words",
            metavar="<words>",
            nargs="*",
            help="words that the display name has, in any case",
        )
        parser.add_argument(
            "--session-id", metavar="<session_id>", type=non_empty, help="this session"
        )
        parser.add_argument(
            "--metadata",
            metavar="<key=value>",
            action="append",
            default=[],
            type=_pair,
            help="a pair that the metadata has; may be repeated",
        )
        parser.add_argument(
            "--project-id",
            metavar="<id>",
            action="append",
            default=[],
            type=non_empty,
            help="only this project; may be repeated for any of several",
        )
        parser.add_argument(
            "--owner",
            metavar="<urn>",
            action="append",
            default=[],
            type=non_empty,
            help="sessions of this user instead of one's own, or 'all'; may be repeated",
        )
        parser.add_argument(
            "--status",
            choices=_STATUSES,
            action="append",
            default=[],
            help="only sessions in this state; may be repeated for any of several",
        )
        parser.add_argument(
            "--limit",
            metavar="<int>",
            type=integer(0),
            default=20,
            help="most sessions to return; 0 means all (default: 20)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api import SessionQuery

        everybody = "all" in parsed_args.owner
        query = SessionQuery(
            display_name=" ".join(parsed_args.words) or None,
            session_id=parsed_args.session_id,
            user_metadata=dict(parsed_args.metadata),
            project_ids=parsed_args.project_id,
            owners=() if everybody else parsed_args.owner,
            accessible=everybody,
            statuses=parsed_args.status,
        )
        page = self.client.sessions.search(query, parsed_args.limit or None)
        self.result = page
        self.app.remember("sessions", [session.session_id for session in page])
        if page.total is None:
            self.status(f"{_counted(page)} shown, there are more; --limit 0 shows all.")
        return self.column_names, [_summary(session) for session in page]


class ExportTraceSession(ShowOne):
    """Export the timeline of a session as a Perfetto trace."""

    notes = "https://ui.perfetto.dev shows it."

    operation = "Trace export"
    is_action = True
    column_names = ("session_id", "url", "destination", "file_size_bytes")
    examples = (
        "tinkex session export-trace SESSION_ID",
        "tinkex session export-trace SESSION_ID --output sweep.pftrace --timeout 10m",
        'curl -o sweep.pftrace "$(tinkex session export-trace SESSION_ID --url-only)"',
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_session(parser)
        parser.add_argument(
            "-o", "--output", metavar="<file>", help="the file (default: <session_id>.pftrace)"
        )
        parser.add_argument("--force", action="store_true", help="replace a file that is there")
        parser.add_argument(
            "--url-only",
            action="store_true",
            help="print the signed address, which works for a while without a key (usually an "
            "hour), and fetch nothing",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import check_writable, user_path

        session_id, output = parsed_args.session_id, parsed_args.output
        if parsed_args.url_only:
            if output:
                raise UsageError("--url-only writes no file", hint="Leave out --output.")
            self.result = self.client.sessions.trace_url(session_id)
            return self.column_names, (session_id, self.result, None, None)
        if output:
            check_writable(output)
        done = self.client.sessions.export_trace(
            session_id,
            user_path(output) if output else None,
            force=parsed_args.force,
            on_progress=self.app.display.transfer,
        )
        self.result = done
        return self.column_names, (session_id, None, str(done.path), Size(done.size_bytes))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        if record["url"]:
            return [plain_text(record["url"])]
        size = record["file_size_bytes"].human_readable()
        return [f"Saved {size} to {record['destination']}"]


def _counted(page: Sized) -> str:
    return "1 session" if len(page) == 1 else f"{len(page)} sessions"


def _add_session(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session_id", metavar="<session_id>", help="id of the session")


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"not of the form key=value: {text[:80]!r}")
    return key, value


def _summary(session: SessionSummary) -> tuple[Any, ...]:
    return (
        session.session_id,
        session.display_name,
        session.status,
        Time(session.created_at),
        session.checkpoints_count,
        Size(session.checkpoint_storage_bytes),
        session.owner,
        session.project_id,
        session.message,
        Structure(session.user_metadata),
    )
