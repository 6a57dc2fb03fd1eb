"""The files of a batch: prompts that are read, and results that are written."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tinkex.api import SamplingParams
from tinkex.commands.batch_prompts import PromptsChanged, PromptSource
from tinkex.commands.batch_results import ResultsFile, ResultsMoved
from tinkex.exceptions import LocalError, TinkexError

DEFAULTS = SamplingParams(max_tokens=9, temperature=0.5)

Opening = Callable[..., PromptSource]


@pytest.fixture
def opened() -> Iterator[Opening]:
    """Return a function that opens prompts, which are closed after the test."""
    made: list[PromptSource] = []

    def opened(name: object, stdin=None, kind=None) -> PromptSource:
        made.append(PromptSource(str(name), stdin, DEFAULTS, 1, kind))
        return made[-1]

    yield opened
    for source in made:
        source.close()


@pytest.fixture
def of_jsonl(tmp_path: Path, opened: Opening) -> Opening:
    def of_jsonl(*rows: object) -> PromptSource:
        path = tmp_path / "p.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return opened(path)

    return of_jsonl


def test_a_row_overrides_the_options(of_jsonl):
    whole = {"id": 7, "prompt": "x", "max_tokens": 2, "temperature": 0, "top_k": 3, "top_p": 0.5}
    whole |= {"stop": "end", "seed": 4, "num_samples": 2, "answer": [1], "note": None}
    row, rest = of_jsonl(whole, {"tokens": [1, 2], "seed": None, "stop": []})

    assert (row.index, row.id, row.prompt, row.num_samples) == (0, "7", "x", 2)
    assert row.params == SamplingParams(2, 0, 3, 0.5, 4, ("end",))
    assert row.extra == {"answer": [1], "note": None}
    assert (rest.id, rest.prompt, rest.params, rest.extra) == ("2", [1, 2], DEFAULTS, {})


def test_parts_of_a_message_are_one_text(of_jsonl):
    parts = [{"type": "text", "text": "part "}, {"type": "text", "text": "one"}]
    (row,) = of_jsonl({"messages": [{"role": "user", "content": parts}]})
    assert row.prompt == [{"role": "user", "content": "part one"}]


def test_blank_lines_count_as_lines_only(tmp_path, opened):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n  \n{two}\nthree")
    found = [(row.index, row.id, row.prompt) for row in opened(tmp_path / "p.txt")]

    assert found == [(0, "1", "one"), (1, "4", "{two}"), (2, "5", "three")]


@pytest.mark.parametrize(
    ("name", "content", "kind", "prompt"),
    [
        ("p.ndjson", '{"prompt": "x"}', None, "x"),
        ("p", '\n {"prompt": "x"}', None, "x"),
        ("p", "plain", None, "plain"),
        ("p", "[] to do", None, "[] to do"),
        ("p", "[INST] Hi", None, "[INST] Hi"),
        ("p.txt", '{"prompt": "x"}', None, '{"prompt": "x"}'),
        ("p.jsonl", '{"prompt": "x"}', "text", '{"prompt": "x"}'),
        ("p.txt", '{"prompt": "x"}', "jsonl", "x"),
    ],
)
def test_the_format_of_a_file(tmp_path, opened, name, content, kind, prompt):
    (tmp_path / name).write_text(content)
    (row,) = opened(tmp_path / name, kind=kind)

    assert row.prompt == prompt


ROWS = [{"prompt": "x", "max_tokens": 2}, {"id": "b", "tokens": [1]}]


@pytest.mark.parametrize("name", ["-", "p", "p.json", "p.jsonl"])
@pytest.mark.parametrize("text", [json.dumps(ROWS), f"\ufeff \n{json.dumps(ROWS, indent=1)}\n"])
def test_a_json_array_of_rows_is_taken_as_rows(tmp_path, opened, name, text):
    (tmp_path / "p").with_name(name).write_text(text)
    stdin = io.TextIOWrapper(io.BytesIO(text.encode())) if name == "-" else None
    prompts = opened(name if stdin else tmp_path / name, stdin)
    assert [(row.id, row.prompt) for row in prompts] == [("1", "x"), ("b", [1])]
    assert [row.where.rpartition(", ")[2] for row in prompts] == ["row 1", "row 2"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[]", None, "there are no prompts"),
        ('[{"prompt": "x"}, 3]', None, "row 2: not a JSON object: it is 3"),
        ('[\n{"prompt": "x"},\n]', None, r"is not a JSON array: .* \(line [23], column"),
        ("[1, 2]", "jsonl", "row 1: not a JSON object: it is 1"),
        ("[" * 100_000, "jsonl", "is not a JSON array: it is nested too deeply"),
    ],
)
def test_a_json_array_that_has_no_rows(tmp_path, opened, text, kind, message):
    (tmp_path / "p").write_text(text)
    with pytest.raises(TinkexError, match=message):
        opened(tmp_path / "p", kind=kind)


@pytest.mark.parametrize(
    ("name", "kind", "doubtful", "first"),
    [
        ("p", None, 2, ("line 2", "it is not JSON")),
        ("p.txt", "text", 0, ("", "")),
        ("d", None, 1, ("d/b.json", "item 2 is null")),
    ],
)
def test_prompts_that_are_nearly_token_ids_are_counted(
    tmp_path, opened, name, kind, doubtful, first
):
    for file in ("p", "p.txt"):
        (tmp_path / file).write_text("[INST] Hi [/INST]\n[1, 2,]\n[1, 2]\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.json").write_text("[1, 2]")
    (tmp_path / "d" / "b.json").write_text("[1, null]")
    prompts = opened(tmp_path / name, kind=kind)
    assert prompts.doubtful == doubtful
    assert prompts.first_doubtful[0].endswith(first[0])
    assert prompts.first_doubtful[1] == first[1]


def test_a_directory_has_one_prompt_a_file(tmp_path, opened):
    files = {"b/2.txt": "two\n", "b/.hidden": "no", ".git/config": "no", "c.json": "[1, 2]"}
    for name, content in (files | {"a.txt": "one\n\ntwo"}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    found = [(row.index, row.id, row.prompt) for row in opened(tmp_path)]

    assert found == [(0, "a.txt", "one\n\ntwo"), (1, "c.json", [1, 2]), (2, "b/2.txt", "two")]


@pytest.mark.parametrize("kind", ["bytes", "text", "pipe"])
def test_standard_input_or_a_named_pipe_is_read_twice(tmp_path, opened, kind):
    text = "one\ntwo\n"
    name, stdin = "-", io.TextIOWrapper(io.BytesIO(text.encode()))
    if kind == "text":
        stdin = io.StringIO(text)
    elif kind == "pipe":
        stdin = None
        name = str(tmp_path / "pipe")
        os.mkfifo(name)
        threading.Thread(target=Path(name).write_text, args=(text,), daemon=True).start()
    prompts = opened(name, stdin)

    assert [row.prompt for row in prompts] == ["one", "two"]
    where = "standard input" if stdin else name
    assert [row.where for row in prompts] == [f"{where}, line {n}" for n in (1, 2)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object: Expecting property name enclosed in double quotes (column 2)"),
        ("[" * 100_000, "not a JSON object: it is nested too deeply"),
        ("[1]", "not a JSON object: it is [1]"),
        ('{"prompt": "x", "score": NaN}', "'score' contains NaN"),
        ('{"prompt": "x", "about": {"scores": [1e999]}}', "'about' contains NaN"),
        ("{}", "expected exactly one of 'prompt', 'tokens' and 'messages', but found none"),
        ('{"prompt": "x", "tokens": [1]}', "but found 'prompt' and 'tokens'"),
        ('{"prompt": ""}', "'prompt' must be a non-empty string, not \"\""),
        *(
            (f'{{"tokens": {value}}}', f"from 0 to 2147483647: {why}")
            for value, why in (
                ("[]", "it is []"),
                ("[true]", "item 1 is true"),
                ("[1, 2147483648]", "item 2 is 2147483648"),
                ('"1 2"', 'it is "1 2"'),
            )
        ),
        ('{"messages": [{"content": "x"}]}', "message 1 must be an object"),
        *(
            (f'{{"messages": [{{"role": "user"{content}}}]}}', f"message 1 must be a string{rest}")
            for content, rest in (
                (', "content": null', ', or a list of {"type": "text", "text": …}, not null'),
                ("", ""),
                (', "content": 7', ""),
                (', "content": [{"type": "image_url"}]', ""),
            )
        ),
        *(
            (f'{{"prompt": "x", {member}}}', message)
            for message, *members in (
                ("'id' must be", '"id": true'),
                ("'id' must be a non-empty string or a whole number, not 1.5", '"id": 1.5'),
                ("max_tokens must be at least 1", '"max_tokens": 0'),
                ("max_tokens must be a whole number, not 2.5", '"max_tokens": 2.5'),
                ('temperature must be a finite number, not "hot"', '"temperature": "hot"'),
                ("top_p must be a finite number", '"top_p": 1' + "0" * 400),
                ("stop must be a list of strings or of token ids, not 3", '"stop": 3'),
                ("non-empty strings or only token ids, not null", '"stop": ["a", null]'),
                ("stop must contain only non-empty strings", '"stop": ""'),
                ("num_samples must be", '"num_samples": "2"', '"num_samples": 9999'),
                ("unknown field 'max_token'", '"max_token": 3'),
            )
            for member in members
        ),
    ],
)
def test_an_invalid_row_is_reported_with_its_line(tmp_path, opened, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(TinkexError) as caught:
        opened(path)

    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "places"), [("aba", ".*line 1, and .*line 3"), ([None, 1], ".*line 1, and .*line 2")]
)
def test_two_rows_with_one_id(of_jsonl, ids, places):
    with pytest.raises(TinkexError, match=rf"two rows have the id '[a1]': {places}"):
        of_jsonl(*({"id": i, "prompt": "x"} for i in ids))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p", b"", "there are no prompts"),
        ("p", b"\n \n", "there are no prompts"),
        ("p.txt", b"fine\n\xff\xfe\n", r"line 2 is not UTF-8 text \(byte 0\)"),
        ("d/x", b"\xff", "x is not UTF-8"),
        ("d/x", b"\n", "x: the prompt is empty"),
        ("d/.x", b"hidden", "there are no prompts"),
        ("other", b"", "No such file"),
    ],
)
def test_prompts_that_cannot_be_read(tmp_path, opened, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(TinkexError, match=message):
        opened(path.parent if "/" in name else tmp_path / "none" if name == "other" else path)


@pytest.mark.parametrize("later", ["a\nb\nc\n", "a\n", "a\nB\n"])
def test_prompts_that_change_after_the_check(tmp_path, opened, later):
    path = tmp_path / "p.txt"
    path.write_text("a\nb\n")
    rows, directory = opened(path), opened(tmp_path)
    assert [row.prompt for row in rows] == ["a", "b"]
    path.write_text(later)
    found = []
    with pytest.raises(PromptsChanged, match="changed while it was being read"):
        found.extend(row.index for row in rows)
    assert found in ([], [0], [0, 1])  # never more than were counted
    with pytest.raises(PromptsChanged):
        list(directory)


# ---------------------------------------------------------------- results

MADE_BY = {"prompts": "d1", "temperature": 1.0}


def record(index: int, **more: object) -> dict[str, object]:
    return {"id": f"r{index}", "index": index, **more}


def indexes(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in path.read_text().splitlines()]


@pytest.fixture
def begin() -> Iterator[Callable[..., ResultsFile]]:
    """Return a function that opens a file for nine results, closed after the test."""
    made: list[ResultsFile] = []

    def begin(path: Path, *, resume: bool = False, force: bool = False, **other):
        made.append(ResultsFile(str(path), MADE_BY | other, 9))
        made[-1].check(resume=resume, force=force)
        made[-1].open(resume=resume)
        return made[-1]

    yield begin
    for file in made:
        file.close()


@pytest.fixture
def out(tmp_path: Path, begin) -> Path:
    """Return a file with the results of rows 4, 0 and 2."""
    path = tmp_path / "out.jsonl"
    file = begin(path)
    for index in (4, 0, 2):
        file.write(index, record(index))
    file.close()
    return path


def test_resuming(out, tmp_path, begin):
    file = begin(out, resume=True)

    assert (file.done, [n for n in range(9) if n in file]) == (3, [0, 2, 4])
    file.write(1, record(1))
    assert indexes(out) == [4, 0, 2, 1]
    new = tmp_path / "deep" / "new.jsonl"
    begin(new, resume=True).write(0, record(0))
    assert indexes(new) == [0]


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(out, begin):
    whole = out.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        out.write_bytes(whole[:end])
        file = begin(out, resume=True)
        assert (file.done, 2 in file) == (2, False)
        file.write(2, record(2))
        file.close()
        assert out.read_bytes() == whole


@pytest.mark.parametrize("line", ["{}", "x", '{"index": 9}', '{"index": -1}', '{"index": true}'])
def test_a_line_that_is_no_result(out, begin, line):
    out.write_text(f"{line}\n{out.read_text()}")
    content = out.read_bytes()
    with pytest.raises(LocalError, match="line 1 is not a result"):
        begin(out, resume=True)
    assert out.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "already exists"),
        ({"resume": True, "temperature": 0.5}, r"--temperature 1.0, but this run uses 0.5"),
        ({"resume": True, "prompts": "d2"}, "different prompts"),
    ],
)
def test_existing_results_are_neither_replaced_nor_mixed(out, begin, options, message):
    content = out.read_bytes()
    with pytest.raises(TinkexError, match=message):
        begin(out, **options)
    assert out.read_bytes() == content


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"made_by": 3}'])
def test_results_without_a_record_are_not_resumed(out, begin, content):
    path = out.with_name("out.batch.json")
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(TinkexError, match="cannot resume"):
        begin(out, resume=True)


def test_replacing_and_checking_without_changes(out, begin):
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    ResultsFile(str(out), MADE_BY, 9).check(resume=False, force=True)
    ResultsFile(str(out.with_name("new.jsonl")), MADE_BY, 9).check(resume=True, force=False)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before

    begin(out, force=True, temperature=0.5).close()
    assert out.read_bytes() == b""
    begin(out, resume=True, temperature=0.5)


def test_sorting(out, begin):
    mode = out.stat().st_mode
    file = begin(out, resume=True)
    file.write(1, record(1, text="x" * 100))
    file.sort()

    assert indexes(out) == [0, 1, 2, 4]
    assert out.stat().st_mode == mode
    assert len(list(out.parent.iterdir())) == 2


def test_two_runs_do_not_write_one_file(out, begin):
    first = begin(out, resume=True)
    with pytest.raises(LocalError, match="another batch is writing"):
        begin(out, resume=True)
    first.close()
    begin(out, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.rename(path.with_name("moved")), "out.jsonl was moved or removed"),
        (lambda path: path.unlink(), "was moved or removed"),
        (lambda path: (path.unlink(), path.write_text("x")), "was moved or removed"),
        (lambda path: path.parent.rename(path.parent.with_name("away")), "was moved or removed"),
        (lambda path: path.write_text(""), "was changed by another program"),
    ],
)
@pytest.mark.parametrize("step", ["write", "check_in_place"])
def test_an_output_moved_away_during_the_batch_is_noticed(tmp_path, begin, change, message, step):
    path = tmp_path / "d" / "out.jsonl"
    file = begin(path)
    file.write(0, record(0))
    file.check_in_place()
    change(path)
    with pytest.raises(ResultsMoved, match=message):
        file.write(1, record(1)) if step == "write" else file.check_in_place()


def test_a_file_that_cannot_hold_results(tmp_path, begin):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TinkexError, match="not a regular file"):
        begin(tmp_path / "pipe", force=True)
    with pytest.raises(LocalError, match="directory"):
        begin(tmp_path)
