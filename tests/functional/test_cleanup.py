"""Cleaning up, sharing in bulk, names and waiting, through the installed program."""

from __future__ import annotations

import itertools
import json
import os
import pty
import signal
import threading

import pytest

from tests.functional.conftest import KEY, MODEL
from tests.serving import Reply, Request, serving
from tinkex.api import ServiceClient
from tinkex.settings import Settings

pytestmark = pytest.mark.usefixtures("service")


@pytest.fixture
def client(service):
    settings = Settings(base_url=service.url, api_key=KEY, allow_http=True, timeout=30)
    with ServiceClient(settings) as client:
        yield client


@pytest.fixture
def program(tinkex, service):
    tinkex.environment.update({"TINKER_BASE_URL": service.url, "TINKER_API_KEY": KEY})
    return tinkex


@pytest.fixture
def run(client) -> str:
    """Return the id of a run with step-0 … step-5 for sampling and a training checkpoint."""
    training = client.create_lora_training_client(MODEL, rank=1)
    for step in range(6):
        training.save_weights_for_sampler(f"step-{step}")
    training.save_state("final")
    return str(training.model_id)


def names(done) -> list[str]:
    return sorted(line.rpartition("/")[2] for line in done.stdout.split() if "tinker://" in line)


def left(client, run: str) -> list[str]:
    return sorted(
        c.checkpoint_id.rpartition("/")[2] for c in client.checkpoints.list(0, run_id=run)
    )


# ---------------------------------------------------------------------- names


def test_names_mean_the_checkpoint_that_they_say(program, run):
    for name in (f"{run}:step-5", f"{run[:13]}:step-5", f"{run}@latest:sampler", f"{run[:13]}~1"):
        done = program(f"checkpoint info {name} -f json")
        assert done.rows["tinker_path"] == f"tinker://{run}/sampler_weights/step-5", name
    done = program(f"checkpoint info {run[:13]}:step-5")
    assert f"{run[:13]}:step-5 is tinker://{run}/sampler_weights/step-5\n" in done.stderr


def test_runs_can_be_named_by_their_beginning(program, run):
    assert program(f"run info {run[:13]}").stdout.startswith(f"{run} ({MODEL})\n")
    listed = program(f"checkpoint list --run-id {run[:13]} --type training")
    assert listed.stdout.split() == ["weights/final", f"tinker://{run}/weights/final"]


def test_a_name_can_be_sampled_and_downloaded_and_continued(program, run, tmp_path):
    sampled = program(f"run --model-path {run}@latest --prompt x --max-tokens 2 --json")
    assert sampled.rows["sequences"]
    program(f"checkpoint download {run}:step-1 --output {tmp_path / 'd'}")
    assert (tmp_path / "d" / "adapter_config.json").exists()
    saved = tmp_path / "s.json"
    program(f"checkpoint --model-path {run}@latest --output {saved}")
    assert json.loads(saved.read_text())["base_model"] == MODEL


def test_a_file_that_is_missing_is_not_taken_for_a_name(program, tmp_path):
    for path in ("missing", "./missing", "adapter.json", str(tmp_path / "no")):
        done = program(f"run --model-path {path} --prompt x", code=1)
        assert "--model-path does not exist" in done.stderr


def test_ambiguous_names_change_nothing(program, run, client):
    done = program(f"checkpoint delete {run}", code=1)
    assert f"the run {run} has 7 checkpoints" in done.stderr
    assert len(left(client, run)) == 7


# ---------------------------------------------------------------------- lists


def test_list_by_type_time_visibility_and_order(program, run, client):
    client.checkpoints.publish(f"tinker://{run}/sampler_weights/step-2")

    def listed(*options: str) -> list[str]:
        done = program(f"checkpoint list --run-id {run}", *options)
        return [line.rpartition("/")[2] for line in done.stdout.splitlines()]

    assert listed("--public") == ["step-2"]
    assert "step-2" not in listed("--not-public")
    assert listed("--type", "weights") == listed("--type", "training") == ["final"]
    assert listed("--before", "1h") == []
    assert len(listed("--after", "1h")) == 7
    assert listed("--sort", "time") == [*(f"step-{n}" for n in range(6)), "final"]
    assert listed("--sort", "time:desc", "--limit", "2") == ["final", "step-5"]
    assert listed("--sort", "time", "--limit", "1", "--offset", "6") == ["final"]


def test_list_tells_how_many_fit(program, run):
    done = program(f"checkpoint list --run-id {run} --type sampler --limit 2")
    assert "2 of 6 checkpoints shown" in done.stderr


@pytest.mark.parametrize("noun", ["checkpoint", "run"])
def test_access_scope(program, run, noun):
    for scope in ("owned", "accessible"):
        assert run in program(f"{noun} list --limit 0 --access-scope {scope}").stdout
    done = program(f"{noun} list --access-scope mine", code=1)
    assert "invalid choice" in done.stderr


def test_list_of_runs_by_model_and_order(program, run):
    found = program("run list --limit 0 --model BAKER -f json").rows
    assert run in [row["training_run_id"] for row in found]
    assert program("run list --model no-such").stdout == ""
    first = program("run list --sort last_request_time:desc --limit 1")
    assert first.stdout.startswith(run)


# ---------------------------------------------------------------------- delete


def test_delete_by_filters_needs_yes_without_a_terminal(program, run, client):
    done = program(f"checkpoint delete --run-id {run} --type sampler", code=1)
    assert (done.stdout, "--yes" in done.stderr) == ("", True)
    assert len(left(client, run)) == 7
    done = program(f"checkpoint delete --run-id {run} --type sampler --yes")
    assert names(done) == [f"step-{n}" for n in range(6)]
    assert "6 checkpoints deleted." in done.stderr
    assert left(client, run) == ["final"]


def test_delete_of_nothing_that_fits_is_no_failure(program, run):
    done = program(f"checkpoint delete --run-id {run} --public -f json")
    assert done.rows == []


def test_delete_rehearsed(program, run, client):
    done = program("checkpoint delete --run-id", f"{run[:13]}*", "--dry-run")
    assert done.stdout.count("Would delete tinker://") == 7
    assert "Would delete 7 checkpoints, " in done.stderr
    done = program(f"checkpoint delete tinker://{run}/weights/nix --dry-run", code=1)
    assert "do not exist" in done.stderr
    assert len(left(client, run)) == 7


@pytest.mark.parametrize("words", [[], ["tinker://a/weights/b", "--public"]])
def test_delete_of_paths_or_filters_not_both_nor_neither(program, words):
    done = program("checkpoint delete", *words, code=1)
    assert "use either checkpoint paths or filters" in done.stderr


def test_delete_asks_on_a_terminal_and_tells_the_size(program, run, client):
    answered = on_terminal(program, ["checkpoint", "delete", f"{run}:final"], "n\n", 1)
    assert "Delete 1 checkpoint, " in answered
    assert answered.endswith("Cancelled: nothing was changed.\n")
    assert "final" in left(client, run)
    on_terminal(program, ["checkpoint", "delete", f"{run}:final"], "y\n", 0)
    assert "final" not in left(client, run)


def on_terminal(program, words: list[str], answer: str, code: int) -> str:
    """Run a command with a terminal for standard input; return what it wrote to stderr."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        done = program.process(*words, stdin=theirs, code=code)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.stderr


# ---------------------------------------------------------------------- publish, set-ttl


def test_publish_several_tries_all(program, run, client):
    missing = f"tinker://{run}/sampler_weights/nix"
    done = program(f"checkpoint publish {run}:step-1 {missing} {run}:step-2", code=1)
    assert names(done) == ["step-1", "step-2"]
    assert f"Not published: {missing}" in done.stderr
    assert "1 of 3 checkpoints could not be published" in done.stderr
    assert "In this run there are: " in done.stderr
    done = program(f"checkpoint unpublish {run}:step-1 {run}:step-2 --json")
    assert [row["public"] for row in done.rows] == [False, False]
    assert not any(c.public for c in client.checkpoints.list(0, run_id=run))


def test_set_ttl_and_remove(program, run, client):
    path = f"tinker://{run}/weights/final"
    done = program(f"checkpoint set-ttl {path} --ttl 7d")
    assert done.stdout.startswith(f"{path} expires 20")
    assert done.stdout.endswith("Z (in 7d)\n")
    expires = client.checkpoints.info(path).expires_at
    assert (expires - client.checkpoints.info(path).time).total_seconds() > 7 * 86400 - 120
    row = program(f"checkpoint set-ttl {path} --ttl 7200 -f json").rows[0]
    assert row["ttl_seconds"] == 7200
    assert program(f"checkpoint set-ttl {path} --remove").stdout == f"{path} does not expire\n"
    assert client.checkpoints.info(path).expires_at is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--ttl or --remove is required"),
        (["--ttl", "7d", "--remove"], "not allowed with"),
        (["--ttl", "59m"], "at least 1 hour"),
        (["--ttl", "3599"], "at least 1 hour"),
        (["--ttl", "11y"], "at most 10 years"),
        (["--ttl", "soon"], "not a duration"),
        (["--ttl", "-5"], "--ttl"),
    ],
)
def test_set_ttl_within_limits_only(program, options, said):
    done = program("checkpoint set-ttl tinker://a/weights/b", *options, code=1)
    assert (done.stdout, said in done.stderr) == ("", True), done.stderr


# ---------------------------------------------------------------------- prune


def test_prune_rehearsed_tells_why(program, run, client):
    client.checkpoints.publish(f"tinker://{run}/sampler_weights/step-0")
    done = program(f"checkpoint prune --run-id {run} --keep-last 2 --dry-run --rate 0.5")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(r[0], r[1].rpartition("/")[2], r[2]) for r in rows] == [
        ("keep", "step-5", "newest of its run and type"),
        ("keep", "step-4", "among the last 2"),
        ("delete", "step-3", "not among the last 2"),
        ("delete", "step-2", "not among the last 2"),
        ("delete", "step-1", "not among the last 2"),
        ("keep", "step-0", "published"),
        ("keep", "final", "newest of its run and type"),
    ]
    assert "To delete: 3 checkpoints, " in done.stderr
    assert "4 are kept." in done.stderr
    assert "at $0.5 a gigabyte" in done.stderr
    assert len(left(client, run)) == 7


def test_prune_does_what_it_said(program, run, client):
    words = ["checkpoint", "prune", "--run-id", run[:13], "--keep-last", "1", "--keep-every", "2"]
    refused = program(*words, code=1)
    assert (refused.stdout, "--yes" in refused.stderr) == ("", True)
    done = program(*words, "--yes", "-f", "json")
    assert {(row["action"], row["error"]) for row in done.rows} == {("deleted", None)}
    assert left(client, run) == ["final", "step-0", "step-2", "step-4", "step-5"]
    again = program(*words, "--yes")
    assert again.stdout == ""
    assert "Nothing to prune: all 5 checkpoints are kept." in again.stderr


def test_prune_of_a_pattern_leaves_other_runs_alone(program, run, client):
    other = client.create_lora_training_client(MODEL, rank=1)
    for name in "ab":
        other.save_weights_for_sampler(name)
    program("checkpoint prune --run-id", f"{run[:20]}*", "--keep-last", "1", "--yes")
    assert left(client, run) == ["final", "step-5"]
    assert left(client, str(other.model_id)) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no rule says which checkpoints to delete"),
        (["--include-newest"], "no rule says which checkpoints to delete"),
        (["--keep-last", "0"], "must be at least 1"),
        (["--older-than", "7"], "not a duration"),
        (["--keep-last", "1", "--type", "lora"], "invalid choice"),
        (["--keep-last", "1", "--rate", "-1"], "must be at least 0"),
        (["--keep-last", "1", "--run-id", "zzz"], "zzz"),
    ],
)
def test_prune_refuses(program, options, said):
    done = program("checkpoint prune", *options, "--yes", code=1)
    assert (done.stdout, said in done.stderr) == ("", True), done.stderr


# ---------------------------------------------------------------------- copy


def test_copy(program, run, client):
    done = program(f"checkpoint copy {run}:step-1 --ttl 1d -f json")
    copied = client.checkpoints.info(done.rows["tinker_path"])
    assert copied.run_id != run
    assert copied.checkpoint_id == "sampler_weights/step-1"
    assert copied.expires_at is not None
    original = client.checkpoints.info(f"tinker://{run}/sampler_weights/step-1")
    assert copied.size_bytes == original.size_bytes
    client.checkpoints.delete(original.tinker_path)
    assert client.checkpoints.info(copied.tinker_path).base_model == MODEL


def test_copy_takes_no_key_on_the_command_line(program, run, tmp_path):
    words = ["checkpoint", "copy", f"tinker://{run}/weights/final"]
    done = program(*words, "--source-api-key", "tml-secret-of-another", code=1)
    assert "tml-secret" not in done.stderr
    assert "@FILE" in done.stderr
    (tmp_path / "key").write_text("tml-other\n")
    assert program(*words, "--source-api-key", f"@{tmp_path / 'key'}").stdout.startswith("Copied")
    assert program(*words, TINKEX_SOURCE_API_KEY="tml-o").stdout.startswith("Copied to tinker://")
    done = program(*words, "--source-api-key", "@/no/such/file", code=1)
    assert "/no/such/file" in done.stderr
    done = program(*words, "--project-id", "p", code=1)
    assert "no projects" in done.stderr


# ---------------------------------------------------------------------- watch and wait


def test_wait_for_a_checkpoint_that_is_there(program, run):
    done = program(f"run wait {run} --until checkpoint:final --until idle:9d")
    assert done.stdout == f"tinker://{run}/weights/final\n"
    row = program(f"run wait {run} --until 'checkpoint:step-*' -f json").rows
    assert row["condition"] == "checkpoint:step-*"


def test_wait_for_a_checkpoint_that_is_saved_meanwhile(program, client):
    training = client.create_lora_training_client(MODEL, rank=1)

    done_waiting = threading.Event()

    def save() -> None:
        # Whatever is there when the waiting begins is not new.
        for number in range(40):
            if done_waiting.wait(1.5):
                return
            training.save_weights_for_sampler(f"late-{number}")

    thread = threading.Thread(target=save)
    thread.start()
    done = program(
        f"run wait {training.model_id} --until checkpoint --interval 1s --max-wait 50s",
    )  # fmt: skip
    done_waiting.set()
    thread.join()
    assert done.stdout.startswith(f"tinker://{training.model_id}/sampler_weights/late-")
    assert f"  saved  {done.stdout}" in done.stderr


def test_wait_gives_up(program, run):
    done = program(
        f"run wait {run} --until checkpoint:never --max-wait 1s --interval 1",
        code=1,
    )  # fmt: skip
    assert "Timed out while awaiting checkpoint:never" in done.stderr
    assert "--max-wait" in done.stderr


@pytest.mark.parametrize("condition", ["nix", "checkpoint:", "idle", "idle:", "idle:x", "idle:0s"])
def test_wait_for_what_is_no_condition(program, condition):
    done = program(f"run wait r --until {condition}", code=1)
    assert (done.stdout, "Hint: Give" in done.stderr) == ("", True), done.stderr


def test_watch_shows_changes_as_lines_and_ends_with_ctrl_c(program, run, client):
    process = program.start(f"run watch {run} --interval 1s --json")
    assert process.stdout is not None
    first = [json.loads(process.stdout.readline()) for _ in range(8)]
    assert sorted({line["event"] for line in first}) == ["checkpoint", "run"]
    client.checkpoints.delete(f"tinker://{run}/weights/final")
    change = json.loads(process.stdout.readline())
    assert (change["event"], change["subject"]) == ("removed", f"tinker://{run}/weights/final")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.endswith("Run watch interrupted.\n")


def test_watch_survives_a_lost_connection_and_tells_of_corruption(program, server_that_breaks):
    done = program(
        f"run watch r --interval 1s --base-url {server_that_breaks} --timeout 5s",
        code=1,
    )  # fmt: skip
    assert "\tcorrupted\tr\n" in done.stdout
    assert "No connection: " in done.stderr
    assert "retrying in 2 s" in done.stderr
    assert "the training run r is corrupted" in done.stderr


@pytest.fixture
def server_that_breaks():
    """A service that answers, fails, and then has a corrupted run."""
    polls = itertools.count(1)

    def answer(request: Request) -> Reply:
        if request.path.endswith("/checkpoints"):
            return Reply({"checkpoints": []})
        poll = next(polls)
        run = {"training_run_id": "r", "base_model": "m", "corrupted": poll > 3}
        return Reply(run, 500 if poll == 3 else 200, {"X-Should-Retry": "false"})

    with serving(answer) as url:
        yield url
