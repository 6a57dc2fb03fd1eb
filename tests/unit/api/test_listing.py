"""Lists of runs and checkpoints on servers of every kind."""

from __future__ import annotations

import io
import threading
import time
from datetime import UTC, datetime

import pytest

from tinkex.api.http.pagination import CONCURRENCY, Page, Walk
from tinkex.cli.app import TinkexApp
from tinkex.exceptions import InvalidResponse, NotFound, UsageError

TIME = "2026-11-22T12:00:00Z"


def checkpoint(run: str, kind: str, name: str, *, bare: bool = False, **more):
    return {
        "checkpoint_id": name if bare else f"{kind}/{name}",
        "checkpoint_type": "training" if kind == "weights" else "sampler",
        "tinker_path": f"tinker://{run}/{kind}/{name}",
        "time": TIME,
        **more,
    }


def run(name: str, **more):
    return {"training_run_id": name, "base_model": "m", "last_request_time": TIME, **more}


def paged(server, path: str, name: str, records: list, *, total: bool = True, cap: int = 10**6):
    """Serve *records* in pages as the hosted service does."""

    def serve(seen):
        limit, offset = int(seen.query["limit"]), int(seen.query["offset"])
        found = records[offset : offset + min(limit, cap)]
        cursor = {"offset": offset, "limit": limit, "total_count": len(records)}
        return server.reply({name: found, "cursor": cursor} if total else {name: found})

    server.on("GET", path, serve)


def collected(fetch, limit, offset, page_size):
    return Walk(fetch, limit, offset, page_size).page()


def paths(page: Page) -> list[str]:
    return [c.tinker_path.rpartition("/")[2] for c in page]


@pytest.mark.parametrize("total", [True, False])
def test_one_page_is_one_request(total, server, client):
    many = [checkpoint("r", "weights", str(n)) for n in range(50)]
    paged(server, "checkpoints", "checkpoints", many, total=total)
    page = client.checkpoints.list(limit=10, offset=5)
    assert paths(page) == [str(n) for n in range(5, 15)]
    assert (page.total, page.offset) == (50 if total else None, 5)
    assert len(server.seen) == 1


def test_a_total_may_be_any_number(server, client):
    def serve(seen):
        start, size = int(seen.query["offset"]), int(seen.query["limit"])
        found = [run(f"r{n}") for n in range(start, start + size) if n < 300]
        return server.reply({"training_runs": found, "cursor": {"total_count": 10**18}})

    server.on("GET", "training_runs", serve)
    page = client.runs.list(None)
    assert (len(page), page.total) == (300, 300)
    assert len(server.seen) < 20


@pytest.mark.parametrize("limit", [None, 0, 2500])
@pytest.mark.parametrize("total", [True, False])
def test_all_pages_are_fetched(limit, total, server, client):
    many = [checkpoint("r", "weights", str(n)) for n in range(2300)]
    paged(server, "checkpoints", "checkpoints", many, total=total)
    page = client.checkpoints.list(limit=limit)
    assert (len(page), page.total) == (2300, 2300)
    # The second and the third are asked for side by side once the total is known.
    assert sorted(s.query["offset"] for s in server.seen) == ["0", "1000", "2000"]


def test_beyond_the_end_there_is_nothing(server, client):
    paged(server, "checkpoints", "checkpoints", [checkpoint("r", "weights", "a")])
    page = client.checkpoints.list(offset=10)
    assert (list(page), page.total) == ([], None)


def test_a_total_of_zero_on_an_empty_page_is_not_believed():
    page = collected(lambda size, start: ([], 0), 20, 40, 100)
    assert (list(page), page.total) == ([], None)


def test_an_empty_account_has_a_total_of_zero():
    assert collected(lambda size, start: ([], 0), 20, 0, 100).total == 0


def test_a_server_that_ignores_the_offset_does_not_keep_us_forever():
    page = collected(lambda size, start: (list(range(size)), None), None, 0, 10)
    assert list(page) == list(range(10))


def test_more_than_asked_for_is_cut():
    assert collected(lambda size, start: (list(range(50)), None), 7, 0, 100) == list(range(7))


@pytest.mark.parametrize(("limit", "offset"), [(-1, 0), (5, -1)])
def test_numbers_below_zero_are_refused(limit, offset, client):
    with pytest.raises(UsageError):
        client.checkpoints.list(limit=limit, offset=offset)
    with pytest.raises(UsageError):
        client.runs.list(limit=limit, offset=offset)


def test_without_an_account_wide_list_runs_are_asked(server, client):
    runs = [run(f"model_{n}") for n in range(20)]
    paged(server, "training_runs", "training_runs", runs)
    for n in range(20):
        records = [checkpoint(f"model_{n}", "sampler_weights", f"{n}-{k}") for k in range(2)]
        for record in records:
            record["checkpoint_id"] = record["checkpoint_id"].rpartition("/")[2]
            record["time"] = "2026-11-22T13:55:34.109929"
        server.on("GET", f"training_runs/model_{n}/checkpoints", {"checkpoints": records})
    page = client.checkpoints.list(limit=5, offset=2)
    assert paths(page) == ["1-0", "1-1", "2-0", "2-1", "3-0"]
    assert page.total is None
    assert "no list over all runs" in page.note
    assert page[0].time == datetime(2026, 11, 22, 13, 55, 34, 109929, UTC)
    asked = [s for s in server.seen if s.path.endswith("/checkpoints")]
    assert 4 <= len(asked) <= 4 + 8
    whole = client.checkpoints.list(limit=None)
    assert (len(whole), whole.total) == (40, 40)


def test_runs_that_vanish_meanwhile_are_left_out(server, client):
    paged(server, "training_runs", "training_runs", [run("a"), run("b")])
    server.on(
        "GET", "training_runs/b/checkpoints", {"checkpoints": [checkpoint("b", "weights", "x")]}
    )
    assert paths(client.checkpoints.list()) == ["x"]


@pytest.mark.parametrize("listed", [[], [checkpoint("a", "weights", "t", bare=True)]])
def test_an_account_wide_list_without_samplers_is_completed(listed, server, client):
    sampler = checkpoint("a", "sampler_weights", "s", bare=True)
    paged(server, "checkpoints", "checkpoints", listed)
    paged(server, "training_runs", "training_runs", [run("a", last_sampler_checkpoint=sampler)])
    server.on("GET", "training_runs/a/checkpoints", {"checkpoints": [*listed, sampler]})
    page = client.checkpoints.list()
    assert paths(page)[-1] == "s"
    assert "no sampler checkpoints" in page.note
    beyond = client.checkpoints.list(offset=len(page))
    assert (len(beyond), beyond.total) == (0, len(page))


def test_an_account_wide_list_in_full_form_is_taken_as_it_is(server, client):
    paged(server, "checkpoints", "checkpoints", [checkpoint("a", "weights", "t")])
    assert client.checkpoints.list().note is None
    assert len(server.seen) == 1


def test_one_run_is_cut_here(server, client):
    records = [checkpoint("r", "weights", str(n)) for n in range(9)]
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": records})
    page = client.checkpoints.list(limit=3, offset=4, run_id="r")
    assert (paths(page), page.total) == (["4", "5", "6"], 9)


@pytest.mark.parametrize("body", [{"detail": "Not Found"}, {"detail": "Training run not found"}])
def test_an_unknown_run_is_not_found(body, server, client):
    server.on("GET", "training_runs/r/checkpoints", server.reply(body, 404))
    with pytest.raises(NotFound):
        client.checkpoints.list(run_id="r")


def test_find_names_the_sibling(server, client):
    records = [checkpoint("r", "sampler_weights", "x")]
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": records})
    assert client.checkpoints.find("tinker://r/x").tinker_path == "tinker://r/sampler_weights/x"
    with pytest.raises(NotFound) as caught:
        client.checkpoints.find("tinker://r/weights/x")
    assert caught.value.hint == "Did you mean tinker://r/sampler_weights/x?"


@pytest.mark.parametrize(
    "weights_info",
    [
        {"status": 400, "body": {"detail": "not a training checkpoint"}},
        {"status": 500, "body": "Internal Server Error"},
        {"status": 404, "body": {"detail": "Not Found"}},
        {"body": "<html>"},
    ],
)
def test_info_falls_back_to_the_run(weights_info, server, client):
    server.on(
        "GET",
        "training_runs/r/checkpoints",
        {"checkpoints": [checkpoint("r", "sampler_weights", "x")]},
    )
    server.on("POST", "weights_info", server.reply(**weights_info))
    server.on("GET", "training_runs/r", run("r", is_lora=True, lora_rank=8))
    info = client.checkpoints.info("tinker://r/sampler_weights/x")
    assert (info.base_model, info.is_lora, info.lora_rank, info.train_mlp) == ("m", True, 8, None)
    assert len(server.requests("weights_info")) == 1


@pytest.mark.parametrize("status", [403, 404])
def test_info_knows_what_only_weights_info_knows(status, server, client):
    server.on("GET", "training_runs/r/checkpoints", server.reply({"detail": "not yours"}, status))
    server.on("POST", "weights_info", {"base_model": "m", "is_lora": True, "lora_rank": 4})
    info = client.checkpoints.info("tinker://r/weights/x")
    assert (info.base_model, info.checkpoint_type, info.time, info.public) == (
        "m",
        "training",
        None,
        None,
    )


def test_info_of_nothing_is_not_found(server, client):
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": []})
    server.on("POST", "weights_info", server.reply({"detail": "unknown"}, 404))
    server.on("GET", "training_runs/r", run("r"))
    with pytest.raises(NotFound, match="no checkpoint tinker://r/weights/x"):
        client.checkpoints.info("tinker://r/weights/x")


@pytest.mark.parametrize(
    "record",
    [
        3,
        None,
        {},
        {**checkpoint("r", "weights", "x"), "tinker_path": 5},
        {**checkpoint("r", "weights", "x"), "tinker_path": "s3://bucket"},
        {**checkpoint("r", "weights", "x"), "time": None},
        {**checkpoint("r", "weights", "x"), "time": "yesterday"},
        {**checkpoint("r", "weights", "x"), "size_bytes": "12"},
        {**checkpoint("r", "weights", "x"), "public": "false"},
        {**checkpoint("r", "weights", "x"), "user_metadata": []},
    ],
)
def test_wrong_shapes_are_invalid_answers(record, server, client):
    server.on("GET", "checkpoints", {"checkpoints": [record]})
    with pytest.raises(InvalidResponse):
        client.checkpoints.list()


def test_optional_members_may_be_missing_or_null(server, client):
    least = {"tinker_path": "tinker://r/x", "time": "2026-11-22T12:00:00+02:00"}
    null = {
        **checkpoint("r", "weights", "y"),
        "size_bytes": None,
        "public": None,
        "expires_at": None,
    }
    server.on("GET", "checkpoints", {"checkpoints": [least, null], "cursor": None})
    first, second = client.checkpoints.list()
    assert (first.checkpoint_type, first.checkpoint_id) == ("sampler", "sampler_weights/x")
    assert first.time == datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    assert (second.size_bytes, second.public, second.expires_at) == (None, False, None)


def test_models_of_every_dialect(server, client):
    models = [
        {"model_name": "a"},
        {"model_name": "b", "max_context_length": 8, "capabilities": ["training", "sampling"]},
        {"model_name": "c", "trainable": False, "sampleable": True},
        {"model_name": None},
        "d",
    ]
    server.on("GET", "get_server_capabilities", {"supported_models": models})
    listed = [(m.model_name, m.trainable, m.sampleable) for m in client.models.list()]
    assert listed == [("a", None, None), ("b", True, True), ("c", False, True), ("d", None, None)]


def test_run_list_pages_and_get(server, client):
    paged(server, "training_runs", "training_runs", [run(str(n)) for n in range(250)])
    assert [r.training_run_id for r in client.runs.list(5, 100)] == [
        "100",
        "101",
        "102",
        "103",
        "104",
    ]
    assert len(client.runs.list(None)) == 250
    with pytest.raises(NotFound, match="no training run is called 'zz'"):
        client.runs.get("zz")


def test_runs_come_page_by_page(server, client):
    paged(server, "training_runs", "training_runs", [run(str(n)) for n in range(1200)])
    walk = client.runs.walk(None)
    assert len(server.seen) == 0
    first = next(iter(walk))
    assert (first.training_run_id, walk.total) == ("0", 1200)
    assert len(server.seen) == 1


@pytest.mark.parametrize("noun", ["run", "checkpoint"])
@pytest.mark.parametrize("form", ["json", "csv", "value", "plain", "yaml"])
def test_a_list_that_breaks_off_shows_nothing(noun, form, server):
    """Rows are written as they come, yet nobody sees half of them."""
    if noun == "run":
        path, name, records = "training_runs", "training_runs", [run(str(n)) for n in range(100)]
    else:
        path = name = "checkpoints"
        records = [checkpoint("r", "sampler_weights", str(n)) for n in range(1000)]
    whole = {name: records, "cursor": {"total_count": 5000}}
    server.on("GET", path, whole, server.reply({"detail": "Gone."}, 400))
    out, err = io.StringIO(), io.StringIO()
    app = TinkexApp(stdin=io.StringIO(), stdout=out, stderr=err)
    app.uses_cache = False
    words = ["--base-url", server.url, "--api-key", "tml-x", noun, "list", "--limit", "0"]

    assert app.run([*words, "-f", form]) == 1
    assert out.getvalue() == ""
    assert "Gone." in err.getvalue()


@pytest.mark.parametrize(
    ("limit", "offset", "expected"),
    [
        (None, 0, range(1000)),
        (None, 995, range(995, 1000)),
        (95, 0, range(95)),
        (100, 7, range(7, 107)),
        (5000, 0, range(1000)),
        (1, 999, range(999, 1000)),
    ],
)
@pytest.mark.parametrize("total", [True, False])
def test_pages_side_by_side_come_in_order(limit, offset, expected, total):
    def fetch(size, start):
        time.sleep(0.003 if start % 20 else 0)
        return list(range(1000))[start : start + size], 1000 if total else None

    assert list(collected(fetch, limit, offset, 10)) == list(expected)


def test_pages_are_fetched_side_by_side_but_not_all_at_once():
    under_way, most = [], []
    lock, together = threading.Lock(), threading.Barrier(CONCURRENCY)
    total = 10 * (4 * CONCURRENCY + 1)

    def fetch(size, start):
        with lock:
            under_way.append(start)
            most.append(len(under_way))
        if start:
            together.wait(60)  # passes only where so many come together
        with lock:
            under_way.remove(start)
        return list(range(start, min(start + size, total))), total

    assert len(collected(fetch, None, 0, 10)) == total
    assert max(most) == CONCURRENCY


@pytest.mark.parametrize("total", [True, False])
def test_what_moves_to_the_next_page_meanwhile_is_told_once(total):
    # Before each page but the first, a new item is put in front of all others.
    def fetch(size, start):
        moved = [-1] * (start // 10)
        items = [*moved, *range(100)][start : start + size]
        return items, 100 if total else None

    assert list(collected(fetch, None, 0, 10)) == list(range(91 if total else 100))


def test_a_list_that_is_emptied_meanwhile_ends():
    def fetch(size, start):
        items = list(range(100)) if start < 30 else list(range(3))
        return items[start : start + size], len(items)

    assert set(range(30)) <= set(collected(fetch, None, 0, 10)) <= set(range(100))


def test_a_list_that_grows_is_followed_to_its_end():
    seen = []

    def fetch(size, start):
        seen.append(start)
        length = 25 if len(seen) < 3 else 40
        return list(range(length))[start : start + size], length

    assert list(collected(fetch, None, 0, 10)) == list(range(40 if len(seen) > 2 else 25))


@pytest.mark.parametrize("where", [0, 10, 50, 90])
def test_a_failure_is_raised_after_what_came_before_it(where):
    def fetch(size, start):
        if start == where:
            raise InvalidResponse("broken")
        return list(range(start, start + size)), 100

    walk = Walk(fetch, None, 0, 10)
    found = []
    with pytest.raises(InvalidResponse):
        found += walk
    with pytest.raises(InvalidResponse):
        collected(fetch, None, 0, 10)


def test_a_walk_tells_how_far_it_is():
    walk = Walk(lambda size, start: (list(range(start, start + size)), 30), None, 0, 10)
    assert (len(walk), walk.first(), len(walk), walk.total) == (0, list(range(10)), 10, 30)
    assert list(walk) == list(range(30))
    assert len(walk) == 30


@pytest.mark.parametrize("limit", [None, 20, 17])
def test_a_server_that_gives_fewer_at_a_time_is_asked_more_often(limit):
    def fetch(size, start):
        return list(range(25))[start : start + min(size, 4)], 25

    found = list(Walk(fetch, limit, 0, 10))
    assert found == list(range(25))[:limit]
