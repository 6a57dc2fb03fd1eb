"""``api``: fields of a request, and standard input."""

from __future__ import annotations

import io

import pytest

from tinkex.commands.api import build_object, field_value, split_field
from tinkex.exceptions import LocalError, UsageError
from tinkex.testing import invoke


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x", "x"),
        ("", ""),
        ("true", True),
        ("null", None),
        ("True", "True"),
        ("12", 12),
        ("-1.5e3", -1500.0),
        ("0012", "0012"),
        ("1_000", "1_000"),
        ("NaN", "NaN"),
        *(("1e999", "1e999"), ("[NaN]", "[NaN]")),  # which JSON has not
        ('{"a": [1]}', {"a": [1]}),
        ("[broken", "[broken"),
        ("a=b", "a=b"),
    ],
)
def test_values(text, value):
    result = field_value(text, None)
    assert (result, type(result)) == (value, type(value))


def test_values_from_files_and_standard_input(tmp_path):
    (tmp_path / "f").write_text("12\n")
    assert field_value(f"@{tmp_path / 'f'}", None) == "12\n"
    assert field_value("@-", io.StringIO("in")) == "in"
    with pytest.raises(LocalError):
        field_value("@/no/such", None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a[b]=1", "a[c][d]=2"], {"a": {"b": "1", "c": {"d": "2"}}}),
        (["a[]=1", "a[]=2"], {"a": ["1", "2"]}),
        (["a[][x]=1", "a[][y]=2", "a[][x]=3"], {"a": [{"x": "1", "y": "2"}, {"x": "3"}]}),
        (["a==", "b="], {"a": "=", "b": ""}),
    ],
)
def test_nesting(fields, expected):
    assert build_object(map(split_field, fields)) == expected


@pytest.mark.parametrize("field", ["", "a", "=1", "[a]=1", "a[=1", "a]=1", "a[b]c=1"])
def test_what_is_no_field(field):
    with pytest.raises(UsageError, match="invalid field"):
        split_field(field)


@pytest.mark.parametrize(
    "fields", [["a=1", "a=2"], ["a=1", "a[b]=2"], ["a[]=1", "a[b]=2"], ["a[b]=1", "a[]=2"]]
)
def test_contradictions(fields):
    with pytest.raises(UsageError):
        build_object(map(split_field, fields))


@pytest.mark.parametrize(
    "words",
    [
        ["--input", "-", "--api-key", "-"],
        ["--input", "-", "-F", "a=@-"],
        ["-F", "a=@-", "-F", "b=@-"],
        ["-F", "a=@-", "--api-key", "-"],
    ],
)
def test_standard_input_has_one_reader(words):
    done = invoke(["api", "POST", "x", *words, "--base-url", "http://127.0.0.1:9"], stdin="k\n{}")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "only one of --input, --field and --api-key can read from standard input" in done.stderr
