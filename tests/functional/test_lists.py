"""Lists of servers of every kind: odd rows, any order, missing routes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.functional.conftest import Program
from tests.serving import Reply, Request, serving
from tinkex.testing import invoke

pytestmark = pytest.mark.usefixtures("naps")
API = "/api/v1/"
PAGED = ("training_runs", "checkpoints")
KEY = "tml-lists-0123"


class Lists:
    """A service of lists: each is answered in its own order, by ``limit`` and ``offset``."""

    def __init__(self, **answers: Any) -> None:
        self.seen: list[str] = []
        self.answers = answers

    def __call__(self, request: Request) -> Reply:
        path = request.path.removeprefix(API)
        self.seen.append(f"{request.method} {path}")
        found = self.answers.get(path, Reply({"detail": "Not Found"}, 404))
        if isinstance(found, Reply):
            return found
        if path in PAGED:
            start, size = int(request.query["offset"]), int(request.query["limit"])
            return Reply({path: found[start : start + size]})
        return Reply({"checkpoints": found} if isinstance(found, list) else found)


@contextmanager
def listing(answers: dict[str, Any]) -> Iterator[tuple[Program, Lists]]:
    service = Lists(**answers)
    with serving(service) as url:
        yield Program({"TINKER_BASE_URL": url, "TINKER_API_KEY": KEY}), service


def row(name: str, kind: str = "weights", run: str = "r", hour: int = 12, **more: Any) -> Any:
    return {
        "checkpoint_id": f"{kind}/{name}",
        "checkpoint_type": {"weights": "training", "sampler_weights": "sampler"}.get(kind, kind),
        "tinker_path": f"tinker://{run}/{kind}/{name}",
        "time": f"2026-11-22T{hour:02d}:00:00Z",
        **more,
    }


def a_run(name: str, hour: int = 12, **more: Any) -> dict[str, Any]:
    last = f"2026-11-22T{hour:02d}:00:00Z"
    return {"training_run_id": name, "base_model": "m", "last_request_time": last, **more}


def names(stdout: str) -> list[str]:
    return [line.rpartition("/")[2] for line in stdout.splitlines()]


GOOD = [row("2", hour=3), row("1", hour=2)]
ODD = {
    "kind": row("n", "checkpoints"),
    "nested": row("a/b"),
    "scheme": row("x", tinker_path="s3://bucket/x"),
    "type": row("t", checkpoint_type="merged"),
    "null": row("zero", time=None),
    "words": row("words", time="yesterday"),
    "placeholder": row("early", time="1970-01-01T00:00:00Z"),
    "bare": {"checkpoint_id": "only-an-id", "time": "2026-11-22T01:00:00Z"},
    "number": 3,
}


# Odd rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_row_is_shown_as_it_came_and_counted(odd):
    rows = [*GOOD, ODD[odd]]
    with listing({"checkpoints": rows, "training_runs/r/checkpoints": rows}) as (tinkex, _):
        done = tinkex("checkpoint list -f value -c tinker_path")
        known = tinkex("checkpoint info tinker://r/weights/2 -f value -c tinker_path")
    record = ODD[odd]
    shown = (record.get("tinker_path") or record["checkpoint_id"]) if odd != "number" else "'3'"
    assert sorted(done.stdout.split()) == sorted(["tinker://r/weights/1", known.stdout[:-1], shown])
    assert (
        "1 of the checkpoints has missing or unknown values and is shown as received."
        in done.stderr
    )


@pytest.mark.parametrize("odd", ODD)
def test_no_bulk_command_touches_an_odd_row(odd, tmp_path):
    rows = [*GOOD, ODD[odd]]
    lists = {
        "checkpoints": rows,
        "training_runs/r/checkpoints": rows,
        "training_runs/r": a_run("r"),
    }
    with listing(lists) as (tinkex, service):
        for line in (
            "checkpoint prune --keep-last 1 --dry-run",
            "checkpoint delete --before 2026-11-23 --dry-run",
            "checkpoint delete --run-id r --dry-run",
        ):
            done = tinkex(line)
            assert names(done.stdout.replace("\tnot among the last 1", "")) in (
                ["2\tnewest of its run and type", "1"],
                ["2", "1"],
            )
            assert "Skipped checkpoints whose type or creation time is unknown: " in done.stderr
        done = tinkex(f"checkpoint sync r {tmp_path} -f json", code=1)
    assert names("\n".join(row["tinker_path"] for row in done.rows)) == ["2", "1"]
    assert not [seen for seen in service.seen if seen.startswith("DELETE")]


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (1763805600.5, "2025-11-22T10:00:00.500000Z"),
        (1763805600, "2025-11-22T10:00:00Z"),
        (1763805600000, "2025-11-22T10:00:00Z"),
        ("2025-11-22T10:00:00", "2025-11-22T10:00:00Z"),
        ("2025-11-22T12:00:00+02:00", "2025-11-22T10:00:00Z"),
        *((unknown, None) for unknown in (None, 0, "1970-01-01T00:00:00Z", "", True, "x", 1e300)),
    ],
)
def test_a_time_in_any_form_is_utc_or_unknown(time, shown):
    with listing({"checkpoints": [row("1", time=time)]}) as (tinkex, _):
        assert tinkex("checkpoint list -f json -c time").rows == [{"time": shown}]


def test_an_odd_last_checkpoint_does_not_fail_the_list_of_runs():
    runs = [
        a_run("a", last_checkpoint=row("1", run="a"), last_sampler_checkpoint=None),
        a_run("b", last_checkpoint={"path": "xorl://b/weights/1", "created_at": 1.5}),
        a_run(
            "c", base_model="", last_sampler_checkpoint=row("n", "checkpoints", time=1763805600.5)
        ),
        a_run("d", lora_rank="many", corrupted=None, last_request_time=None),
        {"base_model": "without an id"},
    ]
    with listing({"training_runs": runs}) as (tinkex, _):
        done = tinkex("run list -f value -c training_run_id -c last_checkpoint")
    paths = ["a tinker://a/weights/1", "b xorl://b/weights/1", "c null", "d null", " null"]
    assert done.stdout.splitlines() == paths
    assert "3 of the runs have missing or unknown values and are shown as received" in done.stderr


@pytest.mark.parametrize("name", ["training_runs", "checkpoints"])
def test_a_list_without_a_single_object_is_no_list(name):
    with listing({name: [None, 3]}) as (tinkex, _):
        noun = "run" if name == "training_runs" else "checkpoint"
        done = tinkex(f"{noun} list", code=1)
    assert f"'{name}' contains no objects" in done.stderr


def test_equal_rows_are_shown_once():
    with listing({"training_runs/r/checkpoints": [*GOOD, GOOD[1], GOOD[0]]}) as (tinkex, _):
        assert names(tinkex("checkpoint list --run-id r").stdout) == ["2", "1"]


def test_paths_of_another_scheme_are_taken_and_shown_as_they_came():
    rows = [row("1", tinker_path="mint://r/weights/1"), row("0", tinker_path="mint://r/weights/0")]
    with listing({"training_runs/r/checkpoints": rows}) as (tinkex, _):
        shown = tinkex("checkpoint info r:0 -f value -c tinker_path")
        assert shown.stdout == "mint://r/weights/0\n"
        done = tinkex("checkpoint info mint://r/weights/2", code=1)
        assert "mint://r/weights/0" in done.stderr


# Order ---------------------------------------------------------------------------------------

OLDEST_FIRST = list(range(12))
ORDERS = {
    "newest first": OLDEST_FIRST[::-1],
    "oldest first": OLDEST_FIRST,
    "by name": sorted(OLDEST_FIRST, key=str),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("words", ["run list", "checkpoint list"])
@pytest.mark.parametrize(("limit", "offset"), [(2, 0), (1, 0), (3, 4), (1, 11), (5, 11), (0, 0)])
def test_lists_are_newest_first_on_every_server(words, order, limit, offset):
    lists = {
        "training_runs": [a_run(f"r/{n}", hour=n) for n in ORDERS[order]],
        "checkpoints": [row(str(n), hour=n) for n in ORDERS[order]],
    }
    with listing(lists) as (tinkex, service):
        column = "training_run_id" if words == "run list" else "tinker_path"
        done = tinkex(f"{words} --limit {limit} --offset {offset} -f value -c {column}")
    newest_first = [str(n) for n in reversed(OLDEST_FIRST)]
    assert names(done.stdout) == newest_first[offset:][: limit or None]
    if order == "newest first":  # only what is needed is read
        assert len(service.seen) == (2 if offset == 11 else 1)


def test_a_list_that_is_not_newest_first_is_read_whole_before_it_is_cut():
    runs = [a_run(f"r/{n}", last_request_time=1763805600 + n) for n in range(250)]
    with listing({"training_runs": runs}) as (tinkex, service):
        assert names(tinkex("run list --limit 2 -f value -c training_run_id").stdout) == [
            "249",
            "248",
        ]
        done = tinkex("run list --limit 1 --offset 249 -f value -c training_run_id")
    assert names(done.stdout) == ["0"]
    assert len(service.seen) == (1 + 3) + (2 + 3)  # pages to see the order, and all pages


def test_a_row_that_moves_to_a_later_page_is_shown_once():
    runs = [a_run(f"r/{n}", last_request_time=1763805600 + n) for n in range(150)]
    moved = [*runs[:100], *runs[20:70]]  # an unordered set, asked twice
    with listing({"training_runs": moved}) as (tinkex, _):
        shown = names(tinkex("run list --limit 0 -f value -c training_run_id").stdout)
    assert shown == [str(n) for n in range(99, -1, -1)]


def test_the_list_of_a_run_is_newest_first_and_unknown_times_come_last():
    rows = [row("unknown", time=None), *(row(str(n), hour=n) for n in range(3))]
    with listing({"training_runs/r/checkpoints": rows}) as (tinkex, _):
        assert names(tinkex("checkpoint list --run-id r").stdout) == ["2", "1", "0", "unknown"]
        assert names(tinkex("checkpoint list --run-id r --limit 1").stdout) == ["2"]


def test_without_a_list_over_all_runs_the_newest_come_first_too():
    lists = {"training_runs": [a_run("a", hour=1), a_run("b", hour=9)]}
    for run, hours in (("a", (1, 7)), ("b", (3, 9))):
        rows = [row(str(hour), run=run, hour=hour) for hour in hours]
        lists[f"training_runs/{run}/checkpoints"] = rows
    with listing(lists) as (tinkex, _):
        assert names(tinkex("checkpoint list --limit 3").stdout) == ["9", "7", "3"]


# Missing routes, unknown things ------------------------------------------------------------------

CRASH = Reply("Internal Server Error", 500)
#: What servers say about a route that they do not have.
STOCK = {
    "FastAPI": Reply({"detail": "Not Found"}, 404),
    "open-rl": Reply({"error": "Not Found"}, 404),
    "405": Reply({"detail": "Method Not Allowed"}, 405),
    "text": Reply("404 page not found", 404),
    "empty": Reply(None, 404),
}
RUNS = {"training_runs": [a_run("r")]}


@pytest.mark.parametrize("stock", STOCK)
@pytest.mark.parametrize(
    "line", ["run info r", "run watch r", "run wait r --max-wait 9s", "run info zz"]
)
def test_a_server_that_does_not_describe_runs_is_said_not_to_offer_it(line, stock):
    missing = {f"training_runs/{run}": STOCK[stock] for run in ("r", "zz")}
    with listing(missing) as (tinkex, _):
        done = tinkex(line, code=1)
    assert "this server does not offer information about a single run" in done.stderr
    assert "no training run" not in done.stderr


@pytest.mark.parametrize("answer", [CRASH, *STOCK.values(), Reply({"detail": "No run zz"}, 404)])
def test_an_unknown_run_is_no_failure_of_the_server(answer):
    unknown = {"training_runs/zz": answer, "training_runs/zz/checkpoints": answer}
    with listing(RUNS | unknown) as (tinkex, _):
        for line in ("run info zz", "run wait zz", "checkpoint list --run-id zz"):
            if answer.status == 405:
                continue
            done = tinkex(line, code=1)
            assert "Please check your inputs: " in done.stderr
            assert "zz" in done.stderr.splitlines()[0]
        done = tinkex("checkpoint info tinker://zz/weights/1", code=1)
        assert "Consider retrying" not in done.stderr


def test_an_unknown_session_is_no_failure_of_the_server():
    crashing = {"sessions": {"sessions": ["s"]}, "sessions/zz": CRASH, "sessions/s": CRASH}
    with listing(crashing) as (tinkex, _):
        assert "no session with the id 'zz'" in tinkex("session show zz", code=1).stderr
        assert "Consider retrying" in tinkex("session show s", code=1).stderr


def test_a_failure_about_a_run_that_is_listed_stays_one_of_the_server():
    with listing(RUNS | {"training_runs/r": CRASH}) as (tinkex, _):
        assert "Consider retrying: Internal Server Error" in tinkex("run info r", code=1).stderr


def test_a_server_with_runs_but_no_lists_of_checkpoints_is_reported():
    with listing(RUNS) as (tinkex, _):
        for line in (
            "checkpoint list",
            "checkpoint list --run-id r",
            "checkpoint prune --keep-last 1",
        ):
            done = tinkex(line, code=1)
            assert done.stdout == ""
            assert (
                "this server does not offer a checkpoint list for a single run (HTTP 404)"
                in done.stderr
            )
        assert tinkex("run list").stdout == "r\tm\n"


def test_a_404_about_a_run_without_checkpoints_is_an_empty_list():
    lists = RUNS | {
        "training_runs/r": a_run("r"),
        "training_runs/r/checkpoints": Reply({"detail": "No checkpoints found for run r"}, 404),
    }
    with listing(lists) as (tinkex, _):
        for line in ("checkpoint list --run-id r", "checkpoint list"):
            assert tinkex(line).stdout == ""


@pytest.mark.parametrize(
    ("listed", "wanted", "code"),
    [
        (["weights"], "weights/zz", 1),
        (["sampler_weights"], "sampler_weights/zz", 1),
        (["weights"], "sampler_weights/zz", 0),  # a list may never show samplers
        ([], "weights/zz", 0),
    ],
)
def test_the_list_of_a_run_decides_where_it_shows_checkpoints_of_this_kind(listed, wanted, code):
    lists = {
        "training_runs/r/checkpoints": [row("1", kind) for kind in listed],
        "weights_info": {"base_model": "m", "is_lora": True, "lora_rank": 8},  # for any name
    }
    with listing(lists) as (tinkex, _):
        done = tinkex(f"checkpoint info tinker://r/{wanted}", code=code)
    if code:
        assert f"no checkpoint tinker://r/{wanted}" in done.stderr
    else:
        assert "Base model: m\n" in done.stdout


# Secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["short", "tml-a-key-of-at-least-16-characters"])
def test_an_owner_that_is_the_key_is_hidden(owner):
    runs = [a_run("r", model_owner=owner), a_run("s", model_owner="ada")]
    with listing({"training_runs": runs, "training_runs/r": runs[0]}) as (tinkex, _):
        for line in ("run list -f value -c model_owner", "run info r -f value -c model_owner"):
            shown = tinkex(line, TINKER_API_KEY=owner).stdout.splitlines()
            assert shown == ["…", "ada"][: len(shown)]


def test_the_query_of_a_signed_address_is_in_no_output(tmp_path):
    address = "http://nosuch.invalid/d?direct=1&download_token=SIGNED"
    archive = "training_runs/r/checkpoints/sampler_weights/1/archive"
    with listing({archive: Reply(None, 302, {"Location": address})}) as (tinkex, _):
        words = ["checkpoint", "download", "tinker://r/sampler_weights/1", "--debug"]
        done = invoke([*words, "--output", str(tmp_path / "d")], environ=tinkex.environment)
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert "nosuch.invalid" in done.stderr
    assert "SIGNED" not in done.stderr + done.stdout


# Models --------------------------------------------------------------------------------------


def test_models_are_listed_by_their_id_where_they_have_no_name():
    models = [{"model_id": "Qwen/Qwen3", "max_context_length": 8}, {"tokenizer_id": "x"}, "plain"]
    with listing({"get_server_capabilities": {"supported_models": models}}) as (tinkex, _):
        done = tinkex("model list")
    assert done.stdout == "Qwen/Qwen3\nplain\n"
    assert done.stderr == "Omitted models without a name: 1 of 3.\n"


# Names as people paste them ------------------------------------------------------------------


@pytest.mark.parametrize("form", [" {} ", "{}/", "TINKER{}", '"{}"', "`{}`"])
def test_pasted_paths_are_taken(form):
    path = "tinker://r/weights/2"
    pasted = form.format(path.removeprefix("tinker") if form.startswith("TINKER") else path)
    with listing({"training_runs/r/checkpoints": GOOD, "training_runs/r": a_run("r")}) as (
        tinkex,
        _,
    ):
        shown = tinkex("checkpoint info -f value -c tinker_path", pasted)
        assert shown.stdout == f"{path}\n"
        assert tinkex("run info", pasted).stdout.startswith("r (m)\n")
        assert tinkex("run info", " r ").stdout.startswith("r (m)\n")
        assert tinkex("checkpoint delete --dry-run", pasted).stdout == f"Would delete {path}\n"


@pytest.mark.parametrize("words", ["checkpoint info", "run info", "run --prompt x --model-path"])
def test_the_address_of_a_console_page_is_named_in_the_hint(words):
    page = "https://tinker-console.example/training-runs/3f%3Atrain%3A0"
    with listing({}) as (tinkex, service):
        done = tinkex(words, page, code=1)
    hint = "Hint: This is a console page URL. The run id is 3f:train:0."
    assert done.stderr.splitlines()[-1].startswith(hint)
    assert service.seen == []


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        ([row("2"), row("2", "sampler_weights")], "Did you mean tinker://r/sampler_weights/2?"),
        ([row("1", "sampler_weights")], "Checkpoints in this run: tinker://r/sampler_weights/1."),
        ([row("2")], "See 'tinkex checkpoint list'"),
    ],
)
def test_sampling_from_training_weights_suggests_the_sampler_of_this_name(rows, hint, tmp_path):
    (tmp_path / "rows").write_text('{"tokens": [1]}\n')
    answers = {
        "create_session": {"session_id": "s"},
        "create_sampling_session": Reply({"detail": "Unknown checkpoint"}, 404),
        "training_runs/r/checkpoints": rows,
    }
    with listing(answers) as (tinkex, _):
        for line in ("run --prompt x", f"run batch {tmp_path / 'rows'}"):
            done = tinkex(f"{line} --model-path tinker://r/weights/2", code=1)
            assert done.stderr.splitlines()[-1].startswith(f"Hint: {hint}")
