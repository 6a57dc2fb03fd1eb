"""``run`` with texts and numbers that a model or a server may come up with."""

from __future__ import annotations

import json

import pytest

from tests.unit.api.conftest import Server
from tinkex.testing import invoke

#: One token each: text with characters of many kinds, and what steers a terminal.
TEXTS = ["« Bonjour\u00a0! » \u3000 \N{MAN}\u200d\N{GIRL} \U0001fae8", "\x1b[2J"]


@pytest.fixture
def tokenizer(tmp_path):
    from tokenizers import AddedToken, Tokenizer, models

    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.add_tokens([AddedToken(text, normalized=False) for text in TEXTS])
    made.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path)


@pytest.fixture
def server():
    server = Server()
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "session_heartbeat", {"type": "session_heartbeat"})
    server.on("POST", "create_sampling_session", {"sampling_session_id": "sample-1"})
    server.on("POST", "asample", {"request_id": "a"})
    yield server
    server.close()


@pytest.fixture
def sample(server, tokenizer):
    def run(*words, token=1, logprobs=(-0.5,), terminal=False):
        answer = {"tokens": [token], "logprobs": list(logprobs), "stop_reason": "stop"}
        server.on("POST", "retrieve_future", {"type": "sample", "sequences": [answer]})
        argv = ["run", "--base-model", "m", "--prompt", "x", "--tokenizer", tokenizer, *words]
        argv += ["--base-url", server.url, "--api-key", "k"]
        done = invoke(argv, terminal=terminal)
        assert done.exit_code == 0, done.stderr
        return done

    return run


@pytest.mark.parametrize("words", [[], ["-f", "value", "-c", "text"], ["-f", "csv", "-c", "text"]])
@pytest.mark.parametrize("terminal", [True, False])
def test_letters_of_all_languages_stay_as_they_are(sample, words, terminal):
    assert TEXTS[0] in sample(*words, terminal=terminal).stdout


def test_a_file_gets_the_same_from_a_terminal_as_from_a_script(sample, tmp_path):
    file = tmp_path / "out.txt"
    written = []
    for terminal in (True, False):
        sample("--output", str(file), token=2, terminal=terminal)
        written.append(file.read_text())
    assert written[0] == written[1]
    assert TEXTS[1] in written[0]
    assert TEXTS[1] not in sample(token=2, terminal=True).stdout


def test_a_mean_leaves_out_what_json_has_no_number_for(sample):
    """A token that sampling forced has the probability 0."""
    done = sample("-f", "json", logprobs=(-0.5, float("-inf")))

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    (row,) = json.loads(done.stdout, parse_constant=refuse)
    assert row["avg_logprob"] == -0.5
    assert "avg_logprob=n/a" in sample(logprobs=(float("-inf"),)).stdout
