"""The files of a batch: prompts that are read, and results that are written."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import pytest

from tinkex.api import SamplingParams
from tinkex.commands.batchfiles import Ledger, Prompts, open_prompts
from tinkex.exceptions import LocalError, TinkexError

DEFAULTS = SamplingParams(max_tokens=9, temperature=0.5)


_open: list[Prompts] = []


@pytest.fixture(autouse=True)
def closing():
    yield
    while _open:
        _open.pop().__exit__()


def opened(name: str, stdin=None, kind=None, num_samples: int = 1) -> Prompts:
    _open.append(open_prompts(name, stdin, DEFAULTS, num_samples, kind))
    return _open[-1]


def of_jsonl(tmp_path: Path, *rows: object) -> Prompts:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return opened(str(path))


def test_a_row_says_how_it_is_sampled(tmp_path):
    whole = {"id": 7, "prompt": "x", "max_tokens": 2, "temperature": 0, "top_k": 3, "top_p": 0.5}
    whole |= {"stop": "end", "seed": 4, "num_samples": 2, "answer": [1], "note": None}
    (row,) = of_jsonl(tmp_path, whole)

    assert (row.index, row.id, row.prompt, row.num_samples) == (0, "7", "x", 2)
    assert row.params == SamplingParams(2, 0, 3, 0.5, 4, ("end",))
    assert row.extra == {"answer": [1], "note": None}


def test_what_a_row_leaves_out_is_as_for_all(tmp_path):
    (row,) = of_jsonl(tmp_path, {"tokens": [1, 2], "seed": None})

    assert (row.id, row.prompt, row.params, row.extra) == ("1", [1, 2], DEFAULTS, {})


@pytest.mark.parametrize(
    ("row", "tokenizer", "template"),
    [
        ({"prompt": "x"}, True, False),
        ({"tokens": [1]}, False, False),
        ({"messages": [{"role": "user"}]}, True, True),
    ],
)
def test_what_is_needed_of_a_tokenizer(tmp_path, row, tokenizer, template):
    prompts = of_jsonl(tmp_path, row)
    assert (prompts.needs_tokenizer, prompts.needs_template) == (tokenizer, template)


def test_blank_lines_count_as_lines_only(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  \n{two}\nthree")
    rows = list(opened(str(path)))

    assert [(r.index, r.id, r.prompt) for r in rows] == [
        (0, "1", "one"),
        (1, "4", "{two}"),
        (2, "5", "three"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "kind", "prompt"),
    [
        ("p.jsonl", '{"prompt": "x"}', None, "x"),
        ("p.ndjson", '{"prompt": "x"}', None, "x"),
        ("p", '\n {"prompt": "x"}', None, "x"),
        ("p", "plain", None, "plain"),
        ("p.txt", '{"prompt": "x"}', None, '{"prompt": "x"}'),
        ("p.jsonl", '{"prompt": "x"}', "text", '{"prompt": "x"}'),
        ("p.txt", '{"prompt": "x"}', "jsonl", "x"),
    ],
)
def test_what_kind_of_file(tmp_path, name, content, kind, prompt):
    (tmp_path / name).write_text(content)
    (row,) = opened(str(tmp_path / name), kind=kind)

    assert row.prompt == prompt


def test_a_directory_has_a_prompt_a_file(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("two\n")
    (tmp_path / "b" / ".hidden").write_text("no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("no")
    (tmp_path / "c.json").write_text("[1, 2]")
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    rows = list(opened(str(tmp_path)))

    assert [(r.index, r.id, r.prompt) for r in rows] == [
        (0, "a.txt", "one\n\ntwo"),
        (1, "c.json", [1, 2]),
        (2, "b/2.txt", "two"),
    ]


class Stdin:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize("stdin", [Stdin(b"one\ntwo\n"), io.StringIO("one\ntwo\n")])
def test_standard_input_can_be_read_twice(stdin):
    prompts = opened("-", stdin)

    assert [row.prompt for row in prompts] == ["one", "two"]
    assert [row.where for row in prompts] == [f"standard input, line {n}" for n in (1, 2)]


def test_a_named_pipe_can_be_read_twice(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=("one\ntwo\n",), daemon=True).start()
    prompts = opened(str(pipe))

    assert [row.prompt for row in prompts] == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("3", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"prompt": "x", "score": NaN}', "'score' holds NaN"),
        ('{"prompt": "x", "about": {"scores": [1e999]}}', "'about' holds NaN"),
        ("{}", "one of 'prompt', 'tokens' and 'messages' is needed, not none"),
        ('{"prompt": "x", "tokens": [1]}', "not 'prompt' and 'tokens'"),
        ('{"prompt": ""}', "'prompt' must be"),
        ('{"prompt": 3}', "'prompt' must be"),
        ('{"tokens": []}', "'tokens' must be"),
        ('{"tokens": [true]}', "'tokens' must be"),
        ('{"tokens": [-1]}', "'tokens' must be"),
        ('{"tokens": [2147483648]}', "'tokens' must be"),
        ('{"messages": []}', "messages must be"),
        ('{"messages": [{"content": "x"}]}', "each message must be"),
        ('{"prompt": "x", "id": 1.5}', "'id' must be"),
        ('{"prompt": "x", "id": ""}', "'id' must be"),
        ('{"prompt": "x", "id": true}', "'id' must be"),
        ('{"prompt": "x", "max_tokens": 0}', "max_tokens must be at least 1"),
        ('{"prompt": "x", "max_tokens": "9"}', "'max_tokens' must be a whole number"),
        ('{"prompt": "x", "max_tokens": true}', "'max_tokens' must be a whole number"),
        ('{"prompt": "x", "temperature": -1}', "temperature must be"),
        ('{"prompt": "x", "temperature": NaN}', "temperature must be"),
        ('{"prompt": "x", "temperature": "hot"}', "'temperature' must be a number"),
        ('{"prompt": "x", "temperature": 1' + "0" * 400 + "}", "absurd number"),
        ('{"prompt": "x", "top_p": 1' + "0" * 400 + "}", "absurd number"),
        ('{"prompt": "x", "top_p": 0}', "top_p must be"),
        ('{"prompt": "x", "top_k": 0}', "top_k must be"),
        ('{"prompt": "x", "stop": 3}', "'stop' must be"),
        ('{"prompt": "x", "stop": [""]}', "stop text must not be empty"),
        ('{"prompt": "x", "num_samples": 0}', "num_samples must be"),
        ('{"prompt": "x", "num_samples": 9999}', "num_samples must be"),
        ('{"prompt": "x", "max_token": 3}', "there is no member 'max_token'"),
        ('{"prompt": "x", "maxTokens": 3}', "there is no member 'maxTokens'"),
        ('{"prompt": "x", "top-p": 3}', "there is no member 'top-p'"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path, line, told):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(TinkexError) as caught:
        opened(str(path))

    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert told in str(caught.value)


def test_two_rows_with_one_id(tmp_path):
    with pytest.raises(TinkexError, match=r"two rows have the id 'a': .*line 1, and .*line 3"):
        of_jsonl(tmp_path, *({"id": i, "prompt": "x"} for i in ("a", "b", "a")))


def test_an_id_that_is_the_number_of_another_line(tmp_path):
    with pytest.raises(TinkexError, match="two rows have the id '1'"):
        of_jsonl(tmp_path, {"prompt": "x"}, {"id": 1, "prompt": "x"})


@pytest.mark.parametrize("content", ["", "\n\n", " \n"])
def test_no_prompts(tmp_path, content):
    path = tmp_path / "p"
    path.write_text(content)
    with pytest.raises(TinkexError, match="there are no prompts"):
        opened(str(path))


def test_nothing_there(tmp_path):
    with pytest.raises(TinkexError, match="No such file"):
        opened(str(tmp_path / "x"))
    with pytest.raises(TinkexError, match="there are no prompts"):
        opened(str(tmp_path))


def test_not_utf8(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(TinkexError, match=r"line 2 is not UTF-8"):
        opened(str(path))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(b"\xff")
    with pytest.raises(TinkexError, match="x is not UTF-8"):
        opened(str(tmp_path / "d"))


def test_an_empty_file_in_a_directory_is_told(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(TinkexError, match="empty: the prompt is empty"):
        opened(str(tmp_path))


def test_the_digest_tells_prompts_apart(tmp_path):
    path = tmp_path / "p.txt"
    digests = set()
    for content in ("a\nb\n", "b\na\n", "a\nb"):
        path.write_text(content)
        digests.add(opened(str(path)).digest)
        assert opened(str(path)).digest in digests
    (tmp_path / "d").mkdir()
    for name, content in (("x", "a"), ("y", "a"), ("y", "b")):
        for old in (tmp_path / "d").iterdir():
            old.unlink()
        (tmp_path / "d" / name).write_text(content)
        digests.add(opened(str(tmp_path / "d")).digest)
    assert len(digests) == 6


@pytest.mark.parametrize("later", ["a\nb\nc\n", "a\n", "a\nB\n"])
def test_a_file_that_changes_behind_the_check(tmp_path, later):
    path = tmp_path / "p.txt"
    path.write_text("a\nb\n")
    rows = opened(str(path))
    assert [row.prompt for row in rows] == ["a", "b"]
    path.write_text(later)
    found = []
    with pytest.raises(TinkexError, match="changed while it was being sampled"):
        found.extend(row.index for row in rows)
    assert found in ([], [0], [0, 1])  # never more than were counted


def test_a_directory_that_changes_behind_the_check(tmp_path):
    (tmp_path / "b").write_text("two")
    rows = opened(str(tmp_path))
    (tmp_path / "a").write_text("one")
    with pytest.raises(TinkexError, match="changed while it was being sampled"):
        list(rows)


def test_a_line_that_is_too_long_is_not_two_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr("tinkex.commands.batchfiles.MAX_INPUT", 8)
    path = tmp_path / "p.txt"
    path.write_text("1234567\n" * 2)
    assert [row.prompt for row in opened(str(path))] == ["1234567"] * 2
    path.write_text("1234567\n123456789\n")
    with pytest.raises(TinkexError, match="line 2 is longer than 8 bytes"):
        opened(str(path))


# ---------------------------------------------------------------- results

MADE_BY = {"prompts": "d1", "temperature": 1.0}


def record(index: int, **more: object) -> dict[str, object]:
    return {"id": f"r{index}", "index": index, **more}


def begin(path: Path, *, resume: bool = False, force: bool = False, total: int = 9, **other):
    ledger = Ledger(str(path), MADE_BY | other, total)
    ledger.check(resume=resume, force=force)
    ledger.open(resume=resume)
    return ledger


def indexes(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in path.read_text().splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a file with the results of rows 4, 0 and 2."""
    path = tmp_path / "out.jsonl"
    ledger = begin(path)
    for index in (4, 0, 2):
        ledger.write(index, record(index))
    ledger.close()
    return path


def test_results_are_there_at_once(tmp_path):
    ledger = begin(tmp_path / "o.jsonl")
    ledger.write(3, record(3, text="é\ud800\n"))

    (line,) = (tmp_path / "o.jsonl").read_bytes().splitlines()
    assert json.loads(line) == {"id": "r3", "index": 3, "text": "é\ud800\n"}
    ledger.close()


def test_going_on(out):
    ledger = begin(out, resume=True)

    assert (ledger.done, [n for n in range(9) if n in ledger]) == (3, [0, 2, 4])
    ledger.write(1, record(1))
    ledger.close()
    assert indexes(out) == [4, 0, 2, 1]


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(out):
    whole = out.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        out.write_bytes(whole[:end])
        ledger = begin(out, resume=True)
        assert (ledger.done, 2 in ledger) == (2, False)
        ledger.write(2, record(2))
        ledger.close()
        assert out.read_bytes() == whole


@pytest.mark.parametrize("line", ["{}", "x", '{"index": 9}', '{"index": -1}', '{"index": true}'])
def test_a_line_that_is_no_result(out, line):
    out.write_text(f"{line}\n{out.read_text()}")
    content = out.read_bytes()
    with pytest.raises(LocalError, match="line 1 is no result"):
        begin(out, resume=True)
    assert out.read_bytes() == content


def test_a_file_that_is_there_is_neither_replaced_nor_gone_on_with(out):
    content = out.read_bytes()
    with pytest.raises(TinkexError, match="exists already"):
        begin(out)
    assert out.read_bytes() == content


def test_a_run_goes_on_only_with_the_same_options(out):
    with pytest.raises(TinkexError, match=r"--temperature 1.0, and now it is 0.5"):
        begin(out, resume=True, temperature=0.5)
    with pytest.raises(TinkexError, match="other prompts"):
        begin(out, resume=True, prompts="d2")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"made_by": 3}'])
def test_nothing_tells_how_it_was_made(out, content):
    path = out.with_name("out.batch.json")
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(TinkexError, match="nothing tells how"):
        begin(out, resume=True)


def test_replacing(out):
    ledger = begin(out, force=True, temperature=0.5)
    ledger.close()

    assert out.read_bytes() == b""
    begin(out, resume=True, temperature=0.5).close()


def test_checking_changes_nothing(out):
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    Ledger(str(out), MADE_BY, 9).check(resume=False, force=True)
    Ledger(str(out.with_name("new.jsonl")), MADE_BY, 9).check(resume=True, force=False)

    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


def test_going_on_with_what_is_not_there_begins(tmp_path):
    ledger = begin(tmp_path / "deep" / "o.jsonl", resume=True)
    ledger.write(0, record(0))
    ledger.close()

    assert indexes(tmp_path / "deep" / "o.jsonl") == [0]


def test_failures_lie_beside(tmp_path, out):
    ledger = begin(out, resume=True)
    assert not ledger.failed_path.exists()
    ledger.fail(record(5, error={"message": "no"}))
    ledger.close()
    assert ledger.failed == 1
    assert indexes(out.with_name("out.failed.jsonl")) == [5]

    begin(out, resume=True).close()
    assert not out.with_name("out.failed.jsonl").exists()  # they are tried again


def test_putting_into_order(out):
    mode = out.stat().st_mode
    ledger = begin(out, resume=True)
    ledger.write(1, record(1, text="x" * 100))
    ledger.sort()
    ledger.close()

    assert indexes(out) == [0, 1, 2, 4]
    assert out.stat().st_mode == mode
    assert len(list(out.parent.iterdir())) == 2


def test_two_runs_do_not_write_one_file(out):
    first = begin(out, resume=True)
    with pytest.raises(LocalError, match="another run is writing"):
        begin(out, resume=True)
    first.close()
    begin(out, resume=True).close()


def test_a_file_that_another_run_put_into_order_meanwhile(out, monkeypatch):
    import fcntl

    lock = fcntl.flock

    def late(file, how) -> None:
        other = out.with_name("other")
        other.write_bytes(out.read_bytes())
        other.replace(out)
        lock(file, how)

    monkeypatch.setattr("fcntl.flock", late)
    with pytest.raises(LocalError, match="another run is writing"):
        begin(out, resume=True)
    assert indexes(out) == [4, 0, 2]


def test_what_cannot_be_a_file_of_results(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TinkexError, match="no regular file"):
        begin(tmp_path / "pipe", force=True)
    with pytest.raises(LocalError, match="directory"):
        begin(tmp_path)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    ledger = begin(tmp_path / "o.jsonl")
    ledger.write(0, record(0))
    file = ledger._file

    class Full:
        """Takes a few bytes more, and then none."""

        def __init__(self) -> None:
            self.room = 5

        def write(self, data: memoryview) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            self.room = 0
            return file.write(data[:5])

        def __getattr__(self, name: str):
            return getattr(file, name)

    monkeypatch.setattr(ledger, "_file", Full())
    with pytest.raises(LocalError, match="No space left on device"):
        ledger.write(1, record(1))
    assert indexes(tmp_path / "o.jsonl") == [0]
    assert 1 not in ledger
    file.close()


def test_a_run_that_ended_before_its_first_word_is_begun_anew(tmp_path):
    out = tmp_path / "o.jsonl"
    out.touch()  # a full disk, or a kill, between the file and the record of how it was made

    begin(out, resume=True).close()
    out.write_bytes(b"")
    out.with_name("o.batch.json").unlink()
    begin(out).close()

    assert out.with_name("o.batch.json").exists()
