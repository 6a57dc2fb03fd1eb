"""Rows of data sets: their layouts, and the errors of malformed rows."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tinkex.api import SupervisedRow, read_supervised_rows
from tinkex.api.sampling.dataset import Completion, Conversation, Text
from tinkex.exceptions import LocalError, UsageError

USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}


def read(*rows: Any, layout: str | None = None) -> list[SupervisedRow]:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return list(read_supervised_rows(io.BytesIO("\n".join(lines).encode()), "d.jsonl", layout))


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"text": "abc", "id": 7}, Text("abc")),
        ({"prompt": "a", "completion": "b"}, Completion("a", "b")),
        ({"messages": [USER, REPLY]}, Conversation([USER, REPLY])),
        (
            {"messages": [USER, {**REPLY, "weight": 0}, USER, REPLY], "tools": [{"name": "f"}]},
            Conversation([USER, REPLY, USER, REPLY], [False, False, False, True], [{"name": "f"}]),
        ),
        (
            {"messages": [{**USER, "trainable": False}, {**REPLY, "trainable": True}]},
            Conversation([USER, REPLY], [False, True]),
        ),
        (
            {"prompt": [USER], "completion": [REPLY]},
            Conversation([USER, REPLY], [False, True]),
        ),
        ({"instruction": "Hi", "output": "Ho", "input": ""}, Conversation([USER, REPLY])),
        (
            {"instruction": "Add", "input": "1 2", "output": "3", "system": "S"},
            Conversation(
                [
                    {"role": "system", "content": "S"},
                    {"role": "user", "content": "Add\n\n1 2"},
                    {"role": "assistant", "content": "3"},
                ]
            ),
        ),
        (
            {
                "system": "S",
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Ho"},
                    {"from": "observation", "value": "O"},
                ],
            },
            Conversation(
                [
                    {"role": "system", "content": "S"},
                    USER,
                    REPLY,
                    {"role": "tool", "content": "O"},
                ]
            ),
        ),
    ],
)
def test_layouts(row, content):
    (found,) = read(row)

    assert found == SupervisedRow("d.jsonl, line 1", content, row)


def test_lines_and_arrays_and_blank_lines():
    rows = [{"text": "a"}, {"text": "b"}]

    lines = read("\ufeff" + json.dumps(rows[0]), "", json.dumps(rows[1]) + "\r", " ")
    array = read(json.dumps(rows, indent=1))

    assert [(row.where, row.source) for row in lines] == [
        ("d.jsonl, line 1", rows[0]),
        ("d.jsonl, line 3", rows[1]),
    ]
    assert [(row.where, row.source) for row in array] == [
        ("d.jsonl, row 1", rows[0]),
        ("d.jsonl, row 2", rows[1]),
    ]
    assert read() == []


def test_a_layout_that_is_given_decides():
    row = {"instruction": "Hi", "output": "Ho", "text": "### Hi"}

    assert read(row, layout="text")[0].content == Text("### Hi")
    assert read(row, layout="alpaca")[0].content == Conversation([USER, REPLY])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"line 2: not JSON: Expecting property name[^:]* \(column 2\)$"),
        ("[" * 100_000, "line 2: not JSON: it is nested too deeply"),
        ("[1]", r"line 2: a row must be a JSON object, not \[1\]"),
        ('"x"', 'line 2: a row must be a JSON object, not "x"'),
        ({"txt": "a"}, r"must have one of 'messages', .* this row has only \[\"txt\"\]"),
        ({}, "must have one of"),
        ({"text": "a", "instruction": "b", "output": "c"}, "several formats: text and alpaca"),
        ({"prompt": "a"}, "'completion' format must have 'completion'"),
        ({"instruction": "a"}, "'alpaca' format must have 'output'"),
        ({"text": ""}, "'text' must be a non-empty string"),
        ({"text": 3}, "'text' must be a non-empty string, not 3"),
        ({"prompt": "a", "completion": ""}, "'completion' must be a non-empty string"),
        ({"prompt": 3, "completion": "a"}, "'prompt' must be a string or a non-empty list of"),
        ({"prompt": [USER], "completion": "a"}, "'completion' must be a non-empty list of"),
        ({"messages": []}, "messages must be a non-empty list of messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "content of message 1"),
        (
            {"messages": [USER, {**REPLY, "weight": 0.5}]},
            "'weight' in a message must be true, false, 0 or 1",
        ),
        ({"messages": [USER, {**REPLY, "trainable": "no"}]}, "'trainable' in a message"),
        ({"messages": [USER], "tools": "f"}, "'tools' must be an array"),
        ({"conversations": {}}, "'conversations' must be an array"),
        ({"conversations": ["x"]}, "'from' in message 1 must be one of system, human"),
        ({"conversations": [{"from": ["x"], "value": "a"}]}, "'from' in message 1"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "'value' must be a non-empty"),
        ({"instruction": "a", "output": 1}, "'output' must be a non-empty string, not 1"),
    ],
)
def test_malformed_rows_are_refused_with_their_place(row, message):
    with pytest.raises(UsageError, match=message) as caught:
        read({"text": "a"}, row)
    assert str(caught.value).startswith("d.jsonl, line 2: ")
    hint = "only one format" if "formats" in message else "a JSON object on a separate line"
    assert hint in str(caught.value.hint)


def test_files_that_cannot_be_read(monkeypatch):
    class Broken(io.BytesIO):
        def readline(self, *_: Any) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(LocalError, match=r"cannot read d\.jsonl: Input/output error"):
        list(read_supervised_rows(Broken(), "d.jsonl"))
    with pytest.raises(UsageError, match=r"d\.jsonl is not a JSON array"):
        read("[1,")
    monkeypatch.setattr("tinkex.api.sampling.dataset.MAX_INPUT", 9)
    with pytest.raises(LocalError, match=r"line 1 is longer than 9 bytes"):
        read({"text": "abcdef"})
    with pytest.raises(LocalError, match=r"d\.jsonl is longer than 9 bytes"):
        read("[1,", "2,3,4,5,6,7,8]")
