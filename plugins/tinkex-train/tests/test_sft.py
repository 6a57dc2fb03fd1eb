"""``train sft`` from end to end."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tinkex.exceptions import LocalError, Unreachable
from tinkex.testing import check_distribution, invoke
from tinkex_train.log import RunDirectory

LOSSES = "train_mean_nll"


def rows(name: str, output: str = "out") -> list[dict[str, Any]]:
    """Return the lines of a file of a run."""
    return [json.loads(line) for line in Path(output, name).read_text().splitlines()]


def refused(done: Any, clause: str, hint: str = "") -> None:
    """Check the sentence of a failure."""
    assert (done.stdout, done.exit_code) == ("", 1), done
    sentence, said = done.stderr.splitlines()[-2:]
    assert clause in sentence
    assert said.startswith("Hint: ")
    assert hint in said


def test_the_plugin_keeps_the_conventions_of_commands():
    check_distribution("tinkex-train")


def test_training_lowers_the_loss_and_leaves_checkpoints(sft):
    Path("held.jsonl").write_text('{"text": "11 green bottles"}\n')

    done = sft.train(
        *("--eval", "held.jsonl", "--eval-every", "4", "--save-every", "4", "-f", "json")
    )

    assert done.exit_code == 0, done.stderr
    result = done.rows
    metrics = rows("metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(11))
    assert [row["learning_rate"] for row in metrics[:3]] == pytest.approx([0.05, 0.045, 0.04])
    assert [row["epoch"] for row in metrics[:10]] == [0] * 5 + [1] * 5
    assert metrics[0][LOSSES] == pytest.approx(7.6246, abs=1e-3)  # log(2048)
    assert metrics[9][LOSSES] < metrics[0][LOSSES] - 0.5
    assert [row["step"] for row in metrics if "test/nll" in row] == [0, 4, 8, 10]
    assert metrics[0]["num_sequences"] == 2
    assert metrics[0]["num_tokens"] == metrics[0]["num_loss_tokens"] > 2
    assert metrics[0]["unclipped_grad_l2:mean"] > 0
    saved = rows("checkpoints.jsonl")
    assert [(row["name"], row["epoch"], row["batch"]) for row in saved] == [
        *(("000004", 0, 4), ("000008", 1, 3), ("final", 2, 0))
    ]
    assert saved[2]["final"] is True
    assert result["steps"] == 10
    assert result["tokens"] == sum(row["num_tokens"] for row in metrics[:10])
    assert result[LOSSES] == metrics[9][LOSSES]
    assert result["test_nll"] == metrics[10]["test/nll"] < metrics[0]["test/nll"]
    assert (result["state_path"], result["sampler_path"]) == (
        saved[2]["state_path"],
        saved[2]["sampler_path"],
    )
    listed = invoke(["checkpoint", "list", "-f", "json"]).rows
    expiring = {row["tinker_path"]: row["expires_at"] is not None for row in listed}
    assert expiring == {
        saved[0]["state_path"]: True,
        saved[1]["state_path"]: True,
        result["state_path"]: False,
        result["sampler_path"]: False,
    }
    config = json.loads(Path("out/config.json").read_text())
    assert config["model_name"] == "tinkex/baker-street-2M"
    assert (config["lora_rank"], config["num_epochs"], config["save_every"]) == (4, 2, 4)
    assert config["dataset_builder"]["train_on_what"] == "all_assistant_messages"


def test_what_is_printed(sft):
    done = sft.train()

    assert re.search(r"^Training run .*: 10 steps, learning rate 0\.05$", done.stderr, re.M)
    assert re.search(r"^Step 3 of 10: loss \d\.\d{3}, \d+ tok/s$", done.stderr, re.M)
    assert re.search(r"^Loss: 7\.\d{3} █[▁-█]{8}▁ \d\.\d{3}$", done.stderr, re.M)
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["Steps"] == "10"
    assert re.fullmatch(r"[0-9.]{1,6}", lines["Train mean NLL"])
    assert lines["Sampler path"].endswith("/sampler_weights/final")
    assert lines["Output"] == "out"


def test_a_checkpoint_is_the_beginning_of_another_run(sft):
    first = sft.train("-f", "json").rows

    done = sft.train("--model-path", first["state_path"], output="more")

    assert done.exit_code == 0, done.stderr
    losses = [row[LOSSES] for row in rows("metrics.jsonl", "more")]
    assert losses[0] < rows("metrics.jsonl")[5][LOSSES]
    config = json.loads(Path("more/config.json").read_text())
    assert config["load_checkpoint_path"] == first["state_path"]


class Interrupt:
    """Raises a signal when the metrics of a step are written for the first time."""

    def __init__(self, monkeypatch, step: int, number: signal.Signals = signal.SIGINT) -> None:
        write = RunDirectory.add_metrics
        self.is_armed = True

        def interrupted(log: RunDirectory, row: Any) -> None:
            write(log, row)
            if row["step"] == step and self.is_armed:
                self.is_armed = False
                signal.raise_signal(number)

        monkeypatch.setattr(RunDirectory, "add_metrics", interrupted)


@pytest.mark.parametrize("save_every", ["0", "3"])
def test_an_interrupted_run_resumes_as_if_it_had_not_been(save_every, sft, monkeypatch):
    whole = sft.train(output="whole")
    assert whole.exit_code == 0
    Interrupt(monkeypatch, step=4)
    options = ("--save-every", save_every)

    stopped = sft.train(*options)
    resumed = sft.train(*options, "--resume", "-f", "json")

    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert "Saving a checkpoint. Press Ctrl-C again" in stopped.stderr
    assert re.search(r"To resume:\n  tinkex train sft data\.jsonl .* --resume\n", stopped.stderr)
    assert resumed.exit_code == 0, resumed.stderr
    names = [row["name"] for row in rows("checkpoints.jsonl")]
    assert names[-2:] == ["000006-interrupted" if save_every == "0" else "000009", "final"]
    expected = [row[LOSSES] for row in rows("metrics.jsonl", "whole")]
    assert [row[LOSSES] for row in rows("metrics.jsonl")] == pytest.approx(expected, rel=1e-6)
    assert resumed.rows["steps"] == 10
    again = sft.train(*options, "--resume", "-f", "json")
    assert "Nothing to do: the run in out is complete." in sft.train(*options, "--resume").stderr
    assert again.rows["state_path"] == resumed.rows["state_path"]
    assert again.rows[LOSSES] == resumed.rows[LOSSES]


def test_a_signal_during_a_submission_waits_for_its_end(sft, monkeypatch):
    from tinkex.api import TrainingClient

    submit, calls = TrainingClient.optim_step, []

    def interrupted(client: TrainingClient, params: Any) -> Any:
        calls.append(params)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return submit(client, params)

    monkeypatch.setattr(TrainingClient, "optim_step", interrupted)

    done = sft.train()

    assert done.exit_code == 130
    assert [row["name"] for row in rows("checkpoints.jsonl")] == ["000003-interrupted"]
    assert len(rows("metrics.jsonl")) == 3  # the steps that were submitted


def test_a_killed_run_resumes_from_its_last_checkpoint(sft, monkeypatch):
    """What a killed process leaves: metrics after the last checkpoint, and half a line."""
    assert sft.train(output="whole").exit_code == 0
    Interrupt(monkeypatch, step=5)
    monkeypatch.setattr("tinkex_train.loop.Trainer._save_interrupted", lambda self: None)
    assert sft.train("--save-every", "4").exit_code == 130
    with open("out/checkpoints.jsonl", "a") as file:
        file.write('{"name": "0000')

    resumed = sft.train("--save-every", "4", "--resume")

    assert resumed.exit_code == 0, resumed.stderr
    assert "Resuming from" in resumed.stderr
    assert [row["step"] for row in rows("metrics.jsonl")] == list(range(10))
    dropped = rows("metrics.jsonl.pre_resume_000004")
    assert [row["step"] for row in dropped] == [4, 5]
    expected = [row[LOSSES] for row in rows("metrics.jsonl", "whole")]
    assert [row[LOSSES] for row in rows("metrics.jsonl")] == pytest.approx(expected, rel=1e-6)


def test_a_run_without_a_checkpoint_starts_over(sft, engine):
    def fail() -> None:
        raise MemoryError

    engine.on["forward"] = fail
    failed = sft.train()
    assert failed.exit_code == 1
    assert "To resume" not in failed.stderr
    del engine.on["forward"]

    done = sft.train("--resume")

    assert done.exit_code == 0, done.stderr
    assert "out has no checkpoint to resume from. Starting over." in done.stderr
    assert len(rows("metrics.jsonl")) == 10


def test_a_full_disk_loses_no_training(sft, monkeypatch):
    def full(log: RunDirectory, row: Any) -> None:
        raise LocalError("cannot write to out: No space left on device")

    monkeypatch.setattr(RunDirectory, "add_metrics", full)
    done = sft.train()
    refused(done, "cannot write to out: No space left", "free disk space")
    assert [row["name"] for row in rows("checkpoints.jsonl")] == ["000002-interrupted"]

    monkeypatch.setattr(RunDirectory, "add_checkpoint", full)
    done = sft.train(output="other")
    assert re.search(
        r"The checkpoint tinker://\S+ was saved, but --resume cannot continue from it: cannot",
        done.stderr,
    )
    refused(done, "No space left")


def test_a_lost_server_is_waited_for(sft, monkeypatch):
    from tinkex_local.wire.wsgi import WsgiSender

    send, lost = WsgiSender.send, {"optim_step": 3, "save_weights": 3}

    def sometimes(sender: WsgiSender, request: Any, timeouts: Any) -> Any:
        endpoint = request.url.rpartition("/")[2]
        if lost.get(endpoint, 0):
            lost[endpoint] -= 1
            if endpoint == "optim_step":  # and then more polls than are usually repeated
                lost["retrieve_future"] = 9
            raise Unreachable("localhost refused the connection")
        return send(sender, request, timeouts)

    clock = type("Clock", (), {"sleep": lambda s: None, "monotonic": lambda: 0.0, "time": None})
    monkeypatch.setattr("tinkex.api.http.retry.time", clock)
    monkeypatch.setattr(WsgiSender, "send", sometimes)

    done = sft.train()

    assert done.exit_code == 0, done.stderr
    assert not any(lost.values())


def test_a_loss_that_is_not_a_number_ends_the_run(sft, engine, monkeypatch):
    import tinkex_train.loop as loop

    monkeypatch.setattr(loop, "_mean_nll", lambda *_: float("nan"))

    refused(sft.train(), "the loss in step 0 is not finite", "learning rate")


def test_a_run_that_the_server_lost_says_how_to_resume(sft, engine, monkeypatch):
    def fail() -> None:
        raise RuntimeError("engine broke")

    count = iter(range(100))
    engine.on["optim_step"] = lambda: next(count) == 5 and fail()

    done = sft.train("--save-every", "2")

    assert done.exit_code == 1
    assert re.search(r"To resume:\n  tinkex train sft .* --resume\n", done.stderr)
    assert sft.train("--save-every", "2", "--resume").exit_code == 0


def test_dry_run(sft, engine):
    message = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    }
    Path("chat.jsonl").write_text(json.dumps(message) + "\n" + json.dumps(message) + "\n")

    done = sft("--dry-run", "--batch-size", "1", "-f", "json", data="chat.jsonl")
    plain = sft("--dry-run", "--batch-size", "1", data="chat.jsonl")
    coloured = sft(
        "--dry-run", data="chat.jsonl", terminal=True, environ={"TERM": "xterm-256color"}
    )

    found = done.rows
    preview, trained = found.pop("preview"), found["trained_tokens"]
    assert found == {
        "rows": 2,
        "examples": 2,
        "truncated": 0,
        "longest": found["longest"],
        "tokens": 2 * found["longest"],
        "trained_tokens": trained,
        "eval_examples": None,
        "batch_size": 1,
        "steps": 2,
        "learning_rate": 0.0005,
    }
    before = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    segments = [[before, 0], ["Ho<|im_end|>", 1]]
    assert preview[0] == {"where": "chat.jsonl, line 1", "segments": segments}
    assert done.stderr == ""
    assert f"Trained tokens: {trained}" in plain.stdout
    assert f"chat.jsonl, line 1: training on {trained // 2} of" in plain.stderr
    assert "<|im_start|>assistant\n⟦Ho<|im_end|>⟧" in plain.stderr
    assert "\x1b[32mHo<|im_end|>" in coloured.stderr
    assert not engine.calls
    assert not Path("out").exists()


def test_long_rows(sft):
    Path("long.jsonl").write_text(
        json.dumps({"text": "word " * 3000})
        + "\n"
        + json.dumps({"prompt": "a", "completion": "b " * 2000})
        + "\n"
    )

    done = sft("--dry-run", "-f", "json", data="long.jsonl")
    plain = sft("--dry-run", data="long.jsonl")

    assert done.rows["longest"] == 1024  # the context that the service reports
    assert done.rows["truncated"] == 1
    assert done.rows["examples"] > done.rows["rows"]
    assert "Warning: 1 of" in plain.stderr
    assert "are longer than 1024 tokens and are truncated." in plain.stderr


@pytest.mark.parametrize(
    ("words", "clause", "hint"),
    [
        ([], "--output is required", "--output runs/first"),
        (["--base-model", "m", "--model-path", "x"], "either --base-model or --model-path", ""),
        (["--output", "o", "--eval", "-"], "cannot come from standard input", "to a file"),
        (
            ["--output", "o", "--model-path", "tinker://r/sampler_weights/x"],
            "is a sampler checkpoint",
            "--run-id r",
        ),
        (["--output", "o", "--eval-every", "2"], "--eval-every requires --eval", "held-out"),
        (["--output", "data.jsonl"], "data.jsonl is not a directory", "--output"),
        (["--output", "data.jsonl/x"], "data.jsonl/x/config.json: Not a directory", ""),
        (["--output", "o", "--eval", "none"], "cannot read none: No such file", ""),
        (["--output", "o", "--eval", "empty"], "there are no rows in empty", "one JSON object"),
        (["--output", "o", "--base-model", "acme/none"], "acme/none", "--tokenizer"),
        (["--output", "o", "--model-path", "tinker://r/weights/x"], "", ""),
        (["--output", "o", "--rank", "0"], "--rank", ""),
        (["--output", "o", "--learning-rate", "0"], "--learning-rate", ""),
        (["--output", "o", "--schedule", "warm"], "--schedule", ""),
        (
            ["--output", "o", "--input-format", "messages"],
            "line 1: a row in the 'messages' format",
            "",
        ),
        (["--output", "o", "--tokenizer", "./none"], "none", ""),
        (["--output", "linked"], "linked/metrics.jsonl is not a regular file", "--output"),
        (["--output", "used"], "used already contains a training run", "--resume"),
        (
            ["--output", "used", "--resume"],
            "used/config.json is not a valid training run file",
            "",
        ),
    ],
)
def test_mistakes(words, clause, hint, sft, engine):
    Path("empty").write_text("\n")
    Path("linked").mkdir()
    Path("linked/metrics.jsonl").symlink_to("../data.jsonl")
    Path("used").mkdir()
    Path("used/config.json").write_text("[]")

    refused(sft(*words), clause, hint)
    assert not engine.calls
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("words", "clause"),
    [
        (["--rank", "8"], "was started with lora_rank 4, not 8"),
        (["--batch-size", "5"], "was started with dataset_builder.batch_size 2"),
        (["--learning-rate", "0.1"], "was started with learning_rate 0.05"),
    ],
)
def test_a_run_resumes_with_its_own_options_only(words, clause, sft):
    assert sft.train().exit_code == 0

    done = sft(
        "--output",
        "out",
        "--resume",
        *[
            w
            for option in {
                "--batch-size": "2",
                "--epochs": "2",
                "--learning-rate": "0.05",
                "--rank": "4",
            }.items()
            if option[0] not in words
            for w in option
        ],
        *words,
    )

    refused(done, clause, "the same options and files")


def test_a_run_resumes_with_its_own_data_only(sft):
    assert sft.train().exit_code == 0
    with open("data.jsonl", "a") as file:
        file.write('{"text": "another"}\n')

    refused(
        sft.train("--resume"), "the data of the run in out has changed since the run was started"
    )


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}x",
        '{"state_path": "p", "epoch": -1, "batch": 0}',
        '{"state_path": 3, "epoch": 0, "batch": 0}',
    ],
)
def test_malformed_records_are_refused(line, sft):
    Path("out").mkdir()
    Path("out/checkpoints.jsonl").write_text(line + "\n")

    refused(sft.train("--resume"), "out/checkpoints.jsonl is not a valid training run file")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a file to another user")
def test_a_file_of_another_user_is_refused(sft):
    Path("out").mkdir()
    Path("out/checkpoints.jsonl").write_text("")
    os.chown("out/checkpoints.jsonl", 12345, 12345)

    refused(sft.train("--resume"), "out/checkpoints.jsonl belongs to another user")


def test_a_server_that_does_not_train(sft, monkeypatch):
    monkeypatch.setattr("tinkex_local.engines.choice._installed", lambda: iter([]))

    done = sft.train()

    assert done.exit_code == 1
    assert "pip install tinkex-torch" in done.stderr
    assert rows("metrics.jsonl") == [] if Path("out/metrics.jsonl").exists() else True
