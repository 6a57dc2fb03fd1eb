"""Checkpoints: saved, listed, named, shared, pruned, copied, downloaded and awaited."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.functional.conftest import MODEL
from tinkex.testing import invoke

ROOT = Path(__file__).resolve().parents[2]


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


def found(client, path: str):
    run_id = path.removeprefix("tinker://").partition("/")[0]
    return next(c for c in client.checkpoints.list(0, run_id=run_id) if c.tinker_path == path)


def left(client, run: str) -> list[str]:
    return sorted(
        c.checkpoint_id.rpartition("/")[2] for c in client.checkpoints.list(0, run_id=run)
    )


# ---------------------------------------------------------------------- save


def test_save_writes_metadata_with_exactly_these_keys(served, tmp_path):
    output = tmp_path / "new" / "checkpoint.json"
    line = f"checkpoint --base-model {MODEL} --rank 8 --output {output}"
    assert served(line).stdout == f"Checkpoint saved to {output}\n"
    metadata = json.loads(output.read_text())
    assert list(metadata) == ["base_model", "model_id", "weights_path", "saved_at", "response"]
    assert metadata["base_model"] == MODEL
    path, run = metadata["weights_path"], metadata["model_id"]
    assert metadata["response"] == {"model_id": run, "path": path}
    assert re.fullmatch(rf"tinker://{re.escape(run)}/sampler_weights/[\w-]+", path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["saved_at"])
    done = served(f"{line} --name v1.2 --json")
    assert done.rows == json.loads(output.read_text())
    assert done.rows["weights_path"].endswith("/sampler_weights/v1.2")


def test_save_with_the_metadata_on_standard_output(served, tmp_path):
    for words in ([], ["--json"]):
        line = f"checkpoint --base-model {MODEL} --rank 1 --output -"
        done = served(line, *words, cwd=tmp_path)
        assert list(json.loads(done.stdout))[:2] == ["base_model", "model_id"]
        assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_base_model_is_refused_and_writes_nothing(served, tmp_path):
    done = served(f"checkpoint --base-model no/such --output {tmp_path / 'c'}", code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("Checkpoint failed. Please check your inputs: ")
    assert "no/such" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_save_from_what_was_saved_before(served, saved, tmp_path):
    target, output = tmp_path / "d", tmp_path / "next.json"
    served(f"checkpoint download {saved['weights_path']} --output {target}")
    for source in (tmp_path / "saved.json", target):
        done = served(f"checkpoint --model-path {source} --output {output}")
        assert "starting fresh" in done.stderr
        assert json.loads(output.read_text())["base_model"] == MODEL
    path = json.loads(output.read_text())["weights_path"]
    assert served(f"checkpoint info {path} -f json").rows["lora_rank"] == 4  # the adapter's


# ---------------------------------------------------------------------- list and info


def test_list(served, saved):
    path = saved["weights_path"]
    lines = served("checkpoint list --limit 0").stdout.splitlines()
    assert lines.count(f"{path.split('/', 3)[3]}\t{path}") == 1
    rows = {r["tinker_path"]: r for r in served("checkpoint list --limit 0 --json").rows}
    row = rows[path]
    assert (row["checkpoint_type"], row["public"]) == ("sampler", False)
    assert row["size_bytes"] > 0
    assert row["time"].endswith("Z")
    for form in ("table", "yaml", "csv", "json", "value", "plain"):
        assert path in served(f"checkpoint list --limit 0 -f {form}", COLUMNS="40").stdout


def test_list_pages(served, run):
    everything = served("checkpoint list --limit 0").stdout.splitlines()
    first = served("checkpoint list --limit 1")
    second = served("checkpoint list --limit 1 --offset 1")
    assert [first.stdout.strip(), second.stdout.strip()] == everything[:2]
    assert f"1 of {len(everything)} checkpoints shown" in first.stderr
    for noun, form in (("checkpoint", "table"), ("run", "plain"), ("session", "value")):
        done = served(f"{noun} list --offset 100000 -f {form}")
        assert done.stdout == ""
        assert done.stderr.startswith("Nothing to show: --offset 100000 skips all ")
        assert done.stderr.count("\n") == 1


def test_list_by_type_time_visibility_and_order(served, run, client):
    client.checkpoints.publish(f"tinker://{run}/sampler_weights/step-2")

    def listed(options: str) -> list[str]:
        done = served(f"checkpoint list --run-id {run[:13]} {options}")
        return [line.rpartition("/")[2] for line in done.stdout.splitlines()]

    assert listed("--public") == ["step-2"]
    assert "step-2" not in listed("--not-public")
    assert listed("--type weights") == listed("--type training") == ["final"]
    assert listed("--before 1h") == []
    assert len(listed("--after 1h")) == 7
    assert listed("--sort time") == [*(f"step-{n}" for n in range(6)), "final"]
    assert listed("--sort time:desc --limit 2") == ["final", "step-5"]
    assert listed("--sort time --limit 1 --offset 6") == ["final"]


@pytest.mark.parametrize("noun", ["checkpoint", "run"])
def test_access_scope(served, run, noun):
    for scope in ("owned", "accessible"):
        assert run in served(f"{noun} list --limit 0 --access-scope {scope}").stdout


def test_names_mean_the_checkpoint_that_they_say(served, run, tmp_path):
    for name in (f"{run}:step-5", f"{run[:13]}:step-5", f"{run}@latest:sampler", f"{run[:13]}~1"):
        done = served(f"checkpoint info {name} -f json")
        assert done.rows["tinker_path"] == f"tinker://{run}/sampler_weights/step-5", name
    done = served(f"checkpoint info {run[:13]}:step-5")
    assert f"{run[:13]}:step-5 is tinker://{run}/sampler_weights/step-5\n" in done.stderr
    sampled = served(f"run --model-path {run}@latest --prompt x --max-tokens 2 --json")
    assert sampled.rows["sequences"]
    served(f"checkpoint download {run}:step-1 --output {tmp_path / 'd'}")
    assert (tmp_path / "d" / "adapter_config.json").exists()
    served(f"checkpoint --model-path {run}@latest --output {tmp_path / 's.json'}")


def test_info(served, saved):
    path = saved["weights_path"]
    done = served(f"checkpoint info {path}")
    assert done.stdout.splitlines()[:3] == [f"Base model: {MODEL}", "LoRA: true", "LoRA rank: 4"]
    shown = served(f"checkpoint info {path} -f json").rows
    expected = {"base_model": MODEL, "lora_rank": 4, "is_lora": True, "tinker_path": path}
    assert shown | expected | {"run_id": saved["model_id"]} == shown
    done = served(f"checkpoint info {path.replace('/sampler_weights/', '/weights/')}", code=1)
    assert (done.stdout, path in done.stderr) == ("", True)  # names the sibling


# ---------------------------------------------------------------------- delete


def test_delete_tries_all_and_reports_each(served, run, client):
    one, two, missing = f"{run}:step-0", f"{run}:step-1", "tinker://none/weights/x"
    done = served(f"checkpoint delete --yes {missing} {one}", code=1)
    assert done.stdout == f"Deleted tinker://{run}/sampler_weights/step-0\n"
    assert f"Not deleted: {missing}" in done.stderr
    assert "1 of 2 checkpoints could not be deleted" in done.stderr
    done = served(f"checkpoint delete --yes {missing} {two} -f json", code=1)
    failed, deleted = done.rows
    assert (failed["tinker_path"], failed["deleted"]) == (missing, False)
    assert "HTTP 404" in failed["error"]
    assert (deleted["deleted"], deleted["error"]) == (True, None)
    assert json.loads(done.stderr)["error"]["category"] == "user"
    assert left(client, run) == ["final", *(f"step-{n}" for n in range(2, 6))]


def test_delete_by_filters_needs_yes_without_a_terminal(served, run, client):
    line = f"checkpoint delete --run-id {run} --type sampler"
    done = served(line, code=1)
    assert (done.stdout, "--yes" in done.stderr) == ("", True)
    done = served(f"checkpoint delete --run-id {run[:13]}* --dry-run")
    assert done.stdout.count("Would delete tinker://") == 7
    assert "Would delete 7 checkpoints (" in done.stderr
    done = served(f"checkpoint delete tinker://{run}/weights/nix --dry-run", code=1)
    assert "checkpoints not found" in done.stderr
    done = served(f"checkpoint delete tinker://{run}/weights/final --curl")
    assert done.stdout.startswith("curl --request DELETE ")
    assert served(f"checkpoint delete --run-id {run} --public -f json").rows == []
    assert len(left(client, run)) == 7
    done = served(f"{line} --yes")
    assert names(done) == [f"step-{n}" for n in range(6)]
    assert "6 checkpoints deleted." in done.stderr
    assert left(client, run) == ["final"]


def test_delete_asks_on_a_terminal_and_shows_the_size(served, run, client):
    def answered(answer: str):
        words = ["checkpoint", "delete", f"{run}:final"]
        environ = served.environment | {"NO_COLOR": "1"}
        return invoke(words, stdin=f"{answer}\n", terminal=True, environ=environ)

    done = answered("n")
    assert done.exit_code == 1
    assert "Delete 1 checkpoint (" in done.stderr
    assert done.stderr.endswith("Cancelled: nothing was changed.\n")
    assert "final" in left(client, run)
    assert answered("y").exit_code == 0
    assert "final" not in left(client, run)


def test_an_answer_in_a_pipe_is_never_read(served, run, client):
    paths = "".join(f"tinker://{run}/sampler_weights/step-{n}\n" for n in range(3))
    command = f'while read path; do "{served.path}" checkpoint delete "$path"; done'
    environ = {**os.environ, **served.environment}
    shell = subprocess.run(["sh", "-c", command], input=paths, text=True, env=environ, timeout=120)
    assert shell.returncode == 0
    assert left(client, run) == ["final", "step-3", "step-4", "step-5"]
    served(f"checkpoint delete {run}:step-3", stdin="n\n")
    assert left(client, run) == ["final", "step-4", "step-5"]
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as silent:  # an open pipe
        served.process(f"checkpoint delete {run}:step-4", stdin=silent.stdout)
        silent.kill()
    done = served(f"checkpoint delete --run-id {run}", stdin="y\n", code=1)
    assert "--yes" in done.stderr
    assert left(client, run) == ["final", "step-5"]


def test_help_and_the_page_on_moving_over_say_what_a_pipe_does(tinkex):
    help = tinkex("checkpoint delete --help").stdout
    assert "\nDelete checkpoints. Without a terminal, only filters require confirmation.\n" in help
    page = (ROOT / "doc" / "source" / "howto" / "move-over.rst").read_text()
    for text in (help, page.partition("list-table")[0]):
        assert "echo n | tinkex checkpoint delete PATH" in text


# ---------------------------------------------------------------------- publish, set-ttl


def test_publish_several_tries_all(served, run, client):
    missing = f"tinker://{run}/sampler_weights/nix"
    done = served(f"checkpoint publish {run}:step-1 {missing} {run}:step-2", code=1)
    assert names(done) == ["step-1", "step-2"]
    assert f"Not published: {missing}" in done.stderr
    assert "1 of 3 checkpoints could not be published" in done.stderr
    assert "Checkpoints in this run: " in done.stderr
    served(f"checkpoint publish {run}:step-1", code=1)  # it is public already
    done = served(f"checkpoint unpublish {run}:step-1 {run}:step-2 --json")
    assert [row["public"] for row in done.rows] == [False, False]
    assert not any(c.public for c in client.checkpoints.list(0, run_id=run))


def test_set_ttl_and_remove(served, run, client):
    path = f"tinker://{run}/weights/final"
    done = served(f"checkpoint set-ttl {path} --ttl 7d")
    assert done.stdout.startswith(f"{path} expires at 20")
    assert done.stdout.endswith("Z (in 7d)\n")
    checkpoint = found(client, path)
    assert (checkpoint.expires_at - checkpoint.time).total_seconds() > 7 * 86400 - 120
    (row,) = served(f"checkpoint set-ttl {path} --ttl 7200 -f json").rows
    assert row["ttl_seconds"] == 7200
    assert served(f"checkpoint set-ttl {path} --remove").stdout == f"{path} does not expire\n"
    assert found(client, path).expires_at is None


def test_set_ttl_of_all_that_the_filters_choose(served, run, client):
    def answered(answer: str, line: str):
        words = ["checkpoint", "set-ttl", "--run-id", run, *line.split()]
        return invoke(words, stdin=f"{answer}\n", terminal=True, environ=served.environment)

    def expiring() -> list[str]:
        return sorted(c.path.name for c in client.checkpoints.list(0, run_id=run) if c.expires_at)

    done = served(f"checkpoint set-ttl --run-id {run} --type sampler --ttl 7d", code=1)
    assert (done.stdout, "Add --yes" in done.stderr) == ("", True)
    done = answered("n", "--type training --ttl 7d")
    assert "Set 1 checkpoint (" in done.stderr
    assert "expire in 7d? [y/N]" in done.stderr
    assert (done.exit_code, expiring()) == (1, [])
    assert answered("y", "--type training --ttl 7d").exit_code == 0
    assert expiring() == ["final"]
    served(f"checkpoint set-ttl --run-id {run} --expires-before 8d --remove --yes")
    assert expiring() == []
    done = served(f"checkpoint set-ttl --run-id {run} --expires-before 8d --remove")
    assert done.stderr == "No checkpoints match the filters. Nothing to change.\n"
    assert done.stdout == ""


# ---------------------------------------------------------------------- prune


def test_prune_does_what_a_rehearsal_has_shown(served, run, client):
    client.checkpoints.publish(f"tinker://{run}/sampler_weights/step-0")
    line = f"checkpoint prune --run-id {run[:20]}* --keep-last 2"
    done = served(f"{line} --dry-run --rate 0.5")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(r[0], r[1].rpartition("/")[2], r[2]) for r in rows] == [
        ("keep", "step-5", "newest of its run and type"),
        ("keep", "step-4", "among the last 2"),
        *(("delete", f"step-{n}", "not among the last 2") for n in (3, 2, 1)),
        ("keep", "step-0", "published"),
        ("keep", "final", "newest of its run and type"),
    ]
    assert "To delete: 3 checkpoints (" in done.stderr
    assert "To keep: 4." in done.stderr
    assert "at $0.5 per gigabyte" in done.stderr
    done = served(line, code=1)
    assert (done.stdout, "--yes" in done.stderr) == ("", True)
    assert len(left(client, run)) == 7
    done = served(f"{line} --yes -f json")
    assert {(row["action"], row["error"]) for row in done.rows} == {("deleted", None)}
    assert left(client, run) == ["final", "step-0", "step-4", "step-5"]
    assert "Nothing to prune: every checkpoint is kept." in served(f"{line} --yes").stderr


# ---------------------------------------------------------------------- copy


def test_copy(served, run, client):
    done = served(f"checkpoint copy {run}:step-1 --ttl 1d -f json")
    copied = found(client, done.rows["tinker_path"])
    assert copied.run_id != run
    assert copied.checkpoint_id == "sampler_weights/step-1"
    assert copied.expires_at is not None
    client.checkpoints.delete(f"tinker://{run}/sampler_weights/step-1")
    assert client.checkpoints.info(copied.tinker_path).base_model == MODEL


def test_copy_takes_no_key_on_the_command_line(served, run, tmp_path):
    line = f"checkpoint copy tinker://{run}/weights/final"
    done = served(f"{line} --source-api-key tml-secret-of-another", code=1)
    assert "tml-secret" not in done.stderr
    assert "@FILE" in done.stderr
    (tmp_path / "key").write_text("tml-other\n")
    assert served(f"{line} --source-api-key @{tmp_path / 'key'}").stdout.startswith("Copied")
    assert served(line, TINKEX_SOURCE_API_KEY="tml-o").stdout.startswith("Copied to tinker://")
    assert "/no/such/file" in served(f"{line} --source-api-key @/no/such/file", code=1).stderr
    assert "does not support projects" in served(f"{line} --project-id p", code=1).stderr


# ---------------------------------------------------------------------- download


def test_download(served, saved, tmp_path):
    path, target = saved["weights_path"], tmp_path / "models" / "one"
    line = f"checkpoint download {path} --output {target}"
    assert served(line).stdout == f"Downloaded to {target}\n"
    config = json.loads((target / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (MODEL, 4)
    assert (target / "adapter_model.safetensors").stat().st_size > 1000
    assert os.listdir(target.parent) == ["one"]
    options = "--prompt Holmes --max-tokens 4 --seed 1 --json"
    by_directory = served(f"run --model-path {target} {options}").stdout
    assert by_directory == served(f"run --model-path {path} {options}").stdout
    # What is there stays, unless --force is given.
    for name in ("adapter_config.json", "other.txt"):
        (target / name).write_text("mine")
    done = served(line, code=1)
    assert (done.stdout, "--force" in done.stderr) == ("", True)
    assert (target / "adapter_config.json").read_text() == "mine"
    served(f"{line} --force")
    assert json.loads((target / "adapter_config.json").read_text())["r"] == 4
    assert (target / "other.txt").read_text() == "mine"
    served(f"checkpoint download tinker://none/weights/x --output {tmp_path / 'd'}", code=1)
    assert not (tmp_path / "d").exists()


# ---------------------------------------------------------------------- watch and wait


def test_wait_for_a_checkpoint_that_is_there(served, run):
    done = served(f"run wait {run} --until checkpoint:final --until idle:9d")
    assert done.stdout == f"tinker://{run}/weights/final\n"
    row = served(f"run wait {run} --until 'checkpoint:step-*' -f json").rows
    assert row["condition"] == "checkpoint:step-*"
    done = served(f"run wait {run} --until checkpoint:never --max-wait 1s", code=1)
    assert "Timed out while awaiting checkpoint:never" in done.stderr
    assert "--max-wait" in done.stderr


def test_watch_shows_changes_as_lines_and_ends_with_ctrl_c(served, run, client):
    process = served.start(f"run watch {run} --interval 1s --json")
    first = [json.loads(process.stdout.readline()) for _ in range(8)]
    assert sorted({line["event"] for line in first}) == ["checkpoint", "run"]
    client.checkpoints.delete(f"tinker://{run}/weights/final")
    change = json.loads(process.stdout.readline())
    assert (change["event"], change["subject"]) == ("removed", f"tinker://{run}/weights/final")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.endswith("Run watch interrupted.\n")


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("list --access-scope mine", "invalid choice"),
        ("delete", "use either checkpoint paths or filters"),
        ("delete tinker://a/weights/b --public", "use either checkpoint paths or filters"),
        ("delete tinker://a/weights/b tinker://x", "not a checkpoint path"),
        ("set-ttl tinker://a/weights/b", "--ttl or --remove is required"),
        ("set-ttl tinker://a/weights/b --ttl 7d --remove", "not allowed with"),
        ("set-ttl tinker://a/weights/b --ttl 59m", "at least 1 hour"),
        ("set-ttl tinker://a/weights/b --ttl 11y", "at most 10 years"),
        ("set-ttl tinker://a/weights/b --ttl soon", "not a duration"),
        ("set-ttl tinker://a/weights/b --ttl 0d", "the duration is zero or over 100 years"),
        ("download --type sampler", "Hint: Add --run-id"),
        ("prune --yes", "at least one retention rule is required"),
        ("prune --yes --include-newest", "at least one retention rule is required"),
        ("prune --yes --keep-last 0", "must be at least 1"),
        ("prune --yes --older-than 7", "not a duration"),
        ("prune --yes --keep-last 1 --type lora", "invalid choice"),
        ("prune --yes --keep-last 1 --rate -1", "must be at least 0"),
        ("prune --yes --keep-last 1 --run-id zzz", "zzz"),
    ],
)
def test_mistakes_change_nothing(served, line, message):
    done = served(f"checkpoint {line}", code=1)
    assert (done.stdout, message in done.stderr) == ("", True), done.stderr


@pytest.mark.parametrize("condition", ["nix", "checkpoint:", "idle", "idle:x", "idle:0s"])
def test_wait_for_what_is_no_condition(tinkex, condition):
    done = tinkex(f"run wait r --api-key k --until {condition}", code=1)
    assert re.search("Hint: (Use|Give|Specify) ", done.stderr)


@pytest.mark.parametrize("path", ["", "a/b", "@x", "tinker://a/b/c/d/e", "tinker://../weights/.."])
def test_malformed_paths(tinkex, path):
    for verb in ("info", "publish", "unpublish", "delete", "download", "set-ttl --remove", "copy"):
        done = tinkex(f"checkpoint {verb} --api-key k", path, code=1)
        assert done.stdout == ""
        first, second = done.stderr.splitlines()
        name = verb.split()[0]
        assert first.startswith(f"Checkpoint {name} failed. Please check your inputs: ")
        assert second.startswith("Hint: ")
