"""``tokens``, and the estimates of ``run batch`` and ``billing``: no request is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from tests.unit.api.conftest import Reply, Server
from tinkex.testing import invoke

WORDS = ["<s>", "hello", "world", "user", "?"]
TEMPLATE = (
    "{% for m in messages %}<s> {{ m.role }} {{ m.content }}{% generation %}{% endgeneration %}"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a tokenizer that begins every text with ``<s>``."""
    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([AddedToken("<s>", special=True)])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair=None, special_tokens=[("<s>", 0)]
    )
    directory = tmp_path_factory.mktemp("model")
    inner.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return str(directory)


@pytest.fixture
def tinkex(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, code: int = 0, **options):
        words = argv if "--base-model" in argv else (*argv, "--base-model", model)
        done = invoke(words, **options)  # without a key
        assert done.exit_code == code, done.stderr
        return done

    return run


TEXT = "hello world\nhello\n"
ROWS = (
    '{"id": "a", "prompt": "hello world"}\n{"tokens": [3, 1]}\n'
    '{"messages": [{"role": "user", "content": "world"}]}\n'
)


@pytest.mark.parametrize(
    ("words", "stdin", "rows"),
    [
        ([], TEXT, [("standard input", [0, 1, 2, 1])]),
        (["--input-format", "text"], TEXT, [("1", [0, 1, 2]), ("2", [0, 1])]),
        ([], ROWS, [("a", [0, 1, 2]), ("2", [3, 1]), ("3", [0, 3, 2])]),
        (["--chat"], "hello", [("standard input", [0, 3, 1])]),
        (["--system", "world"], "hello", [("standard input", [0, 4, 2, 0, 3, 1])]),
        ([], "[3, 1, 2]\n", [("standard input", [3, 1, 2])]),
    ],
)
def test_encode_and_count(words, stdin, rows, tinkex):
    found = tinkex("tokens", "encode", "-", *words, "-f", "json", stdin=stdin).rows
    assert [(row["id"], row["tokens"]) for row in found] == rows
    done = tinkex("tokens", "count", "-", *words, stdin=stdin)
    assert done.stdout == "".join(f"{len(tokens)}\t{id}\n" for id, tokens in rows)
    total = sum(len(tokens) for _, tokens in rows)
    expected = f"{total} tokens in {len(rows)} prompts.\n" if len(rows) > 1 else ""
    assert done.stderr == expected


@pytest.mark.parametrize(
    ("words", "stdin", "texts"),
    [
        ([], "[0, 1, 2]", ["<s> hello world"]),
        ([], "0 1 2\n", ["<s> hello world"]),
        ([], "0,1, 2", ["<s> hello world"]),
        ([], '{"tokens": [1, 0]}', ["hello <s>"]),
        ([], '[{"tokens": [1]}, {"tokens": [2]}]', ["hello", "world"]),
        (["--input-format", "text"], "[0, 1]\n2 1\n", ["<s> hello", "world hello"]),
    ],
)
def test_decode(words, stdin, texts, tinkex):
    done = tinkex("tokens", "decode", "-", *words, stdin=stdin)
    assert done.stdout.splitlines() == texts
    found = tinkex("tokens", "decode", "-", *words, "-f", "json", stdin=stdin).rows
    assert [row["text"] for row in found] == texts


def test_what_encode_prints_is_read_again(tinkex, tmp_path):
    for words, name in (([], "ids.json"), (["-f", "json"], "rows.json")):
        encoded = tinkex("tokens", "encode", "-", *words, stdin="hello world")
        (tmp_path / name).write_text(encoded.stdout)
        assert tinkex("tokens", "decode", name).stdout == "<s> hello world\n"
    assert (tmp_path / "ids.json").read_text() == "[0, 1, 2]\n"
    done = tinkex("run", "batch", "rows.json", "--estimate", "-f", "json")
    assert json.loads(done.stdout)["prefill_tokens"] == 3


def test_text_that_looks_like_token_ids_is_reported(tinkex):
    done = tinkex("tokens", "count", "-", stdin="[1.0, 2.0]")
    assert "standard input is encoded as text, not as token ids: item 1 is 1.0" in done.stderr
    assert not tinkex("tokens", "decode", "-", stdin="1 2").stderr


def test_a_directory_has_a_prompt_in_each_file(tinkex, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("hello\n")
    (tmp_path / "d" / "b.json").write_text("[1, 2, 3]")
    assert tinkex("tokens", "count", "d").stdout == "2\ta.txt\n3\tb.json\n"


def test_no_control_character_reaches_a_terminal(tinkex, model, tmp_path):
    inner = Tokenizer.from_file(f"{model}/tokenizer.json")
    inner.add_tokens([AddedToken("\x1b[2J", normalized=False)])
    inner.save(str(tmp_path / "tokenizer.json"))
    words = ["tokens", "decode", "-", "--base-model", str(tmp_path)]
    assert "\x1b" in tinkex(*words, stdin="5").stdout
    assert "\x1b" not in tinkex(*words, stdin="5", terminal=True).stdout


@pytest.mark.parametrize(
    ("argv", "stdin", "message"),
    [
        (["encode", "none.txt"], "", "cannot read none.txt: No such file"),
        (["encode", "-"], "", "standard input: the prompt is empty"),
        (["encode", "-"], "[]", "there are no prompts in standard input"),
        (["count", "-"], '{"prompt": ""}', "'prompt' must be a non-empty string"),
        (["count", "-"], '{"prompt": 1}\n', "'prompt' must be a non-empty string"),
        (["decode", "-"], "hello", 'standard input does not contain token ids: it is "hello"'),
        (
            ["decode", "-"],
            "[1]\n[2]\n",
            "such as [9707, 11]. If each line contains token ids, add --input",
        ),
        (
            ["decode", "-"],
            "1 9",
            "standard input: the tokenizer has no token with id 9\nHint: Check",
        ),
        (["decode", "-"], "1 99999999999999999999", "item 2 is 999999999999"),
        (["decode", "-"], '{"prompt": "x"}', 'line 1 does not contain token ids: it is "x"'),
        (["decode", "-", "--base-model", "./none"], "1", "cannot read none"),
        (["encode", "-", "--api-key", "-"], "x", "the key or the prompts, not both"),
        (["count", "-", "--base-model", "no/model"], "x", "no tokenizer for 'no/model'"),
    ],
)
def test_mistakes_are_reported(argv, stdin, message, tinkex):
    done = tinkex("tokens", *argv, stdin=stdin, code=1)
    assert message in done.stderr
    assert done.stdout == ""


def test_messages_need_a_template(tinkex, model, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(Path(model, "tokenizer.json").read_bytes())
    words = ["tokens", "count", "-", "--chat", "--base-model", str(tmp_path)]
    done = tinkex(*words, stdin="x", code=1)
    assert "has no chat template" in done.stderr
    assert "Hint: With --base-model, specify another model or" in done.stderr


# ---------------------------------------------------------------- estimates


PRICES = {"date": "2026-11-01", "models": {"m": {"prefill": 1, "sample": 10, "train": 100}}}
DATA = '{"prompt": "hello", "completion": " world"}\n{"text": "hello world"}\n'


@pytest.fixture
def estimate(tinkex, model, tmp_path):
    def run(*argv: str, prices: object = None, **options):
        words = [*argv, "--base-model", "m"]
        if "--tokenizer" not in argv:
            words += ["--tokenizer", model]
        if prices is not None:
            (tmp_path / "prices.json").write_text(json.dumps(prices))
            words += ["--prices", "prices.json"]
        return tinkex(*words, **options)

    return run


def test_training_is_estimated(estimate):
    words = ["billing", "estimate", "-", "--epochs", "3"]
    row = estimate(*words, "-f", "json", prices=PRICES, stdin=DATA).rows
    assert row == {
        "base_model": "m",
        "rows": 2,
        "examples": 2,
        "tokens": 6,
        "trained_tokens": 3,
        "epochs": 3,
        "train_tokens": 12,
        "train_usd_per_million_tokens": 100.0,
        "train_cost_usd": pytest.approx(0.0012),
        "prices_date": "2026-11-01",
    }
    done = estimate(*words, prices=PRICES, stdin=DATA)
    assert "Cost: $0.0012 at $100 per million tokens (prices as of 2026-11-01)\n" in done.stdout
    assert "Cost" not in estimate(*words, stdin=DATA).stdout  # nothing is guessed


def test_long_examples_are_cut(estimate):
    words = ["billing", "estimate", "-", "--max-length", "2", "-f", "json"]
    row = estimate(*words, stdin='{"text": "hello world hello"}').rows
    assert (row["examples"], row["tokens"], row["train_tokens"]) == (3, 6, 3)


@pytest.mark.parametrize(
    ("cached", "cost"), [(None, (3 + 5 + 3 * 5 + 44 * 10) / 1e6), (0.5, (8 + 7.5 + 440) / 1e6)]
)
def test_a_batch_is_estimated(cached, cost, estimate):
    rows = (
        '{"prompt": "hello world", "max_tokens": 4}\n'
        '{"prompt": "hello world hello world", "num_samples": 4}\n'
    )
    prices = {**PRICES, "models": {"m": {**PRICES["models"]["m"], "cached": cached}}}
    words = ["run", "batch", "-", "--estimate", "--max-tokens", "10"]
    done = estimate(*words, "-f", "json", prices=prices, stdin=rows)
    assert json.loads(done.stdout) == {
        "base_model": "m",
        "prompts": 2,
        "prefill_tokens": 8,
        "cached_tokens": 15,
        "max_sampled_tokens": 44,
        "max_cost_usd": pytest.approx(cost),
        "prices_date": "2026-11-01",
    }
    done = estimate(*words, prices=prices, stdin=rows)
    assert "Max sampled tokens: 44\nCost: at most $0.0005 (prices as of 2026-11-01)" in done.stdout
    assert "Cost" not in estimate(*words, stdin=rows).stdout


def test_the_model_of_a_checkpoint_is_requested(tinkex, model, tmp_path):
    server = Server()
    server.on("GET", "training_runs/r", {"training_run_id": "r", "base_model": "m:x"})
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": []})
    server.on("POST", "weights_info", {"base_model": "m:x", "is_lora": True, "lora_rank": 4})
    server.on("GET", "prices.json", PRICES)
    try:
        words = ["run", "batch", "-", "--estimate", "--model-path", "tinker://r/weights/x"]
        words += [
            "--tokenizer",
            model,
            "--prices",
            f"{server.url}/api/v1/prices.json",
            "-f",
            "json",
        ]
        done = invoke([*words, "--base-url", server.url, "--api-key", "k"], stdin="hello")
    finally:
        server.close()
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["max_cost_usd"] == pytest.approx((2 + 2560) / 1e6)


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ([], "prices.json is not a price list"),
        ({"models": {"m": {}}}, "prices.json has no date"),
        ({"date": "x", "models": {}}, "has no prices for m"),
        ({"date": "x", "models": {"n": {}}}, "Models in the list: n."),
        ({"date": "x", "models": {"m": 3}}, "must be a JSON object"),
        ({"date": "x", "models": {"m": {"trian": 3}}}, "unknown price name 'trian'"),
        ({"date": "x", "models": {"m": {"train": "3"}}}, "must be a number, 0 or more"),
        ({"date": "x", "models": {"m": {"train": -1}}}, "must be a number, 0 or more"),
        ({"date": "x", "models": {"m": {"train": True}}}, "must be a number, 0 or more"),
    ],
)
def test_other_price_lists_are_refused(prices, message, estimate):
    for words in (["billing", "estimate", "-"], ["run", "batch", "-", "--estimate"]):
        done = estimate(*words, prices=prices, stdin=DATA[:44], code=1)
        assert message in done.stderr


def test_a_missing_price_is_reported_and_not_guessed(estimate):
    prices = {"date": "x", "models": {"m": {"prefill": 1}}}
    done = estimate("billing", "estimate", "-", prices=prices, stdin=DATA)
    assert "Warning: prices.json has no price for training m" in done.stderr
    done = estimate("run", "batch", "-", "--estimate", prices=prices, stdin="hello")
    assert "prices.json lacks a prefill or sample price for m" in done.stderr
    assert "Cost" not in done.stdout


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply({"detail": "Not Found"}, 404), "HTTP 404"),
        (Reply("", 302, {"Location": "/x"}), "redirects (HTTP 302)"),
        (Reply("<html>"), "is not a price list"),
        (Reply(reset=True), "was lost"),
    ],
)
def test_an_address_that_is_no_price_list(reply, message, estimate):
    server = Server()
    server.on("GET", "prices", reply)
    try:
        words = ["billing", "estimate", "-", "--prices", f"{server.url}/api/v1/prices"]
        done = estimate(*words, stdin=DATA, code=1)
        (seen, *_) = server.seen
    finally:
        server.close()
    assert message in done.stderr
    assert "x-api-key" not in seen.headers


@pytest.mark.parametrize(
    ("argv", "stdin", "message"),
    [
        (["billing", "estimate", "none.jsonl"], "", "cannot read none.jsonl"),
        (["billing", "estimate", "-"], "", "there are no rows in standard input\nHint: Write"),
        (["billing", "estimate", "-"], '{"x": 1}', "standard input, line 1"),
        (["billing", "estimate", "-", "--tokenizer", "./none"], "", "tokenizer directory, with"),
        (["run", "batch", "-", "--prices", "x"], "hello", "--prices requires --estimate"),
    ],
)
def test_mistakes_in_estimates_are_reported(argv, stdin, message, estimate):
    done = estimate(*argv, stdin=stdin, code=1)
    assert message in done.stderr
    assert done.stdout == ""
