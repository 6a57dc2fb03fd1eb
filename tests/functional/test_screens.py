"""What a terminal of 80 or 200 columns shows of lists: short names, expiry, what is hidden."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.functional.test_lists import ODD, a_run, listing, row
from tinkex.commands.base import Lister
from tinkex.testing import Invocation, invoke

RUN = "699b8252-3d5c-4a01-9a3e-8c76f97440a5:train:0"
SESSION = RUN.partition(":")[0]


def in_hours(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours, minutes=1)).isoformat()


def shown(line: str, width: int, answers: dict[str, Any], **environ: str) -> Invocation:
    """Return what a terminal of *width* columns shows of the command *line*."""
    with listing(answers) as (tinkex, _):
        environ |= tinkex.environment | {"COLUMNS": str(width), "NO_COLOR": "1"}
        done = invoke(line.split(), terminal=True, environ=environ)
    assert done.exit_code == 0, done.stderr
    return done


def table(done: Invocation) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("|")
    ]


CHECKPOINTS = [
    row("first", "sampler_weights", RUN, size_bytes=513736, expires_at=in_hours(47)),
    row("000010", "sampler_weights", RUN, 11, size_bytes=513736, expires_at=None),
    row("000010", "weights", RUN, 11, size_bytes=1_500_000, expires_at=None),
]
LISTS = {"checkpoints": CHECKPOINTS, "training_runs/" + RUN + "/checkpoints": CHECKPOINTS}


def test_80_columns_show_short_names_type_size_created_and_expires():
    done = shown("checkpoint list", 80, LISTS)
    heads, *rows = table(done)
    assert heads == ["Name", "Type", "Size", "Created", "Expires"]
    assert [[name, kind, size, expires] for name, kind, size, _, expires in rows] == [
        ["699b8252:first", "sampler", "513.7 kB", "in 1 day"],
        ["699b8252:sampler/000010", "sampler", "513.7 kB", "never"],
        ["699b8252:training/000010", "training", "1.5 MB", "never"],
    ]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert (
        done.stderr
        == "Hidden (terminal too narrow): Checkpoint, Public, Path; -f json shows all.\n"
    )


@pytest.mark.parametrize("line", ["checkpoint list --limit 1", "checkpoint list --type sampler"])
def test_a_name_has_its_type_where_others_may_be_called_the_same(line):
    assert table(shown(line, 80, LISTS))[1][0] == "699b8252:sampler/first"


@pytest.mark.parametrize("words", ["--max-width 200", "-c tinker_path", "-c Name", ""])
def test_the_path_is_shown_where_it_fits_or_is_asked_for(words):
    done = shown(f"checkpoint list {words}", 80 if words else 200, LISTS)
    assert f"tinker://{RUN}/sampler_weights/first" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("odd", "name"),
    [
        ("kind", "tinker://r/checkpoints/n"),
        ("nested", "tinker://r/weights/a/b"),
        ("scheme", "s3://bucket/x"),
        ("bare", "only-an-id"),
        ("number", "'3'"),
        ("null", "r:zero"),
    ],
)
def test_a_row_without_a_short_name_is_shown_as_the_server_sent_it(odd, name):
    lists = {"checkpoints": [row("a-name-for-the-width", run=RUN), ODD[odd]]}
    assert name in [cells[0] for cells in table(shown("checkpoint list", 80, lists))]


def test_expiry_is_hidden_last():
    heads, *rows = table(shown("checkpoint list", 50, LISTS))
    assert heads == ["Name", "Expires"]
    assert rows[0] == ["699b8252:first", "in 1 day"]


def test_80_columns_show_runs_by_the_beginning_of_their_ids():
    saved = "2026-11-22T12:00:00Z"
    run = a_run(RUN, base_model="Qwen/Qwen3-8B", lora_rank=32, model_owner="ada@example.com")
    run["last_checkpoint"] = {"tinker_path": f"tinker://{RUN}/weights/9", "time": saved}
    heads, first = table(shown("run list", 80, {"training_runs": [run]}))
    assert heads[:3] == ["Run", "Base model", "LoRA rank"]
    assert {"Last request", "Last saved"} < set(heads)
    assert first[:3] == ["699b8252", "Qwen/Qwen3-8B", "32"]
    assert RUN in shown("run list", 200, {"training_runs": [run]}).stdout


DETAILS = {"training_run_ids": [RUN], "sampler_ids": ["s1", "s2"], "display_name": "sweep lr"}


@pytest.mark.parametrize(
    ("details", "rest"),
    [(DETAILS, ["sweep lr", "1", "2"]), (None, ["", "", ""])],
)
def test_a_table_of_sessions_tells_them_apart_where_the_server_can(details, rest):
    answers = {"sessions": {"sessions": [SESSION]}} | (
        {f"sessions/{SESSION}": details} if details else {}
    )
    done = shown("session list", 80, answers)
    assert table(done) == [["Session", "Display name", "Runs", "Samplers"], [SESSION, *rest]]
    with listing(answers) as (tinkex, service):
        assert tinkex("session list").stdout == f"{SESSION}\n"
    assert [seen for seen in service.seen if SESSION in seen] == []  # a pipe gets ids only


@pytest.mark.parametrize("noun", ["checkpoint", "run", "session"])
def test_an_empty_list_says_so(noun):
    empty = {"checkpoints": [], "training_runs": [], "sessions": {"sessions": []}}
    done = shown(f"{noun} list", 80, empty)
    assert (done.stdout, done.stderr) == ("", f"No {noun} found.\n")


@pytest.mark.parametrize("noun", ["log entry", "history", "news", "bus"])
def test_an_empty_list_of_a_plugin_says_so_in_correct_english(noun):
    class ListThing(Lister):
        """List things."""

        column_names = ("name",)

        def take_action(self, parsed_args):
            return self.column_names, []

    command = ListThing(None, None, f"{noun} list")  # type: ignore[arg-type]
    assert command.presentation.empty == f"No {noun} found."


# ---------------------------------------------------------------------- expiry

EXPIRING = [
    row("never", expires_at=None),
    row("gone", expires_at=in_hours(-1)),
    row("tonight", expires_at=in_hours(8)),
    row("tomorrow", expires_at=in_hours(22)),
    row("later", expires_at=in_hours(70)),
]


@pytest.mark.parametrize(
    ("when", "names"),
    [
        ("3d", ["gone", "later", "tomorrow", "tonight"]),
        ("12h", ["gone", "tonight"]),
        ("in 1d", ["gone", "tomorrow", "tonight"]),
        ("2000-01-01", []),
    ],
)
def test_list_by_expiry(when, names):
    with listing({"checkpoints": EXPIRING}) as (tinkex, _):
        done = tinkex("checkpoint list -f value -c tinker_path --expires-before", when)
    assert sorted(path.rpartition("/")[2] for path in done.stdout.split()) == names


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("tonight", "tomorrow"), "2 checkpoints expire within 24 hours. To keep them:\n"),
        (("tonight", "later", "gone"), "1 checkpoint expires within 24 hours. To keep it:\n"),
        (("never", "gone", "later"), ""),
    ],
)
def test_a_list_warns_of_checkpoints_that_expire_within_24_hours(names, words):
    rows = [one for one in EXPIRING if one["checkpoint_id"].rpartition("/")[2] in names]
    with listing({"checkpoints": rows}) as (tinkex, _):
        said = tinkex("checkpoint list").stderr
    command = "  tinkex checkpoint set-ttl --expires-before 24h --remove\n"
    assert said == (words and words + command)
