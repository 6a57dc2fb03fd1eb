"""Supervised examples: which tokens of a row are trained."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from tinkex.api import ExampleBuilder, SupervisedExample, SupervisedRow, Tokenizer
from tinkex.api.sampling.dataset import parse_row
from tinkex.exceptions import ChatTemplateError, UsageError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Removes the reasoning of earlier replies, as Qwen3.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: The prompt begins the reasoning, which the conversation does not contain, as DeepSeek R1.
THINKING = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user {{ m.content }}{% else %}"
    "<|im_start|>assistant {{ m.content.split('</think>')[-1] | trim }}<|im_end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant <think>\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TAGGED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)
#: Its text depends on the tags: they are not used.
MEASURING = (
    "{% for m in messages %}{% set x %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endset %}{{ x | length }}{{ x }}{% endfor %}"
)
WITH_TOOLS = "{% if tools %}[{{ tools[0].name }}]{% endif %}" + CHATML


@pytest.fixture(scope="module")
def inner() -> tokenizers.Tokenizer:
    """A tokenizer of bytes in which two newlines are one token, and so is `` ab``."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["\n\n\n\n" * 9, " ab ab" * 9], trainer)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    made.add_special_tokens([AddedToken(text, special=True) for text in special])
    return made


@pytest.fixture
def tokenizer(inner: tokenizers.Tokenizer, tmp_path: Path):
    """Return a function that returns the tokenizer with a chat template."""

    def with_template(source: str | None = None) -> Tokenizer:
        config = {"eos_token": "<|endoftext|>", "chat_template": source}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return Tokenizer(inner, tmp_path)

    return with_template


def row(content: dict) -> SupervisedRow:
    return SupervisedRow("d.jsonl, line 1", parse_row(content), content)


def conversation(*texts: str, **flags: list) -> SupervisedRow:
    """Return a row in which the user begins; *flags* are members of the replies."""
    roles = [("user", "assistant")[i % 2] for i in range(len(texts))]
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    for name, values in flags.items():
        for message, value in zip(messages[1::2], values, strict=True):
            message[name] = value
    return row({"messages": messages})


def shown(tokenizer: Tokenizer, example: SupervisedExample) -> str:
    """Return the text of *example* with its trained tokens in brackets."""
    assert len(example.tokens) == len(example.weights)
    pieces = []
    for weight, pairs in groupby(zip(example.tokens, example.weights, strict=True), lambda p: p[1]):
        text = tokenizer.decode([token for token, _ in pairs], strip_end=False)
        pieces.append(f"[{text}]" if weight else text)
    return "".join(pieces).replace("<|im_start|>", "<").replace("<|im_end|>", ">")


A = "<user\nhi>\n<assistant\n"


@pytest.mark.parametrize(
    ("template", "texts", "expected"),
    [
        (CHATML, ["hi", "ho"], [A + "[ho>]"]),
        (CHATML, ["hi", "ho", "hu", "ha"], [A + "[ho>]\n<user\nhu>\n<assistant\n[ha>]"]),
        (CHATML, ["hi", "ho", "hu"], [A + "[ho>]"]),
        (CHATML, ["hi", ""], [A + "[>]"]),
        (CHATML, ["hé", "🜚 ǆ"], ["<user\nhé>\n<assistant\n[🜚 ǆ>]"]),
        (CHATML, ["ab", "\nab"], ["<user\nab>\n<assistant\n[\nab>]"]),
        (TAGGED, ["hi", "ho", "hu", "ha"], [A + "[ho>]\n<user\nhu>\n<assistant\n[ha>]"]),
        (TAGGED, ["hi", "\nho"], [A + "[\nho>]"]),
        (
            PLAIN,
            ["hi", "ho", "hu", "ha"],
            ["user: hi\nassistant: [ho\n]user: hu\nassistant: [ha\n]"],
        ),
        (
            FORGETFUL,
            ["hi", "<think>x</think>\n\nho", "hu", "<think>y</think>\n\nha"],
            [
                A + "[<think>x</think>\n\nho>]",
                A + "ho>\n<user\nhu>\n<assistant\n[<think>y</think>\n\nha>]",
            ],
        ),
        (FORGETFUL, ["hi", "ho", "hu", "ha"], [A + "[ho>]\n<user\nhu>\n<assistant\n[ha>]"]),
        (
            THINKING,
            ["hi", "ho", "hu", "<x>"],
            ["<user hi<assistant [ho>]<user hu<assistant [<x>>]"],
        ),
        (WITH_TOOLS, ["hi", "ho"], [A + "[ho>]"]),
        (MEASURING, ["hi", "ho"], ["2hi[2ho]"]),
    ],
)
def test_replies_are_trained_with_their_end(tokenizer, template, texts, expected):
    known = tokenizer(template)

    examples = ExampleBuilder(known).build(conversation(*texts))

    assert [shown(known, example) for example in examples] == expected


@pytest.mark.parametrize("template", [CHATML, TAGGED])
@pytest.mark.parametrize(
    ("train_on", "flags", "expected"),
    [
        ("assistant", {}, A + "[ho>]\n<user\nhu>\n<assistant\n[ha>]"),
        ("last", {}, A + "ho>\n<user\nhu>\n<assistant\n[ha>]"),
        ("all", {}, "<[user\nhi>\n<assistant\nho>\n<user\nhu>\n<assistant\nha>\n]"),
        ("last", {"weight": [1, 0]}, A + "[ho>]"),
        ("all", {"trainable": [False, True]}, A + "ho>\n<user\nhu>\n<assistant\n[ha>]"),
    ],
)
def test_which_messages_are_trained(tokenizer, template, train_on, flags, expected):
    known = tokenizer(template)

    (example,) = ExampleBuilder(known, train_on=train_on).build(
        conversation("hi", "ho", "hu", "ha", **flags)
    )

    assert shown(known, example) == expected


def test_a_prompt_is_tokenized_as_it_is_for_sampling(tokenizer):
    known = tokenizer(CHATML)
    messages = conversation("hi", "\n\nab").source["messages"]

    (example,) = ExampleBuilder(known).build(row({"messages": messages}))

    prompt = known.encode_messages(messages[:1])
    assert list(example.tokens[: len(prompt)]) == prompt
    assert example.weights == bytes([0] * len(prompt) + [1] * example.num_trained)


def test_tools_and_conversations_that_the_assistant_begins(tokenizer):
    known = tokenizer(WITH_TOOLS)
    messages = [{"role": "assistant", "content": "ho"}]

    (example,) = ExampleBuilder(known).build(row({"messages": messages, "tools": [{"name": "f"}]}))

    assert shown(known, example) == "[f]<assistant\n[ho>]"


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("hi", " ho", "hi[ ho<|endoftext|>]"),
        ("hi\n", "\nab", "hi\n[\nab<|endoftext|>]"),
        ("hi", "ho<|endoftext|>", "hi[ho<|endoftext|>]"),
        ("", "ho", "h[o<|endoftext|>]"),
    ],
)
def test_completions(tokenizer, prompt, completion, expected):
    known = tokenizer()
    content = row({"prompt": prompt, "completion": completion})

    (example,) = ExampleBuilder(known).build(content)
    (without,) = ExampleBuilder(known, end_completions=False).build(content)

    assert shown(known, example) == expected
    assert shown(known, without).removesuffix("]") in expected
    assert list(example.tokens[: len(known.encode(prompt))]) == known.encode(prompt)


def test_a_long_text_becomes_examples_that_predict_each_token_once(tokenizer):
    known = tokenizer()
    text = "the quick brown fox"

    whole = ExampleBuilder(known).build(row({"text": text}))
    pieces = ExampleBuilder(known, max_length=5).build(row({"text": text}))

    assert [shown(known, example) for example in whole] == ["t[he quick brown fox]"]
    assert [shown(known, example) for example in pieces] == [
        *("t[he q]", "q[uick]", "k[ bro]", "o[wn f]", "f[ox]")
    ]
    assert not any(example.is_truncated for example in pieces)


def test_other_examples_lose_tokens_at_the_end(tokenizer):
    known = tokenizer(CHATML)
    size = len(known.encode_messages([{"role": "user", "content": "hi"}]))

    (example,) = ExampleBuilder(known, max_length=size + 1).build(conversation("hi", "ho"))

    assert (shown(known, example), example.is_truncated) == (A + "[h]", True)
    (example,) = ExampleBuilder(known, max_length=size + 3).build(conversation("hi", "ho"))
    assert (shown(known, example), example.is_truncated) == (A + "[ho>]", False)
    words = rf"line 1: no token to train on in the first {size} tokens"
    with pytest.raises(UsageError, match=words):
        ExampleBuilder(known, max_length=size).build(conversation("hi", "ho"))
    with pytest.raises(UsageError, match="at least 2 tokens, not 1"):
        ExampleBuilder(known, max_length=1)


@pytest.mark.parametrize(
    ("template", "content", "message"),
    [
        (CHATML, {"text": "x"}, "no token to train on"),
        (CHATML, {"messages": [{"role": "user", "content": "x"}]}, "no assistant message"),
        (
            CHATML,
            {"messages": [{"role": "user", "content": "x", "trainable": True}]},
            "only on assistant messages",
        ),
        ("{{ raise_exception('no') }}", conversation("a", "b").source, "template rejects .* no"),
        (TAGGED, conversation("a", "\ufdd0").source, "contain the characters U"),
        (CHATML, conversation("a", "\udcff").source, "not valid Unicode"),
    ],
)
def test_rows_without_an_example(tokenizer, template, content, message):
    with pytest.raises(UsageError, match=rf"^d\.jsonl, line 1: .*{message}"):
        ExampleBuilder(tokenizer(template)).build(row(content))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content }}", "does not render message 2 unchanged"),
        (CHATML.replace("m.content", "m.content | upper"), "does not render message 2 unchanged"),
        (
            CHATML.replace("{% for", "{% if add_generation_prompt %}Reply{% endif %}{% for", 1),
            "the prompt for message 2 is not a prefix",
        ),
    ],
)
def test_templates_that_do_not_show_the_reply_are_refused(tokenizer, template, message):
    with pytest.raises(ChatTemplateError, match=message):
        ExampleBuilder(tokenizer(template)).build(conversation("hi", "ho"))


def test_a_tokenizer_without_a_template(tokenizer):
    with pytest.raises(ChatTemplateError, match="no chat template"):
        ExampleBuilder(tokenizer()).build(conversation("hi", "ho"))
