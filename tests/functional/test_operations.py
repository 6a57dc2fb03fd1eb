"""Models, sessions, billing, raw requests and the doctor, through the embedded service."""

from __future__ import annotations

import csv
import io
import json
import urllib.request

import pytest

from tinkex.testing import invoke, local_service

MODEL = "tinkex/baker-street-2M"


def test_models(served):
    assert served("model list").stdout == f"{MODEL}\n"
    (row,) = served("model list BAKER -f json").rows
    assert row == {
        "model_name": MODEL,
        "max_context_length": 1024,
        "trainable": False,
        "sampleable": True,
    }
    done = served("model list gpt-9", code=1)
    assert "no model name contains 'gpt-9'" in done.stderr
    assert done.stdout == ""


def test_sessions_of_a_checkpoint(served, saved):
    session = saved["model_id"].partition(":")[0]
    ids = served("session list --limit 0").stdout.split()
    assert session in ids
    rows = served("session list --long --limit 0 -f json").rows
    row = next(row for row in rows if row["session_id"] == session)
    assert row["training_run_ids"] == [saved["model_id"]]
    shown = served(f"session show {session}")
    assert shown.stdout.splitlines()[:2] == [session, f"Run: {saved['model_id']}"]
    (found,) = served(f"session search --session-id {session} -f json").rows
    assert found["status"] == "success"
    assert found["checkpoints_count"] == 1
    assert found["checkpoint_storage_bytes"] > 1000
    assert served(f"session search --session-id {session} --status active").stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("session", "show", "no-such"), "Unknown session 'no-such'"),
        (("session", "show", ".."), "not an id"),
        (("session", "export-trace", "no-such"), "Unknown session 'no-such'"),
        (("session", "search", "--owner", "all", "--owner", "u", "--status", "nix"), "--status"),
        (("session", "search", "--metadata", "novalue"), "key=value"),
        (("billing", "usage", "--since", "someday"), "--since"),
        (
            ("billing", "usage", "--from", "2026-01-02", "--to", "2026-01-01"),
            "must be after its start",
        ),
        (("billing", "usage", "--budget", "-1"), "--budget"),
        (("billing", "usage", "--csv", "-", "--sessions-csv", "-"), "cannot both"),
        (("billing", "usage", "--csv", "/no/such\0name"), "NUL"),
        (("api", "GET"), "path is missing"),
        (("api", "GET", "//elsewhere/x"), "not a path"),
        (("api", "GET", "https://elsewhere.test/x"), "does not begin with the base URL"),
        (("api", "GET", "sessions", "--field", "novalue"), "invalid field"),
        (("api", "POST", "x", "--input", "/no/such/file"), "cannot read"),
        (("api", "GET", "no_such_thing"), "Not Found (HTTP 404"),
        (("api", "POST", "create_session", "-F", "tags=[]"), "HTTP 422"),
    ],
)
def test_mistakes(words, message, tmp_path):
    with local_service(tmp_path):
        done = invoke(list(words))
    assert message in done.stderr
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 2


def rows_of(name: str) -> list[dict[str, str]]:
    with open(name) as file:
        return list(csv.DictReader(file))


def test_usage_by_every_dimension(served, saved, tmp_path):
    served(f"run --base-model {MODEL} --prompt Hello --max-tokens 4")
    run = saved["model_id"]
    rows = served("billing usage --by run -f json").rows
    assert next(row for row in rows if row["training_run_id"] == run)["checkpoints"] == 1
    (row,) = served("billing usage --since 20d --by model -f json").rows
    assert row["base_model"] == MODEL
    assert row["prefill_tokens"] > 0 < row["sampled_tokens"]
    for by in ("day", "session", "user", "project", "type"):
        found = served(f"billing usage --by {by} -f json").rows
        assert sum(each["sampled_tokens"] for each in found) == row["sampled_tokens"], by
    done = served("billing usage")
    assert "Total: $0.00 from " in done.stderr
    events = list(csv.DictReader(io.StringIO(served("billing usage --csv -").stdout)))
    assert {event["type"] for event in events} >= {"sampling_prefill", "checkpoint"}
    files = [str(tmp_path / "u.csv"), str(tmp_path / "s.csv")]
    served(f"billing usage --csv {files[0]} --sessions-csv {files[1]}")
    assert rows_of(files[0]) == events
    sessions = {row["session_id"] for row in rows_of(files[1])}
    assert sessions == {event["session_id"] for event in events}


def test_raw_requests(served, saved):
    done = served("api GET training_runs --field limit=1")
    assert len(json.loads(done.stdout)["training_runs"]) == 1
    assert done.stdout.endswith("\n")
    assert json.loads(served("api /api/v1/healthz").stdout) == {"status": "ok"}
    whole = json.loads(served("api 'training_runs?limit=1' --paginate").stdout)
    assert "cursor" not in whole
    assert saved["model_id"] in {run["training_run_id"] for run in whole["training_runs"]}
    found = served("api POST sessions/search -F limit=1 --paginate").stdout
    assert json.loads(found)["sessions"]
    path = saved["weights_path"]
    body = json.dumps({"tinker_path": path})
    for words in (["--input", "-"], ["--raw-field", f"tinker_path={path}"]):
        info = served("api POST weights_info", *words, stdin=body).stdout
        assert json.loads(info)["base_model"] == MODEL
    head = served("api --include GET healthz").stdout.splitlines()
    assert head[0] == "HTTP 200"
    run, kind, name = path.removeprefix("tinker://").split("/")
    where = f"training_runs/{run}/checkpoints/{kind}/{name}"
    assert served(f"api DELETE {where}").stdout == ""
    assert "Unknown checkpoint" in served(f"api DELETE {where}", code=1).stderr


def test_doctor_on_a_service_that_is_well(served):
    done = served("doctor -f json")
    states = {row["check"]: row["status"] for row in done.rows}
    assert states["service"] == states["access"] == "ok"
    assert states["POST sessions/search"] == "ok"
    assert states["GET audit"] == "absent"
    assert "fail" not in states.values()


#: How a trace of Perfetto begins: a packet with a snapshot of clocks.
PACKET = b"\x0a"


def test_a_trace_becomes_a_file(served, saved, tmp_path):
    session = saved["model_id"].partition(":")[0]
    done = served(f"session export-trace {session}", cwd=tmp_path)
    file = tmp_path / f"{session}.pftrace"
    content = file.read_bytes()
    assert content[:1] == PACKET
    assert saved["weights_path"].encode() in content
    assert done.stdout == f"Saved {len(content)} B to {session}.pftrace\n"
    again = served(f"session export-trace {session}", cwd=tmp_path, code=1)
    assert f"{session}.pftrace already exists" in again.stderr
    assert "--force" in again.stderr
    named = tmp_path / "new" / "sweep.pftrace"
    (row,) = [served(f"session export-trace {session} --output {named} --json").rows]
    assert row == {
        "session_id": session,
        "url": None,
        "destination": str(named),
        "file_size_bytes": len(content),
    }
    assert named.read_bytes() == content


def test_only_the_address(served, saved, tmp_path):
    session = saved["model_id"].partition(":")[0]
    done = served(f"session export-trace {session} --url-only", cwd=tmp_path)
    (url,) = done.stdout.splitlines()
    assert list(tmp_path.glob("*.pftrace")) == []
    with urllib.request.urlopen(url) as response:
        assert response.read(1) == PACKET
    both = served(f"session export-trace {session} --url-only --output x", code=1)
    assert "Omit --output" in both.stderr
