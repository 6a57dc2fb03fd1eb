"""``score``: likelihoods by hand and on the local service, and errors."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import responses

from tinkex.api import ExampleBuilder, SamplingClient, ServiceClient, SupervisedExample, Tokenizer
from tinkex.exceptions import InvalidResponse
from tinkex.testing import Invocation, invoke
from tinkex_lab.scoring import Likelihood, ModelScore, Scorer, marked_best

BASE = "tinkex/baker-street-2M"
TEXT = "It was a cold morning of the early spring — and we sat after breakfast."
ROWS = [
    {"text": TEXT},
    {"prompt": "Holmes sat", "completion": " down."},
    {
        "messages": [
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "Holmes."},
        ]
    },
]


@pytest.fixture(scope="session")
def tokenizer(model_directory: Path) -> Tokenizer:
    return Tokenizer.from_file(model_directory / "tokenizer.json")


@pytest.fixture
def score(service: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that scores rows (or the text of a file) in ``data.jsonl``."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, rows=ROWS, code: int = 0, models=(BASE,)) -> Invocation:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        Path("data.jsonl").write_text(text, encoding="utf-8")
        options = [word for model in models for word in ("--base-model", model)]
        done = invoke(["score", "data.jsonl", *options, *words], environ=service)
        assert done.exit_code == code, done
        return done

    return run


# ---------------------------------------------------------------- definitions


def example(tokenizer: Tokenizer, text: str, weights: dict[int, int]) -> SupervisedExample:
    tokens = tokenizer.encode(text, special=False)
    return SupervisedExample(tokens, [weights.get(i, 1) for i in range(len(tokens))])


def test_only_tokens_with_a_weight_count(tokenizer: Tokenizer):
    data = example(tokenizer, "Holmes sat down", {0: 0, 2: 0})
    logprobs = [None] + [-float(i) for i in range(1, len(data.tokens))]

    found = Scorer(tokenizer).likelihood(data, logprobs)

    counted = [i for i, weight in enumerate(data.weights) if weight]
    assert found.tokens == len(counted)
    assert found.nll == sum(counted)
    assert found.nll_per_token == sum(counted) / len(counted)
    assert found.perplexity == pytest.approx(math.exp(sum(counted) / len(counted)))


def test_bytes_are_those_of_runs_of_text_without_special_tokens(tokenizer: Tokenizer):
    # The dash and the emoji are several tokens each, and the end of turn is special.
    data = example(tokenizer, "a—😀b<|im_end|>", {0: 0})
    logprobs = [None, *[-2.0] * (len(data.tokens) - 1)]

    found = Scorer(tokenizer).likelihood(data, logprobs)

    assert tokenizer.decode(data.tokens[-1:], strip_end=False) == "<|im_end|>"
    assert found.text_bytes == len("—😀b".encode())
    assert found.text_nll == found.nll - 2.0
    assert found.bits_per_byte == pytest.approx(found.text_nll / math.log(2) / found.text_bytes)


def test_likelihoods_without_tokens_or_beyond_floats():
    assert Likelihood().nll_per_token is None
    assert Likelihood().perplexity is None
    assert Likelihood().bits_per_byte is None
    assert Likelihood(1, 800.0).perplexity == math.inf


def test_an_unknown_logprob_is_an_error(tokenizer: Tokenizer):
    data = example(tokenizer, "Holmes sat", {0: 0})

    with pytest.raises(InvalidResponse, match="no logprob for"):
        Scorer(tokenizer).likelihood(data, [None] * len(data.tokens))


def model_score(base: str, nll: float, bits: float, failed: int = 0) -> ModelScore:
    total = Likelihood(10, nll * 10, 10, bits * math.log(2) * 10)
    return ModelScore(f"{base}-{nll}", base, 1, failed, total)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([model_score("a", 1.0, 9.0)], [None]),
        ([model_score("a", 1.0, 9.0), model_score("a", 2.0, 1.0)], [True, False]),
        ([model_score("a", 1.0, 9.0), model_score("b", 2.0, 1.0)], [False, True]),
        ([model_score("a", 1.0, 9.0), model_score("a", 1.0, 9.0)], [True, True]),
        ([model_score("a", 1.0, 9.0, failed=1), model_score("a", 2.0, 1.0)], [False, True]),
    ],
)
def test_the_best_model_is_marked(scores, best):
    assert [score.best for score in marked_best(scores)] == best


# ---------------------------------------------------------------- on the local service


def test_a_terminal_shows_a_table(score, service):
    score("-f", "json")

    done = invoke(["score", "data.jsonl", "--base-model", BASE], environ=service, terminal=True)

    assert done.stdout.startswith("+---")


def test_scores_are_those_of_the_logprobs_of_the_service(score, service, tokenizer, monkeypatch):
    (row,) = score("--per-row", "rows.jsonl", "-f", "json").rows
    lines = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]

    for name, value in service.items():
        monkeypatch.setenv(name, value)
    tokens = tokenizer.encode(TEXT)
    with (
        ServiceClient() as client,
        client.create_sampling_client(base_model=BASE) as model,
    ):
        logprobs = model.sample(tokens, prompt_logprobs=True).prompt_logprobs or ()
    nll = [-value for value in logprobs[1:] if value is not None]
    assert lines[0]["nll"] == pytest.approx(sum(nll) / len(nll), abs=1e-5)
    scored_bytes = len(TEXT.encode()) - len(tokenizer.decode(tokens[:1]).encode())
    expected = sum(nll) / math.log(2) / scored_bytes
    assert lines[0]["bits_per_byte"] == pytest.approx(expected, abs=1e-5)

    # " down." and the end of the text; "Holmes." and the end of the turn.
    completion = [*tokenizer.encode(" down."), "end"]
    reply = [*tokenizer.encode("Holmes."), "end"]
    assert [line["row"] for line in lines] == [1, 2, 3]
    assert [line["tokens"] for line in lines] == [len(tokens) - 1, len(completion), len(reply)]
    assert (row["rows"], row["failed"], row["best"]) == (3, 0, None)
    assert row["tokens"] == sum(line["tokens"] for line in lines)
    total = sum(line["nll"] * line["tokens"] for line in lines)
    assert row["nll"] == pytest.approx(total / row["tokens"])
    assert row["perplexity"] == pytest.approx(math.exp(row["nll"]))


def test_several_models_are_scored_on_the_same_rows(score):
    done = score("--per-row", "rows.jsonl", models=(BASE, "other"))

    one, other = (line.split("\t") for line in done.stdout.splitlines())
    assert (one[0], other[0]) == (BASE, "other")
    assert one[2:] == other[2:]
    assert one[-1] == "true"
    assert len(Path("rows.jsonl").read_text().splitlines()) == 6


def test_long_texts_are_scored_in_windows(score):
    (whole,) = score(rows=[{"text": TEXT}], code=0).stdout.splitlines()
    (parts,) = score("--max-length", "6", rows=[{"text": TEXT}]).stdout.splitlines()

    assert parts.split("\t")[2:4] == whole.split("\t")[2:4]
    assert parts.split("\t")[4] != whole.split("\t")[4]


def test_truncated_rows_are_reported(score):
    row = {"prompt": "Holmes", "completion": " sat down. " * 400}

    done = score(rows=[row, ROWS[1]])

    assert "1 of 2 rows were truncated to 1023 tokens." in done.stderr


@pytest.mark.parametrize(("limit", "code"), [("1.5", 1), ("20", 0)])
def test_fail_above_sets_the_exit_code_after_the_result(score, limit, code):
    done = score("--fail-above", limit, rows=ROWS[:1], code=code)

    assert done.stdout.startswith(BASE)
    assert (f"The NLL per token of {BASE} is" in done.stderr) == bool(code)


def test_a_row_that_fails_does_not_end_the_others(score, monkeypatch):
    build = ExampleBuilder.build
    bad = SupervisedExample([1, 10**6], [0, 1])
    monkeypatch.setattr(
        ExampleBuilder,
        "build",
        lambda self, row: [bad] if "prompt" in row.source else build(self, row),
    )

    done = score("--per-row", "rows.jsonl", code=1)

    assert (
        "Failed: data.jsonl, line 2: Token 1000000 is outside the model's vocabulary" in done.stderr
    )
    assert done.stdout.split("\t")[-2] == "1"
    assert len(Path("rows.jsonl").read_text().splitlines()) == 2


def test_what_was_scored_before_an_interruption_is_kept(score, monkeypatch):
    sample, calls = SamplingClient.sample, itertools.count(1)

    def interrupted(self, *args, **options):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, *args, **options)

    monkeypatch.setattr(SamplingClient, "sample", interrupted)

    done = score("--per-row", "rows.jsonl", "--concurrency", "1", code=130)

    assert done.stdout == ""
    lines = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [1, 2]


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        ([], "", "there are no rows in data.jsonl"),
        ([], "[]", "there are no rows in data.jsonl"),
        ([], "plain text\n", "data.jsonl, line 1: not JSON"),
        ([], [ROWS[0], {"question": "?"}], "data.jsonl, line 2: a row must have one of"),
        ([], [{"text": "a"}], "data.jsonl, line 1: no token"),
        ([], [{"messages": [{"role": "user", "content": "Hi"}]}], "no assistant message"),
        (["--per-row", "."], ROWS, "cannot write .: it is a directory"),
        (["--per-row", "data.jsonl"], ROWS, "cannot write data.jsonl: it is part of the input"),
        (["--per-row", "/dev/full"], ROWS[:1], "cannot write /dev/full: No space left"),
        (["--tokenizer", "./none"], ROWS, "none"),
    ],
)
def test_what_cannot_be_scored_is_reported(score, words, rows, message):
    done = score(*words, rows=rows, code=1)

    assert done.stdout == ""
    assert message in done.stderr
    assert "Hint: " in done.stderr


def test_a_base_model_without_a_chat_template_cannot_score_messages(
    score, model_directory: Path, tmp_path: Path
):
    (tmp_path / "plain").mkdir()
    file = (model_directory / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "plain" / "tokenizer.json").write_text(file, encoding="utf-8")

    done = score("--tokenizer", "./plain", code=1)

    assert "line 3: the tokenizer in plain has no chat template" in done.stderr


def test_models_are_required():
    done = invoke(["score", "data.jsonl"])

    assert "a model is required" in done.stderr


# ---------------------------------------------------------------- other servers

SERVER = {
    "TINKER_BASE_URL": "https://tinker.test",
    "TINKER_API_KEY": "tml-test",
    "TINKEX_HTTP_POOL": "default",  # the one that "responses" mocks
}
SAMPLE = {"sequences": [{"tokens": [1], "logprobs": [-1.0], "stop_reason": "length"}]}


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (200, SAMPLE, "this server does not return prompt logprobs"),
        (
            200,
            SAMPLE | {"prompt_logprobs": [None, -1.0]},
            "prompt logprobs for 2 tokens instead of",
        ),
        (200, SAMPLE | {"prompt_logprobs": "x"}, "prompt_logprobs"),
        (401, {"detail": "no"}, "no (HTTP 401)"),
    ],
)
@responses.activate
def test_servers_without_logprobs_are_reported(
    model_directory: Path, tmp_path: Path, status, answer, message
):
    url = "https://tinker.test/api/v1/"
    responses.post(f"{url}create_session", json={"session_id": "s"})
    responses.post(f"{url}create_sampling_session", json={"sampling_session_id": "m"})
    responses.get(f"{url}get_server_capabilities", json={"supported_models": []})
    responses.post(f"{url}asample", json={"request_id": "r"} | answer, status=status)
    responses.post(f"{url}retrieve_future", json=answer)
    responses.post(f"{url}finish_session", json={})
    responses.post(f"{url}client/config", json={})
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(ROWS[0]))
    words = ["score", str(data), "--base-model", "m", "--tokenizer", str(model_directory)]

    done = invoke(words, environ=SERVER)

    assert (done.stdout, done.exit_code) == ("", 1), done
    assert message in done.stderr
