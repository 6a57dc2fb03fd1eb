"""What people and files give: whatever it is, it is understood or refused in one sentence."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tinkex import settings
from tinkex.api.paths import TinkerPath
from tinkex.cli.repl import parse, unfinished
from tinkex.columns import Size, iso, printable, relative
from tinkex.commands.inputs import (
    nearly_token_ids,
    read_messages,
    read_model_path,
    read_prompt,
)
from tinkex.config import prices
from tinkex.config.credentials import checked, read_argument
from tinkex.config.values import parse_timeout
from tinkex.exceptions import TinkexError, UsageError

TEXT = st.text(max_size=60)
SEGMENT = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@contextlib.contextmanager
def only_our_errors():
    """Let our errors pass as the answer they are: one line that can be shown."""
    try:
        yield
    except TinkexError as error:
        sentence = error.sentence("It")
        assert sentence
        assert "\n" not in printable(sentence)


@given(
    st.builds(
        "tinker://{}/{}/{}".format,
        SEGMENT,
        st.sampled_from(["weights", "sampler_weights", "external_weights", "x"]),
        SEGMENT,
    )
    | TEXT
    | TEXT.map("tinker://".__add__)
)
@example("tinker://a/../b")
@example("tinker://a/weights/..")
def test_a_path_is_parsed_exactly_or_rejected(tried, text):
    tried()
    try:
        path = TinkerPath.from_string(text)
    except UsageError:
        return
    assert TinkerPath.from_string(str(path)) == path
    assert not {"", ".", ".."} & {path.run_id, path.name}
    assert "/" not in path.run_id + path.name


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'{"tokens": [1, 2.0]}')
@example(b"\xef\xbb\xbf[1]")
@example(b"line\r\n")
@example(b"[" * 5000)
def test_a_prompt_file_is_read_as_text_or_token_ids(tried, tmp_path_factory, content):
    tried()
    file = tmp_path_factory.getbasetemp() / "prompt"
    file.write_bytes(content)
    with only_our_errors():
        prompt = read_prompt(None, str(file))
        assert prompt
        if isinstance(prompt, list):
            assert all(type(token) is int and 0 <= token < 2**31 for token in prompt)
        else:
            assert not prompt.endswith("\n")
            nearly_token_ids(prompt)


@given(JSON | TEXT)
def test_metadata_names_a_model_or_is_rejected(tried, tmp_path_factory, value):
    tried()
    file = tmp_path_factory.getbasetemp() / "metadata.json"
    text = value if isinstance(value, str) else json.dumps(value)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    with only_our_errors():
        known = read_model_path(str(file))
        assert known.tinker_path or known.base_model


SETTING = st.sampled_from(
    ["base_url", "api_key", "timeout", "http_pool", "format", "tags", "allow_http", "project_id"]
)


@given(
    JSON
    | st.fixed_dictionaries(
        {"profiles": st.fixed_dictionaries({"p": st.dictionaries(SETTING, JSON) | JSON})},
        optional={"profile": JSON},
    )
)
def test_a_configuration_file_is_accepted_or_rejected(tried, tmp_path_factory, value):
    tried()
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(yaml.safe_dump(value), encoding="utf-8")
    environ = {"TINKEX_CONFIG": str(file), "HOME": str(file.parent)}
    for flags in ({"profile": "p"}, {}):
        with only_our_errors():
            found = settings.resolve(flags, environ)
            assert found.timeout > 0
            hash(found)


@given(st.binary(max_size=80))
def test_a_damaged_configuration_file_is_rejected(tried, tmp_path_factory, content):
    tried()
    file = tmp_path_factory.getbasetemp() / "damaged.yaml"
    file.write_bytes(content)
    with only_our_errors():
        settings.resolve({}, {"TINKEX_CONFIG": str(file), "HOME": str(file.parent)})


@given(TEXT | st.integers() | st.floats() | st.from_regex(r"-?\d{1,400}(\.\d*)?(ms|s|m|h)?"))
@example("nan")
@example("inf")
@example("1e400s")
@example("²s")
def test_a_timeout_is_a_usable_number_or_rejected(tried, value):
    tried()
    with contextlib.suppress(TinkexError, ValueError):
        seconds = parse_timeout(value)
        assert 0 < seconds < float("inf")


@given(TEXT)
@example("run list | head")
@example("run list > 'a b'")
@example("run list \\")
def test_a_shell_line_is_parsed_or_rejected(tried, text):
    tried()
    unfinished(text)
    with only_our_errors():
        line = parse(text)
        assert all(isinstance(word, str) for word in line.words)


@given(st.integers(min_value=0, max_value=2**80) | st.none())
def test_a_size_is_displayed_briefly_and_exported_exactly(tried, size):
    tried()
    column = Size(size)
    assert column.machine_readable() == size
    assert len(str(column.human_readable())) < 30


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(timezones=st.just(UTC)),
)
def test_a_relative_time_is_shown_for_any_two_times(tried, moment, now):
    tried()
    assert relative(moment, now)
    assert datetime.fromisoformat(iso(moment)) - moment < timedelta(seconds=1)


@given(st.text(max_size=200))
@example("\x1b]8;;http://evil\x07click\x1b]8;;\x07")
@example("\u202egpj.exe")
@example("\ud800")
def test_no_output_contains_control_characters(tried, text):
    tried()
    shown = printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown if c not in "\n\t")
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    shown.encode()


def test_a_key_file_contains_a_valid_key_or_is_rejected(tried, tmp_path):
    for content in (b"", b"\n", b"\xff\xfe", b"a b\n", b"k\x00y", b"tml-x\r\n", b"a\nb\n"):
        tried()
        file = Path(tmp_path, "key")
        file.write_bytes(content)
        with contextlib.suppress(TinkexError):
            key = checked(read_argument(f"@{file}", None))
            assert key.isascii()
            assert key.isprintable()
            assert key.strip() == key != ""


@pytest.fixture(autouse=True)
def no_terminal_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


LISTED = st.dictionaries(st.sampled_from(["prefill", "cached", "sample", "train", "x"]), JSON)


@given(
    st.binary(max_size=60)
    | st.builds(dict, date=st.text(max_size=5), models=st.builds(dict, m=JSON | LISTED)).map(
        lambda value: json.dumps(value).encode()
    )
)
@example(b'{"date": "x", "models": {"m": {"train": 1e999}}}')
@example(b"[" * 5000)
def test_a_price_list_has_prices_or_is_rejected(tried, content):
    tried()
    with only_our_errors():
        found = prices.parse(content, "prices.json", "m")
        known = (found.prefill, found.cached, found.sample, found.train)
        assert all(price is None or 0 <= price < float("inf") for price in known)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'[{"role": "user", "content": [{"type": "text", "text": "x"}]}]')
def test_a_message_file_is_a_conversation_or_is_rejected(tried, tmp_path_factory, content):
    tried()
    file = tmp_path_factory.getbasetemp() / "messages"
    file.write_bytes(content)
    with only_our_errors():
        for message in read_messages(str(file)):
            assert isinstance(message["role"], str)
            assert isinstance(message["content"], str)
