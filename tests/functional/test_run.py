"""Sampling and training runs, through the installed program and the embedded service."""

from __future__ import annotations

import json

import pytest

from tinkex.api import SamplingParams

MODEL = "tinkex/baker-street-2M"


def test_sampled_tokens_are_scored_as_they_were_sampled(client):
    with client.create_sampling_client(base_model=MODEL) as sampling:
        prompt, params = [49, 1703, 422], SamplingParams(6, temperature=0)
        (drawn,) = sampling.sample(prompt, params, topk_logprobs=3).sequences
        whole = [*prompt, *drawn.tokens]
        found = sampling.sample(
            whole, SamplingParams(1), prompt_logprobs_last_n=6, topk_prompt_logprobs=3
        )
    assert found.prompt_logprobs[:3] == found.topk_prompt_logprobs[:3] == (None,) * 3
    assert found.prompt_logprobs[3:] == pytest.approx(drawn.logprobs, abs=0.05)
    for token, alternatives, again in zip(
        drawn.tokens, drawn.topk_logprobs, found.topk_prompt_logprobs[3:], strict=True
    ):
        assert [len(alternatives), alternatives[0][0], again[0][0]] == [3, token, token]
        values = [logprob for _, logprob in alternatives]
        assert values == sorted(values, reverse=True)


def test_a_reply_ends_at_a_stop_string_besides_the_end_of_turn(served):
    words = f"run --base-model {MODEL} --chat --prompt Hi --max-tokens 200 --stop a --seed 1"
    (row,) = json.loads(served(words, "-f", "json").stdout)
    assert "a" in row["text"]  # in any text of two hundred tokens
    assert "<|" not in row["text"]
    assert (row["stop_reason"], row["token_count"] < 200) == ("stop", True)


def test_checkpoint_with_untrained_weights_samples_as_its_base(served, saved):
    options = ("--prompt", "The", "--max-tokens", "6", "--seed", "5", "--json")
    by_path = served(f"run --model-path {saved['weights_path']}", *options)
    by_base = served(f"run --base-model {MODEL}", *options)
    assert by_path.stdout == by_base.stdout


def test_a_file_that_is_nearly_token_ids_is_sampled_as_text_and_reported(served, tmp_path):
    (tmp_path / "ids.json").write_text("[1.0, 2.0]\n")
    options = ["--base-model", MODEL, "--max-tokens", "2", "--temperature", "0", "--quiet"]
    done = served("run --prompt-file ids.json", *options, cwd=tmp_path)
    assert done.stdout == served("run --prompt", "[1.0, 2.0]", *options).stdout
    assert done.stderr == (
        "Warning: ids.json is sampled as text, not as token ids: item 1 is 1.0\n"
    )
    (tmp_path / "ids.txt").write_text("[1, 2]\n3, 4\n")
    done = served("run batch ids.txt", *options, cwd=tmp_path)
    assert "ids.txt, line 1 is treated as text" in done.stderr
    assert ": the input format is text (2 such prompts in total)\n" in done.stderr


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--base-model", "no/such-model"], "no/such-model"),
        (["--base-model", "no/such-model"], "Hint: See 'tinkex model list'"),
        (["--model-path", "tinker://none/sampler_weights/x"], "none"),
        (["--base-model", MODEL, "--tokenizer", "no/such-tokenizer"], "no/such-tokenizer"),
    ],
)
def test_unknown_names(served, argv, what):
    done = served("run", *argv, "--prompt", "x", "--max-tokens", "2", code=1)
    assert done.stdout == ""
    error = done.stderr.removeprefix("Starting sampling...\n")
    assert error.startswith("Sampling failed")
    assert what in error
    assert error.count("\n") <= 2


def test_run_list_and_info(served, saved):
    lines = served("run list --limit 0").stdout.splitlines()
    assert f"{saved['model_id']}\t{MODEL}" in lines
    done = served(f"run info {saved['model_id']}")
    first, second = done.stdout.splitlines()[:2]
    assert first == f"{saved['model_id']} ({MODEL})"
    assert second.startswith("Owner: ")
    shown = served(f"run info {saved['model_id']} -f json").rows
    assert shown["lora_rank"] == 4
    assert shown["last_sampler_checkpoint"] == saved["weights_path"]
    assert shown["last_sampler_checkpoint_time"].endswith("Z")
    assert shown["last_checkpoint"] is shown["last_checkpoint_time"] is None
    listed = served("run list --limit 0 -f json").rows
    (row,) = [row for row in listed if row["training_run_id"] == saved["model_id"]]
    assert {name: shown[name] for name in row} == row
    columns = "Run,last_sampler_checkpoint,last_sampler_checkpoint_time"
    done = served(f"run list --limit 0 -c {columns} -f csv")
    times = (saved["model_id"], saved["weights_path"], shown["last_sampler_checkpoint_time"])
    assert ",".join(f'"{value}"' for value in times) in done.stdout.splitlines()
    assert "last_checkpoint" in served("run list --sort last_checkpoint", code=1).stderr


def test_programmatic(served, tmp_path, monkeypatch):
    import tinkex

    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    done = tinkex.run(["run", "--base-model", MODEL, "--prompt", "Hi", "--max-tokens", "3"])
    assert done.command == "run"
    assert len(done.value.sequences) == 1
    done = tinkex.run(["checkpoint", "--base-model", MODEL, "--output", str(tmp_path / "c.json")])
    assert done.command == "checkpoint"
    assert done.value == json.loads((tmp_path / "c.json").read_text())
