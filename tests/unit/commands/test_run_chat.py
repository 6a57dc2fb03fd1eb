"""``run`` and ``run batch`` with chat prompts and logprobs, on a service that is scripted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from tests.unit.api.conftest import Reply, Server
from tinkex.testing import Invocation, invoke

WORDS = ["?", "Hi", "there", "Be", "brief", "system", "user", "assistant", "one", "two"]
START, END, OTHER = 10, 11, 12
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
ASKED = [START, 6, 1, END, START, 7]
BRIEFLY = [START, 5, 3, 4, END, *ASKED]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_tokens([AddedToken(f"<|{w}|>", special=True) for w in ("im_start", "im_end", "x")])
    directory = tmp_path_factory.mktemp("tokenizer")
    inner.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    server = Server()
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "create_sampling_session", {"sampling_session_id": "sample-1"})
    yield server
    server.close()


@pytest.fixture
def tinkex(service: Server, tokenizer: Path, tmp_path, monkeypatch):
    """Return a function that samples with *words*; the service replies *result*."""
    monkeypatch.chdir(tmp_path)
    service.seen.clear()
    service.on("POST", "asample", {"request_id": "a"})

    def run(*words: str, code: int = 0, terminal: bool = False, **options) -> Invocation:
        sequence = {"tokens": [1, OTHER, 2, END], "logprobs": [-0.1, -1.5, -3.0, -9.0]}
        result = {"sequences": [{**sequence, **options.pop("sequence", {})}]}
        service.on("POST", "retrieve_future", {**result, **options.pop("result", {})})
        argv = ["--base-url", service.url, "--api-key", "k", *words, "--base-model", "m"]
        argv += ["--tokenizer", str(options.pop("tokenizer", tokenizer))]
        done = invoke(argv, terminal=terminal, **options)
        assert done.exit_code == code, done.stderr
        return done

    return run


def sent(service: Server) -> list[tuple[list[int], object]]:
    """Return the prompts and the stop sequences that were submitted."""
    bodies = [seen.body for seen in service.requests("asample")]
    return [
        (body["prompt"]["chunks"][0]["tokens"], body["sampling_params"].get("stop"))
        for body in bodies
    ]


# ---------------------------------------------------------------- chat


HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (["--chat", "--prompt", "Hi"], "", ASKED),
        (["--system", "Be brief", "--prompt", "Hi"], "", BRIEFLY),
        (["--chat", "--prompt-file", "-"], "Hi\n", ASKED),
        (["--messages", "-"], json.dumps(HI), ASKED),
        (["--messages", "-"], json.dumps({"messages": HI}), ASKED),
        (["--messages", "-", "--system", "Be brief"], json.dumps(HI), BRIEFLY),
    ],
)
def test_a_chat_prompt_is_rendered_and_ends_at_the_end_of_turn(
    words, stdin, prompt, tinkex, service
):
    done = tinkex("run", *words, "-f", "json", stdin=stdin)
    assert sent(service) == [(prompt, [END])]
    assert done.rows[0]["text"] == "Hi there"  # without special tokens


def test_without_chat_the_text_is_complete_and_the_server_ends_it(tinkex, service):
    done = tinkex("run", "--prompt", "Hi", "-f", "json")
    assert sent(service) == [([1], None)]
    assert done.rows[0]["text"] == " Hi <|x|> there"


def test_stop_strings_are_kept(tinkex, service):
    tinkex("run", "--chat", "--prompt", "Hi", "--stop", "END")
    assert sent(service) == [(ASKED, ["END", "<|im_end|>"])]


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (
            ["--chat", "--prompt-file", "-"],
            "[1, 2]",
            "token ids, which cannot be used as a message",
        ),
        (["--messages", "-", "--prompt", "Hi"], "", "only one of --messages"),
        (["--messages", "-"], "", "standard input is not a JSON array of messages"),
        (["--messages", "-"], "Hi", "standard input is not a JSON array of messages"),
        (["--messages", "-"], "[]", "messages must be a non-empty list of messages"),
        (["--messages", "-"], '[{"role": "user"}]', "the content of message 1 must be a string"),
        (["--messages", "-"], "\udcff", "not UTF-8"),
        (["--messages", "none.json"], "", "cannot read none.json: No such file"),
        (
            ["--messages", "-", "--system", "x"],
            '[{"role": "system", "content": "y"}]',
            "already contain a system message",
        ),
        (["--prompt-file", "p", "-o", "p"], "", "cannot write p: it is part of the input"),
        (["--messages", "m", "-o", "./m"], "", "cannot write ./m: it is part of the input"),
        (["--chat"], "", "--prompt or --prompt-file is required"),
        (["--chat", "--system", "", "--prompt", "Hi"], "", "must not be empty"),
    ],
)
def test_mistakes_are_reported_before_any_request(words, stdin, message, tinkex, service):
    if stdin == "\udcff":
        Path("bad.json").write_bytes(b"\xff")
        words, stdin = ["--messages", "bad.json"], ""
    Path("p").write_text("Hi")
    Path("m").write_text('[{"role": "user", "content": "Hi"}]')
    done = tinkex("run", *words, stdin=stdin, code=1)
    assert message in done.stderr
    assert not service.seen


def test_a_model_without_a_template(tinkex, service, tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    (tmp_path / "in.txt").write_text("Hi\n")
    for words in (["run", "--prompt", "Hi"], ["run", "batch", "in.txt"]):
        done = tinkex(*words, "--chat", tokenizer=tmp_path, code=1)
        assert f"the tokenizer in {tmp_path} has no chat template" in done.stderr
        assert "Use --tokenizer to specify a chat model" in done.stderr
    assert not service.requests("asample")


def test_a_batch_of_chat_prompts(tinkex, service, tmp_path):
    rows = [
        {"prompt": "Hi"},
        {"tokens": [1, 2]},
        {"messages": HI},
        {"messages": HI, "stop": ["END"]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    batch = ["run", "batch", "in.jsonl", "--ordered", "--concurrency", "1", "-q"]
    done = tinkex(*batch, "--system", "Be brief", "--output", "out.jsonl")
    expected = [(BRIEFLY, [END]), ([1, 2], None), (BRIEFLY, [END])]
    assert sent(service) == [*expected, (BRIEFLY, ["END", "<|im_end|>"])]
    lines = Path("out.jsonl").read_text().splitlines()
    found = [json.loads(line)["sequences"][0] for line in lines]
    texts = [sequence["text"] for sequence in found]
    assert texts == ["Hi there", " Hi <|x|> there", "Hi there", "Hi there"]
    assert done.stdout == ""
    # The results depend on the options.
    done = tinkex(*batch, "--output", "out.jsonl", "--resume", code=1)
    assert 'was created with --system "Be brief", but this run uses null' in done.stderr


def test_a_batch_of_a_version_without_chat_is_resumed(tinkex, tmp_path):
    (tmp_path / "in.txt").write_text("Hi\n")
    tinkex("run", "batch", "in.txt", "--output", "out.jsonl")
    record = json.loads(Path("out.batch.json").read_text())
    for name in ("chat", "system"):
        assert record["made_by"].pop(name) is None
    Path("out.batch.json").write_text(json.dumps(record))
    done = tinkex("run", "batch", "in.txt", "--output", "out.jsonl", "--resume")
    assert "already contains all results" in done.stderr


# ---------------------------------------------------------------- logprobs


TOPK = {"topk_logprobs": [[[1, -0.1], [2, -2.5]], [[8, -0.5]], None, [[END, -9.0]]]}
SCORES = {
    "prompt_logprobs": [None, -2.0],
    "topk_prompt_logprobs": [None, [[2, -1.0], [1, -2.0]]],
}


def test_logprobs_as_json(tinkex, service):
    words = ["run", "--prompt", "Hi there", "--prompt-logprobs", "--top-logprobs", "2"]
    (row,) = tinkex(*words, "-f", "json", sequence=TOPK, result=SCORES).rows
    first, second, third, fourth = row["logprobs"]
    assert (first["token"], first["token_id"], first["logprob"]) == (" Hi", 1, -0.1)
    assert first["top_logprobs"] == [
        {"token": " Hi", "token_id": 1, "logprob": -0.1},
        {"token": " there", "token_id": 2, "logprob": -2.5},
    ]
    assert (second["token"], third["top_logprobs"], fourth["token"]) == (
        " <|x|>",
        None,
        " <|im_end|>",
    )
    assert (row["prompt_logprobs"][0]["logprob"], row["prompt_logprobs"][0]["token"]) == (
        None,
        "Hi",
    )
    assert row["prompt_logprobs"][1]["logprob"] == -2.0
    (request,) = service.requests("asample")
    names = ("prompt_logprobs", "topk_prompt_logprobs", "topk_sample_logprobs")
    assert [request.body[name] for name in names] == [True, 2, 2]


def test_the_whole_response_has_the_alternatives(tinkex):
    words = ["run", "--prompt", "Hi there", "--prompt-logprobs", "--top-logprobs", "2", "--json"]
    whole = json.loads(tinkex(*words, sequence=TOPK, result=SCORES).stdout)
    assert whole["sequences"][0]["topk_logprobs"] == TOPK["topk_logprobs"]
    assert {name: whole[name] for name in SCORES} == SCORES


def test_without_options_nothing_more_is_requested_or_shown(tinkex, service):
    (row,) = tinkex("run", "--prompt", "Hi", "-f", "json").rows
    assert not {"logprobs", "prompt_logprobs"} & row.keys()
    assert not [name for name in service.requests("asample")[0].body if "logprobs" in name]


def test_on_a_terminal_the_text_is_coloured_by_surprisal(tinkex):
    done = tinkex("run", "--prompt", "Hi", "--logprobs", terminal=True)
    coloured = " Hi\x1b[36m <|x|>\x1b[0m\x1b[33m there\x1b[0m\x1b[7;31m <|im_end|>\x1b[0m\n"
    assert coloured in done.stdout
    assert "\x1b[7;31mabove 10\x1b[0m" in done.stdout
    assert '"Hi"' not in done.stdout  # no list


@pytest.mark.parametrize("terminal", [True, False])
def test_alternatives_are_listed_below_the_text(terminal, tinkex):
    words = ["run", "--prompt", "Hi there", "--prompt-logprobs", "--top-logprobs", "2"]
    done = tinkex(*words, terminal=terminal, sequence=TOPK, result=SCORES)
    text = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
    assert text.startswith(
        "Prompt:\nHi there\n"
        "  logprob    prob  token     alternatives\n"
        '                   "Hi"\n'
        '   -2.000   13.5%  " there"  " there" 36.8%  " Hi" 13.5%\n'
        "avg_logprob=-2.000\n\n"
        "Sample 1:\n"
    )
    assert '   -9.000   <0.1%  " <|im_end|>"  " <|im_end|>" <0.1%\n' in text
    assert ("\x1b" in done.stdout) is terminal


def test_a_narrow_terminal_shows_fewer_alternatives(tinkex, monkeypatch):
    monkeypatch.setenv("COLUMNS", "48")
    words = ["run", "--prompt", "Hi there", "--top-logprobs", "2"]
    done = tinkex(*words, terminal=True, sequence=TOPK)
    assert '" Hi" 90.5%' in done.stdout
    assert '" there" 8.2%' not in done.stdout


def test_without_a_tokenizer_ids_are_shown(tinkex, service, tmp_path):
    words = ["run", "--prompt-file", "ids.json", "--logprobs", "--prompt-logprobs"]
    (tmp_path / "ids.json").write_text("[1, 2]")
    argv = ["--base-url", service.url, "--api-key", "k", *words, "--base-model", "no/model"]
    tinkex("run", "--prompt", "Hi", result=SCORES)  # scripts the result
    done = invoke(argv)
    assert done.exit_code == 0, done.stderr
    assert "   -2.000   13.5%  #2     #2 36.8%  #1 13.5%\n" in done.stdout
    assert "token ids: [1, 12, 2, 11]" in done.stdout


@pytest.mark.parametrize(
    ("words", "sequence", "message"),
    [
        (["--logprobs"], {"logprobs": None}, "does not return logprobs for sampled tokens"),
        (["--top-logprobs", "3"], {}, "does not return alternatives to the sampled tokens"),
        (["--prompt-logprobs"], {}, "does not return prompt logprobs"),
    ],
)
def test_a_server_that_returns_none_is_one_clear_error(words, sequence, message, tinkex):
    done = tinkex("run", "--prompt", "Hi", *words, sequence=sequence, code=1)
    assert message in done.stderr
    assert "or use a server that returns logprobs." in done.stderr
    assert done.stdout == ""


def test_a_server_that_refuses_them_is_the_same_error(tinkex, service):
    said = {"loc": ["body", "topk_sample_logprobs"], "msg": "Extra inputs are not permitted"}
    service.on("POST", "asample", Reply({"detail": [said]}, 422))
    done = tinkex("run", "--prompt", "Hi", "--top-logprobs", "3", code=1)
    assert "does not return alternatives to the sampled tokens" in done.stderr
