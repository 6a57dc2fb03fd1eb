"""``run`` with texts and numbers that a model or a server may return."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from tests.unit.api.conftest import Server
from tinkex.testing import invoke

#: One token each: text with characters of many kinds, and a control sequence.
TEXTS = ["« Bonjour\u00a0! » \u3000 \N{MAN}\u200d\N{GIRL} \U0001fae8", "\x1b[2J"]


@pytest.fixture
def sample(tmp_path):
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.add_tokens([AddedToken(text, normalized=False) for text in TEXTS])
    made.save(str(tmp_path / "tokenizer.json"))
    server = Server()
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "create_sampling_session", {"sampling_session_id": "sample-1"})
    server.on("POST", "asample", {"request_id": "a"})

    def run(*words, token=1, logprobs=(-0.5,), terminal=False, command=("run", "--prompt", "x")):
        sequence = {"tokens": [token], "logprobs": list(logprobs), "stop_reason": "stop"}
        server.on("POST", "retrieve_future", {"type": "sample", "sequences": [sequence]})
        argv = [*command, "--base-model", "m", "--tokenizer", str(tmp_path), *words]
        done = invoke([*argv, "--base-url", server.url, "--api-key", "k"], terminal=terminal)
        assert done.exit_code == 0, done.stderr
        return done

    yield run
    server.close()


@pytest.mark.parametrize("words", [[], ["-f", "value", "-c", "text"], ["-f", "csv", "-c", "text"]])
@pytest.mark.parametrize("terminal", [True, False])
def test_letters_of_all_languages_stay_unchanged(sample, words, terminal):
    assert TEXTS[0] in sample(*words, terminal=terminal).stdout


def test_the_first_space_of_the_text_is_kept(sample, tmp_path):
    file = str(tmp_path / "tokenizer.json")
    inner = Tokenizer.from_file(file)
    inner.add_tokens([AddedToken("▁there", normalized=False)])
    inner.decoder = decoders.Metaspace()
    inner.save(file)
    (row,) = json.loads(sample("-f", "json", token=3).stdout)
    assert row["text"] == " there"
    (tmp_path / "in.txt").write_text("x\n")
    line = json.loads(sample(token=3, command=["run", "batch", str(tmp_path / "in.txt")]).stdout)
    assert line["sequences"][0]["text"] == " there"


def test_a_file_has_the_same_content_on_a_terminal_and_in_a_script(sample, tmp_path):
    file = tmp_path / "out.txt"
    written = []
    for terminal in (True, False):
        sample("--output", str(file), token=2, terminal=terminal)
        written.append(file.read_text())
    assert written[0] == written[1]
    assert TEXTS[1] in written[0]
    assert TEXTS[1] not in sample(token=2, terminal=True).stdout


def test_the_mean_omits_numbers_that_json_does_not_have(sample):
    (row,) = json.loads(sample("-f", "json", logprobs=(-0.5, float("-inf"))).stdout)
    assert row["avg_logprob"] == -0.5
    assert "avg_logprob=n/a" in sample(logprobs=(float("-inf"),)).stdout


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_control_sequence_of_a_scored_token_reaches_a_terminal(sample, monkeypatch, no_color):
    monkeypatch.setenv("NO_COLOR", no_color)
    done = sample("--logprobs", token=2, terminal=True)
    assert "\N{REPLACEMENT CHARACTER}[2J" in done.stdout
    assert TEXTS[1] not in done.stdout
    assert ("surprisal" in done.stdout) is (not no_color)
