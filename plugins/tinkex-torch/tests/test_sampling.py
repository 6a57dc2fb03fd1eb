"""Sampled text and its logprobs are those of transformers and PEFT."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.training import MODEL, finish, sample_spec
from tinkex_torch import sampling
from tinkex_torch.engine import BUILT_IN

pytestmark = pytest.mark.train


def sampled(engine: Any, adapter: Path | None = None, **changes: Any) -> Any:
    return finish(engine.sample(MODEL, sample_spec(**changes), adapter))


def expected_logprobs(model: Any, tokens: list[int]) -> Any:
    """Return the log-probabilities of all tokens of the vocabulary after each of *tokens*."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), -1).numpy()


@pytest.fixture(scope="module")
def prompt() -> tuple[int, ...]:
    """Return a prompt longer than what is processed at once."""
    return tuple(int(token) for token in np.random.default_rng(2).integers(3, 2048, 600))


@pytest.mark.parametrize("adapted", [True, False])
def test_logprobs_equal_those_of_transformers(adapted, engine, trained, reference, prompt):
    result = sampled(
        engine,
        trained if adapted else None,
        tokens=prompt,
        num_samples=3,
        prompt_logprobs=599,
        topk_prompt_logprobs=4,
        topk_sample_logprobs=3,
    )
    with nullcontext() if adapted else reference.disable_adapter():
        for sequence in result.sequences:
            logprobs = expected_logprobs(reference, [*prompt, *sequence.tokens])
            after = logprobs[len(prompt) - 1 : -1]
            own = [row[token] for row, token in zip(after, sequence.tokens, strict=True)]
            assert sequence.logprobs == pytest.approx(own, abs=1e-4)
            for row, table in zip(after, sequence.topk_logprobs, strict=True):
                values = [value for _, value in table]
                assert values == pytest.approx(np.sort(row)[:-4:-1], abs=1e-4)
                assert values == pytest.approx([row[token] for token, _ in table], abs=1e-4)
    assert len({tuple(sequence.tokens) for sequence in result.sequences}) == 3
    scores, tables = result.prompt_logprobs, result.topk_prompt_logprobs
    assert (scores[0], tables[0], len(scores), len(tables)) == (None, None, 600, 600)
    own = [logprobs[index, token] for index, token in enumerate(prompt[1:])]
    assert scores[1:] == pytest.approx(own, abs=1e-4)
    for row, table in zip(logprobs, tables[1:], strict=False):
        assert [value for _, value in table] == pytest.approx(np.sort(row)[:-5:-1], abs=1e-4)


def test_the_end_of_a_prompt_can_be_scored_alone(engine, prompt):
    whole = sampled(engine, tokens=prompt, max_tokens=1, prompt_logprobs=599).prompt_logprobs
    for count in (1, 87, 88, 89, 300):  # on both sides of the pieces
        end = sampled(engine, tokens=prompt, max_tokens=1, prompt_logprobs=count).prompt_logprobs
        assert end[:-count] == [None] * (600 - count)
        assert end[-count:] == pytest.approx(whole[-count:], abs=1e-4)


def test_a_sequence_depends_only_on_the_seed_and_its_number(engine, trained, monkeypatch):
    alone = sampled(engine, trained, max_tokens=24).sequences
    together = sampled(engine, trained, max_tokens=24, num_samples=5).sequences
    monkeypatch.setattr(sampling, "TOGETHER", 2)
    groups = sampled(engine, trained, max_tokens=24, num_samples=5).sequences
    assert [s.tokens for s in groups] == [s.tokens for s in together]
    assert together[0].tokens == alone[0].tokens
    assert len({tuple(s.tokens) for s in together}) == 5
    other = sampled(engine, trained, max_tokens=24, seed=6).sequences
    assert other[0].tokens != alone[0].tokens


def test_the_most_likely_tokens_are_those_that_transformers_generates(engine, trained, reference):
    found = sampled(engine, trained, temperature=0.0, max_tokens=20).sequences[0]
    with torch.no_grad():
        generated = reference.generate(
            input_ids=torch.tensor([[500, 600, 700]]), max_new_tokens=20, do_sample=False
        )
    assert found.tokens == generated[0, 3:].tolist()


def test_sequences_of_a_request_stop_separately(engine):
    free = sampled(engine, num_samples=6, max_tokens=30).sequences
    token = free[2].tokens[4]
    stopped = sampled(
        engine, num_samples=6, max_tokens=30, stop_tokens=frozenset({token})
    ).sequences
    for one, other in zip(free, stopped, strict=True):
        where = one.tokens.index(token) + 1 if token in one.tokens else 30
        assert other.tokens == one.tokens[:where]
        assert other.stop_reason == ("stop" if where < 30 else "length")
        assert other.logprobs == pytest.approx(one.logprobs[:where], abs=1e-4)
    assert {s.stop_reason for s in stopped} == {"stop", "length"}


def test_stop_strings_end_a_sequence(engine):
    tokenizer = Tokenizer.from_file(str(BUILT_IN[MODEL.name] / "tokenizer.json"))
    free = sampled(engine, max_tokens=30).sequences[0]
    text = tokenizer.decode(free.tokens[10:13])
    stopped = sampled(engine, max_tokens=30, stop_strings=(text,)).sequences[0]
    assert stopped.tokens == free.tokens[: len(stopped.tokens)]
    assert stopped.stop_reason == "stop"
    assert text in tokenizer.decode(stopped.tokens)
    assert text not in tokenizer.decode(stopped.tokens[:-1])


def test_requests_that_alternate_do_not_disturb_each_other(engine, trained):
    specs = [(trained, 1), (None, 2), (trained, 3)]
    alone = [sampled(engine, adapter, seed=seed).sequences for adapter, seed in specs]
    running = [engine.sample(MODEL, sample_spec(seed=seed), adapter) for adapter, seed in specs]
    results: dict[int, Any] = {}
    while len(results) < len(running):
        for index, steps in enumerate(running):
            try:
                if index not in results:
                    next(steps)
            except StopIteration as stop:
                results[index] = stop.value.sequences
    assert [results[index] for index in range(3)] == alone
