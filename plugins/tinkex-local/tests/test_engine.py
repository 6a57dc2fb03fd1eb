"""The onnx engine on the model in the package, and the arithmetic below it."""

import dataclasses
import math

import numpy as np
import onnxruntime
import onnxruntime_genai
import pytest
from tokenizers import Tokenizer

from tinkex_local.engines import SampleSpec
from tinkex_local.engines.onnx import PIECE, OnnxEngine
from tinkex_local.engines.sampling import best, choose, log_softmax, stops_at
from tinkex_local.state.models import DEFAULT_MODEL, built_in

MODEL = built_in(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(MODEL.directory / "tokenizer.json"))


PLAIN = SampleSpec(
    tokens=(5,), num_samples=1, max_tokens=16, temperature=1.0, top_k=0, top_p=1.0, seed=1
)


@pytest.fixture(scope="module")
def sample(tokenizer):
    engine = OnnxEngine()
    prompt = tuple(tokenizer.encode("Holmes lit his pipe and").ids)
    plain = dataclasses.replace(PLAIN, tokens=prompt)

    def run(**changes):
        work = engine.sample(MODEL, dataclasses.replace(plain, **changes))
        while True:
            try:
                next(work)
            except StopIteration as stop:
                return stop.value

    run.prompt = prompt
    return run


def test_samples_depend_on_the_seed_and_their_place_alone(sample):
    two = sample(num_samples=2).sequences
    assert two[0].tokens != two[1].tokens
    assert sample(num_samples=1).sequences[0] == two[0]
    assert sample(seed=2).sequences[0] != two[0]


def test_the_text_is_alive(sample, tokenizer):
    text = tokenizer.decode(sample(max_tokens=60).sequences[0].tokens)
    assert len(text.split()) > 5
    assert "\ufffd" not in text[:-3]
    assert "Ġ" not in text


def test_greedy_ways_agree(sample):
    greedy = sample(temperature=0.0).sequences[0]
    assert sample(top_k=1, seed=99).sequences[0].tokens == greedy.tokens
    assert sample(top_p=1e-9, seed=98).sequences[0].tokens == greedy.tokens
    assert sample(temperature=1e-300, seed=97).sequences[0].tokens == greedy.tokens


class _Bare:
    """The model run by onnxruntime alone, without anything of genai or ours."""

    def __init__(self):
        self._session = onnxruntime.InferenceSession(str(MODEL.directory / "model.onnx"))
        self._past, self._read = {}, 0

    def logprobs(self, tokens):
        """Read *tokens* after those read before; return a row for each."""
        everything = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, self._read + len(tokens)), np.int64),
            "position_ids": np.arange(self._read, self._read + len(tokens), dtype=np.int64)[None],
        }
        empty = np.zeros((1, MODEL.facts.key_value_heads, 0, MODEL.facts.head_size), np.float32)
        wanted = [entry.name for entry in self._session.get_inputs()]
        everything |= {name: self._past.get(name, empty) for name in wanted if "past" in name}
        names = [entry.name for entry in self._session.get_outputs()]
        values = self._session.run(None, {name: everything[name] for name in wanted})
        answer = dict(zip(names, values, strict=True))
        self._past = {
            name.replace("present", "past_key_values"): value for name, value in answer.items()
        }
        self._read += len(tokens)
        logits = answer["logits"][0].astype(np.float64)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_logprobs_are_those_that_onnxruntime_alone_finds(sample):
    text = (sample.prompt * 20)[: PIECE - 3]
    result = sample(
        tokens=text,
        num_samples=2,
        prompt_logprobs=len(text),
        topk_prompt_logprobs=3,
        topk_sample_logprobs=3,
        top_k=50,
        temperature=0.7,  # logprobs are those of the model, whatever the temperature
    )
    rows = _Bare().logprobs(text)
    expected = [rows[at - 1][text[at]] for at in range(1, len(text))]
    assert result.prompt_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    for row, table in zip(rows, result.topk_prompt_logprobs[1:], strict=False):
        assert [logprob for _, logprob in table] == pytest.approx(np.sort(row)[-3:][::-1], abs=1e-4)
        assert all(row[token] == pytest.approx(logprob, abs=1e-4) for token, logprob in table)
    for sequence in result.sequences:
        bare = _Bare()
        row = bare.logprobs(text)[-1]
        rows = zip(sequence.tokens, sequence.logprobs, sequence.topk_logprobs, strict=True)
        for token, logprob, table in rows:
            assert logprob == pytest.approx(row[token], abs=1e-4)
            best_of_row = np.sort(row)[-3:][::-1]
            assert [value for _, value in table] == pytest.approx(best_of_row, abs=1e-4)
            assert all(row[one] == pytest.approx(value, abs=1e-4) for one, value in table)
            assert (row > row[token]).sum() < 50
            row = bare.logprobs([token])[-1]


def test_scores_do_not_depend_on_the_pieces_or_their_number(sample, monkeypatch):
    text = sample.prompt * 12
    spec = {"tokens": text, "max_tokens": 1, "topk_prompt_logprobs": 3}
    whole = sample(**spec, prompt_logprobs=len(text))
    monkeypatch.setattr("tinkex_local.engines.onnx.PIECE", 7)
    parts = sample(**spec, prompt_logprobs=len(text))
    last = sample(**spec, prompt_logprobs=2).prompt_logprobs
    assert parts.prompt_logprobs[1:] == pytest.approx(whole.prompt_logprobs[1:], abs=0.05)
    assert last[:-2] == [None] * (len(text) - 2)
    assert last[-2:] == pytest.approx(whole.prompt_logprobs[-2:], abs=0.05)
    assert len(whole.topk_prompt_logprobs) == len(text)
    assert (whole.prompt_logprobs[0], whole.topk_prompt_logprobs[0]) == (None, None)
    for row in whole.topk_prompt_logprobs[1:]:
        assert row[0][1] >= row[1][1] >= row[2][1]


@pytest.mark.parametrize("length", [2, PIECE, PIECE + 1, 2 * PIECE + 1])
@pytest.mark.parametrize("scored", [1, 3, 1000])
def test_scoring_the_prompt_does_not_change_the_continuation(sample, length, scored):
    text = (sample.prompt * 40)[:length]
    plain = sample(tokens=text, num_samples=2)
    assert sample(tokens=text, num_samples=2, prompt_logprobs=scored).sequences == plain.sequences


class _Meagre:
    """What onnxruntime-genai gives for some exports: last logits only, and no way back."""

    def __init__(self, *args):
        self._own = _GENERATOR(*args)

    def __getattr__(self, name):
        return getattr(self._own, name)

    def get_output(self, name):
        return self._own.get_output(name)[:, -1:]

    def rewind_to(self, count):
        raise RuntimeError("not supported")


_GENERATOR = onnxruntime_genai.Generator


@pytest.mark.parametrize("length", [5, PIECE + 9])
def test_a_model_that_gives_less_gives_the_same_samples(sample, length, monkeypatch):
    text = (sample.prompt * 40)[:length]
    spec = {"tokens": text, "num_samples": 2, "prompt_logprobs": 4, "topk_prompt_logprobs": 2}
    whole = sample(**spec)
    monkeypatch.setattr(onnxruntime_genai, "Generator", _Meagre)
    meagre = sample(**spec)
    assert meagre.sequences == whole.sequences
    assert meagre.prompt_logprobs[:-4] == whole.prompt_logprobs[:-4]
    assert meagre.prompt_logprobs[-4:] == pytest.approx(whole.prompt_logprobs[-4:], abs=0.1)
    assert [row and len(row) for row in meagre.topk_prompt_logprobs] == [
        row and len(row) for row in whole.topk_prompt_logprobs
    ]


def test_a_stop_ends_the_sequence_with_the_token_that_completes_it(sample, tokenizer):
    whole = sample(max_tokens=40).sequences[0]
    text = tokenizer.decode(whole.tokens)
    stop, token = text[9:13], whole.tokens[5]  # the text lies across tokens
    ended = sample(max_tokens=40, stop_strings=("never this", stop)).sequences[0]
    assert ended.stop_reason == "stop"
    assert ended.tokens == whole.tokens[: len(ended.tokens)]
    assert stop in tokenizer.decode(ended.tokens)
    assert stop not in tokenizer.decode(ended.tokens[:-1])
    ended = sample(stop_tokens=frozenset({token})).sequences[0]
    assert ended.tokens == whole.tokens[: whole.tokens.index(token) + 1]
    assert (ended.stop_reason, len(ended.logprobs)) == ("stop", len(ended.tokens))


def test_the_end_of_text_token_stops(sample):
    # The likeliest end is forced: everything else is made impossible by asking long enough.
    for seed in range(40):
        result = sample(seed=seed, temperature=1.5, max_tokens=400).sequences[0]
        if result.stop_reason == "stop":
            assert result.tokens[-1] in MODEL.facts.eos
            assert not MODEL.facts.eos & set(result.tokens[:-1])
            return
        assert len(result.tokens) == 400
    pytest.fail("no text ended by itself")


# Arithmetic


def test_log_softmax_sums_to_one_and_survives_huge_values():
    for logits in ([0.0, 1.0, 2.0], [1e4, -1e4, 0.0], [-1e30, 0.0, 0.0]):
        assert np.exp(log_softmax(np.array(logits))).sum() == pytest.approx(1)


def frequencies(count=20_000, **options):
    logprobs = log_softmax(np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15])))
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | options
    draws = [choose(logprobs, uniform=(index + 0.5) / count, **options) for index in range(count)]
    return np.bincount(draws, minlength=5) / count


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 99}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_p": 0.4}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 8 / 17, 0, 6 / 17, 3 / 17]),
        ({"temperature": 0.5}, np.square([0.1, 0.4, 0.05, 0.3, 0.15]) / 0.285),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should_be(options, expected):
    assert frequencies(**options) == pytest.approx(np.array(expected), abs=0.001)


def test_every_uniform_number_draws_a_possible_token():
    logprobs = np.array([-math.inf, 0.0, -math.inf])
    for uniform in (0.0, 0.5, math.nextafter(1.0, 0.0)):
        assert choose(logprobs, temperature=1.0, top_k=0, top_p=1.0, uniform=uniform) == 1
    assert best(np.array([-3.0, -1.0, -2.0]), 2) == [(1, -1.0), (2, -2.0)]


def test_a_special_token_can_be_named_as_a_stop_string(tokenizer):
    spec = dataclasses.replace(PLAIN, stop_strings=("<|im_end|>",))
    ended = stops_at(spec, MODEL.facts.eos, MODEL.directory)
    assert ended([500, tokenizer.token_to_id("<|im_end|>")])
    assert not ended([500, 600])
