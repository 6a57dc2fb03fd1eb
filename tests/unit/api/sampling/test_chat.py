"""Chat templates."""

from __future__ import annotations

import json

import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from tinkex.api import Tokenizer
from tinkex.api.sampling.chat import ChatTemplate
from tinkex.exceptions import ChatTemplateError, UsageError

HI = [{"role": "user", "content": "Hi"}]
SIMPLE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def render(source: str, messages=HI, **special: str) -> str:
    return ChatTemplate(source, special).render(messages)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SIMPLE, "user: Hi\n"),
        ("{{ bos_token }}{% if add_generation_prompt %}>{% endif %}", "<s>>"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "Hi"}]'),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{% if tools %}t{% endif %}{{ 'é' | tojson }}", '"é"'),
        ("  {% if true %}\n  a\n  {% endif %}\n", "  a\n"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_templates_are_rendered_as_transformers_renders_them(source, expected):
    assert render(source, bos_token="<s>") == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 + 'a' }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_that_fails_is_an_error_of_the_messages(source):
    with pytest.raises(UsageError, match="the chat template rejects") as caught:
        render(source)
    assert "raise_exception" not in source or "roles must alternate" in str(caught.value)


def test_generation_tags_mark_the_text_of_the_assistant():
    source = (
        "<{% for m in messages %}{% generation -%}  {{ m.content }}{% endgeneration %};{% endfor %}"
    )
    template = ChatTemplate(source, {})

    text, spans = template.render_generated([*HI, *HI])

    assert (text, [text[a:b] for a, b in spans]) == ("<Hi;Hi;", ["Hi", "Hi"])
    assert template.render([*HI, *HI]) == text
    assert ChatTemplate(SIMPLE, {}).render_generated(HI) is None


def test_an_invalid_template():
    with pytest.raises(ChatTemplateError, match="not valid"):
        ChatTemplate("{% if %}", {})


@pytest.mark.parametrize(
    "messages", [[], "hi", None, {}, ["hi"], [{"content": "x"}], [{"role": 3}], 5]
)
def test_invalid_messages_are_refused(messages):
    with pytest.raises(UsageError, match="message"):
        ChatTemplate(SIMPLE, {}).render(messages)


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


def part(text: object) -> dict[str, object]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"content": None}, "null"),
        ({}, "null"),
        ({"content": 7}, "7"),
        ({"content": True}, "true"),
        ({"content": {"text": "x"}}, '{"text": "x"}'),
        ({"content": []}, "[]"),
        ({"content": ["x"]}, '["x"]'),
        ({"content": [part(3)]}, '[{"type": "text", "text": 3}]'),
        ({"content": [part("x"), IMAGE]}, '[{"type": "text", "text": "x"}'),
        ({"content": None, "tool_calls": []}, "null"),
    ],
)
def test_content_that_is_not_text_is_refused_with_its_message(message, shown):
    messages = [*HI, {"role": "user", **message}]
    with pytest.raises(UsageError, match=r"content of message 2 must be a string") as caught:
        ChatTemplate(SIMPLE, {}).render(messages)
    assert f"not {shown}" in str(caught.value)


TYPED = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %};{% endfor %}"


@pytest.mark.parametrize(("source", "end"), [(SIMPLE, "\n"), (TYPED, ";")])
def test_text_parts_and_text_are_one_prompt_with_every_template(source, end):
    messages = [{"role": "user", "content": [part("part "), part("one")]}]
    joined = [{"role": "user", "content": "part one"}]
    assert render(source, messages) == render(source, joined)
    assert render(source, messages).endswith(f"part one{end}")
    assert messages[0]["content"] == [part("part "), part("one")]  # the caller's are unchanged


def test_a_call_of_a_tool_needs_no_content():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    source = SIMPLE + "{{ messages[1].tool_calls[0].function.name }}"
    assert render(source, [*HI, call]) == "user: Hi\nassistant: \nf"


CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
MAP = "special_tokens_map.json"
TOKENS = {"bos_token": {"content": "<b>"}, "eos_token": "<e>"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({TEMPLATE: SIMPLE}, "user: Hi\n"),
        ({CONFIG: {"chat_template": SIMPLE}}, "user: Hi\n"),
        ({CONFIG: {"chat_template": "old"}, TEMPLATE: SIMPLE}, "user: Hi\n"),
        ({CONFIG: TOKENS, TEMPLATE: "{{ bos_token }}{{ eos_token }}"}, "<b><e>"),
    ],
)
def test_where_the_template_is(tmp_path, files, expected):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)

    assert ChatTemplate.from_directory(tmp_path).render(HI) == expected


NEWER = {"added_tokens_decoder": {"0": {"content": "<e>"}}}


@pytest.mark.parametrize(
    ("config", "special", "expected"),
    [
        (TOKENS, None, "<b>|||"),
        (TOKENS, {"bos_token": "<c>"}, "<c>|||"),
        (TOKENS, {"bos_token": {"content": "<c>"}}, "<c>|||"),
        (TOKENS, {"bos_token": None}, "|||"),
        (TOKENS | NEWER, {"bos_token": "<c>"}, "<b>|||"),
        (NEWER, {"bos_token": "<c>"}, "|||"),
        ({"mask_token": "<m>", "image_token": {"content": "<i>"}}, None, "|<m>|<i>|"),
        ({"extra_special_tokens": {"image_token": "<i>", "boi": "<o>"}}, None, "||<i>|<o>"),
        ({"image_token": "x", "extra_special_tokens": {"image_token": "<i>"}}, None, "||<i>|"),
        ({"extra_special_tokens": ["<i>"]}, [], "|||"),
        ({}, {"extra_special_tokens": {"boi": "<o>"}}, "|||<o>"),
    ],
)
def test_special_tokens_of_every_file_reach_the_template(tmp_path, config, special, expected):
    """The expected values are those of transformers 5.24."""
    (tmp_path / TEMPLATE).write_text("{{ bos_token }}|{{ mask_token }}|{{ image_token }}|{{ boi }}")
    (tmp_path / CONFIG).write_text(json.dumps(config))
    if special is not None:
        (tmp_path / MAP).write_text(json.dumps(special))
    assert ChatTemplate.from_directory(tmp_path).render(HI) == expected


@pytest.mark.parametrize("config", [None, {}, {"chat_template": 3}, {"chat_template": []}])
def test_no_template(tmp_path, config):
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))

    assert ChatTemplate.from_directory(tmp_path) is None


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_an_invalid_configuration_is_reported(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(ChatTemplateError, match=r"tokenizer_config\.json"):
        ChatTemplate.from_directory(tmp_path)


def test_special_tokens_come_from_the_template_alone(tmp_path):
    inner = tokenizers.Tokenizer(WordLevel({"?": 0, "[s]": 1, "user": 2, "Hi": 3}, unk_token="?"))
    inner.pre_tokenizer = Whitespace()
    inner.add_special_tokens(["[s]"])
    inner.post_processor = TemplateProcessing(single="[s] $A", special_tokens=[("[s]", 1)])
    tokenizer = Tokenizer(inner, tmp_path)
    with pytest.raises(ChatTemplateError, match="has no chat template"):
        tokenizer.encode_messages(HI)
    (tmp_path / TEMPLATE).write_text("[s]{{ messages[0].role }}")

    assert tokenizer.encode("user") == [1, 2]
    assert tokenizer.encode_messages(HI) == [1, 2]
