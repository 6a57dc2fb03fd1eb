"""Stop sequences of chat models, and the text of replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tinkex.api import SampleRow, SamplingParams, Tokenizer
from tinkex.exceptions import ChatTemplateError, UsageError

#: The essential parts of published templates, and the tokens that end a reply by them.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Qwen3 writes an empty thought before the last reply.
QWEN3 = CHATML.replace(
    "{{ m.content }}",
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
)
LLAMA3 = (
    "{% for m in messages %}<|start|>{{ m.role }}<|end_header|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}"
)
#: Another token ends the last reply than the replies before it.
GPT_OSS = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}"
    "{% if loop.last and m.role == 'assistant' and not add_generation_prompt %}<|return|>"
    "{% else %}<|end|>{% endif %}{% endfor %}"
)
#: Nothing but the next question ends a reply.
GLM = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role | title }}: {{ m.content }}\n\n{% endfor %}"
#: No text but that of parts is shown.
PARTS = (
    "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}<|eot_id|>{% endfor %}"
)
TOKENS = [
    *("<|im_start|>", "<|im_end|>", "<|start|>", "<|end_header|>", "<|eot_id|>", "<|message|>"),
    *("<|return|>", "<|end|>", "<|user|>", "<|assistant|>", "</s>", "<|eos|>", "<|im_end|>x"),
]


@pytest.fixture
def tokenizer(tmp_path: Path):
    inner = tokenizers.Tokenizer(WordLevel({"?": 0, "Hi": 1, "there": 2, "User": 3}, unk_token="?"))
    inner.pre_tokenizer = Whitespace()
    inner.add_tokens([AddedToken(text, special=True) for text in TOKENS])
    inner.add_tokens([AddedToken("<think>", special=False)])

    def made(template: str, **files: object) -> Tokenizer:
        (tmp_path / "chat_template.jinja").write_text(template)
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return Tokenizer(inner, tmp_path)

    return made


@pytest.mark.parametrize(
    ("template", "tokens", "strings"),
    [
        (CHATML, ["<|im_end|>"], ()),
        (QWEN3, ["<|im_end|>"], ()),
        (LLAMA3, ["<|eot_id|>"], ()),
        (GPT_OSS, ["<|return|>"], ()),
        (GLM, ["<|user|>"], ()),
        (MISTRAL, ["</s>"], ()),
        (PARTS, ["<|eot_id|>"], ()),
        (PLAIN, [], ("\n\nUser:",)),
        (CHATML.replace("im_end", "unknown"), [], ("<|unknown|>",)),
        ("{{ messages[0].content }}", [], ()),
        ("{{ raise_exception('no') }}", [], ()),
    ],
)
def test_a_reply_ends_as_the_template_ends_one(template, tokens, strings, tokenizer):
    stops = tokenizer(template).stop_sequences
    assert list(stops.tokens.values()) == tokens
    assert stops.strings == strings


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"tokenizer_config": {"eos_token": "<|eos|>"}}, ["<|im_end|>", "<|eos|>"]),
        ({"tokenizer_config": {"eos_token": {"content": "<|im_end|>"}}}, ["<|im_end|>"]),
        ({"generation_config": {"eos_token_id": 4}}, ["<|im_end|>", "<|im_start|>"]),
        (
            {"generation_config": {"eos_token_id": [15, 5, -1, 99, "x"]}},
            ["<|im_end|>", "<|eos|>"],
        ),
        ({"generation_config": {"eos_token_id": None}}, ["<|im_end|>"]),
        ({"generation_config": [1]}, ["<|im_end|>"]),
    ],
)
def test_the_ends_of_any_text_of_the_model_are_included(files, ends, tokenizer):
    assert list(tokenizer(CHATML, **files).stop_sequences.tokens.values()) == ends


def test_a_configuration_that_cannot_be_read_is_reported(tokenizer, tmp_path):
    made = tokenizer(CHATML)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ChatTemplateError, match="generation_config"):
        _ = made.stop_sequences


@pytest.mark.parametrize(
    ("template", "own", "stop"),
    [
        (CHATML, (), (5,)),
        (CHATML, (7, 5), (7, 5)),
        (CHATML, ("END",), ("END", "<|im_end|>")),
        (PLAIN, (), ("\n\nUser:",)),
        (PLAIN, ("END",), ("END", "\n\nUser:")),
    ],
)
def test_they_are_added_to_the_stop_sequences_of_the_caller(template, own, stop, tokenizer):
    params = tokenizer(template).stop_sequences.added_to(SamplingParams(seed=3, stop=own))
    assert (params.stop, params.seed) == (stop, 3)
    assert params.body()["stop"] == list(stop)


def test_token_ids_of_the_caller_cannot_be_combined_with_strings(tokenizer):
    with pytest.raises(UsageError, match="stop must contain strings"):
        tokenizer(PLAIN).stop_sequences.added_to(SamplingParams(stop=(7,)))


@pytest.mark.parametrize(
    ("template", "tokens", "text"),
    [
        (CHATML, [1, 2, 5], "Hi there"),
        (CHATML, [1, 8, 2, 5, 15], "Hi there"),  # special tokens are left out
        (CHATML, [17, 1, 5], "<think> Hi"),  # an ordinary token of the model's text
        (CHATML, [5], ""),
        (GLM, [1, 12], "Hi"),
        (CHATML.replace("<|im_end|>", " there"), [1, 2], "Hi "),
    ],
)
def test_a_reply_is_shown_without_its_end(template, tokens, text, tokenizer):
    assert tokenizer(template).decode_reply(tokens) == text


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (
            "<|channel|>analysis<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>there",
            "there",
        ),
        ("<|channel|>final<|message|>Hi there", "Hithere"),
        ("<|channel|>analysis<|message|>Hi", "analysisHi"),  # it was cut off
    ],
)
def test_of_a_reply_in_channels_the_final_one_is_shown(reply, text, tmp_path):
    words = ["?", "Hi", "there", "analysis", "final", "assistant"]
    inner = tokenizers.Tokenizer(WordLevel({w: n for n, w in enumerate(words)}, unk_token="?"))
    inner.pre_tokenizer = Whitespace()
    names = ("channel", "message", "end", "start", "return")
    inner.add_tokens([AddedToken(f"<|{name}|>", special=True) for name in names])
    inner.decoder = Fuse()
    (tmp_path / "chat_template.jinja").write_text(GPT_OSS)
    tokens = inner.encode(f"{reply}<|return|>").ids
    shown = Tokenizer(inner, tmp_path).decode_reply(tokens)
    assert shown == text


def test_a_batch_stops_replies_to_messages_at_the_end_of_turn(tokenizer, sampling, sampler):
    hi = [{"role": "user", "content": "Hi"}]
    rows = [SampleRow(hi), SampleRow("Hi", SamplingParams(stop=["."])), SampleRow(hi)]
    made = tokenizer(CHATML)
    assert all(r.response for r in sampling.sample_many(rows, tokenizer=made, concurrency=1))
    stops = [seen.body["sampling_params"].get("stop") for seen in sampler.submitted]
    assert sorted(stops, key=str) == [["."], [5], [5]]
