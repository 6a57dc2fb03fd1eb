"""``compare`` on the local service, and the display of differing texts."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tinkex.api import SamplingClient
from tinkex.testing import Invocation, invoke, isolated
from tinkex_lab.comparison import Comparison, Model, Prompt, differences, prompt_text
from tinkex_lab.display import page, print_comparison
from tinkex_lab.results import Sequence

pytest.importorskip("tinkex_local")

BASE = "tinkex/baker-street-2M"
ROWS = [
    {"id": "a", "prompt": "Who is there?", "answer": "Holmes"},
    {"id": "b", "tokens": [500, 600, 700], "num_samples": 2},
]


@pytest.fixture
def compare(service: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that compares both models in a directory with ``in.jsonl``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    def run(
        *words: str, rows: list[dict] = ROWS, code: int = 0, models=(BASE, "other")
    ) -> Invocation:
        Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = [word for model in models for word in ("--base-model", model)]
        argv = ["compare", "in.jsonl", *options, "--max-tokens", "4", *words]
        done = invoke(argv, environ=service)
        assert done.exit_code == code, done
        assert os.listdir("tmp") == []
        return done

    return run


def test_all_models_get_the_same_prompts_and_seeds(compare):
    rows = compare("-f", "json").rows
    lines = [line.split("\t") for line in compare().stdout.splitlines()]

    assert [(line[0], line[2], json.loads(line[4])) for line in lines] == [
        (row["id"], row["model"], row["text"]) for row in rows
    ]
    assert [(row["id"], row["sample"], row["model"]) for row in rows] == [
        (id, sample, model)
        for id, sample in (("a", 1), ("b", 1), ("b", 2))
        for model in (BASE, "other")
    ]
    assert [row["prompt"] for row in rows[::2]] == [
        "Who is there?",
        *["token ids: [500, 600, 700]"] * 2,
    ]
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one["text"]
        assert {**one, "model": ""} == {**other, "model": ""}
    assert rows[2]["text"] != rows[4]["text"]


def test_prompts_can_be_messages_to_chat_models(compare):
    rows = compare("--system", "Be brief.", "-f", "json", rows=ROWS[:1]).rows

    assert rows[0]["prompt"] == "system: Be brief.\nuser: Who is there?"
    assert rows[0]["text"] == rows[1]["text"]


def test_the_results_of_each_model_can_be_graded_and_resumed(compare):
    first = compare("--output", "out", "-f", "json").stdout
    other = Path("out/other.jsonl")
    lines = other.read_text().splitlines(keepends=True)
    other.write_text(lines[0])

    refused = compare("--output", "out", code=1)
    resumed = compare("--output", "out", "--resume", "-f", "json")

    assert "already exists" in refused.stderr
    assert "--resume" in refused.stderr
    assert resumed.stdout == first
    assert sorted(other.read_text().splitlines(keepends=True)) == sorted(lines)
    assert "0 of 2 rows completed" in compare("--output", "out", "--resume").stderr
    assert "2 of 2 rows completed" in compare("--output", "out", "--force").stderr
    graded = invoke(["grade", "out/other.jsonl", "--check", "regex:.", "--json"])
    assert graded.rows[0]["samples"] == 3


def test_an_interrupted_comparison_can_be_resumed(compare, monkeypatch):
    sample, calls = SamplingClient.sample, itertools.count(1)

    def interrupted(self, *args, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return sample(self, *args, **options)

    monkeypatch.setattr(SamplingClient, "sample", interrupted)
    words = ("--output", "out", "--concurrency", "1")

    stopped = compare(*words, code=130)
    resumed = compare(*words, "--resume")

    assert stopped.stdout == ""
    command = "tinkex compare in.jsonl"
    assert (
        f"Results in out/tinkex-baker-street-2M.jsonl: 1. To resume:\n  {command}" in stopped.stderr
    )
    assert "1 already done" in resumed.stderr
    assert len(resumed.stdout.splitlines()) == 6


def test_a_row_that_fails_does_not_end_the_comparison(compare):
    rows = [ROWS[0], {"id": "bad", "tokens": [99999999]}]

    done = compare("--html", "all.html", rows=rows, code=1)
    kept = compare("--output", "out", rows=rows, code=1)

    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["a", "a"]
    assert "1 failed" in done.stderr
    assert "Failed: in.jsonl, line 2: Token 99999999 is outside" in done.stderr
    assert "To resume" not in done.stderr
    assert "To resume:\n  tinkex compare in.jsonl" in kept.stderr
    text = Path("all.html").read_text()
    assert "(not sampled)" in text
    assert re.search(r"overrides them: (max_tokens = \d+, )?temperature = .*, seed = 0\.</p>", text)


@pytest.mark.parametrize(
    ("words", "models", "message"),
    [
        ([], (BASE,), "at least 2 models are required"),
        ([], (BASE, BASE), f"the model {BASE} is given twice"),
        (["--resume"], (BASE, "other"), "--resume requires --output"),
        (["--resume", "--force", "-o", "x"], (BASE, "other"), "use either --resume or --force"),
        (["--html", "."], (BASE, "other"), "cannot write .: it is a directory"),
        (["--html", "in.jsonl"], (BASE, "other"), "cannot write in.jsonl: it is part of the input"),
        (["--html", "/dev/full"], (BASE, "other"), "cannot write /dev/full: No space left"),
        (["--output", "in.jsonl"], (BASE, "other"), "in.jsonl"),
        ([], (BASE, "none/such"), "none/such"),
        (["--model-path", "nowhere"], (BASE, "other"), "--model-path does not exist: nowhere"),
    ],
)
def test_what_cannot_be_compared_is_reported(compare, words, models, message):
    done = compare(*words, models=models, code=1)

    assert done.stdout == ""
    assert message in done.stderr
    assert "Hint: " in done.stderr


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("-", "cannot come from standard input"),
        ("none.txt", "No such file"),
        ("empty", "no prompts"),
    ],
)
def test_prompts_that_cannot_be_read_are_reported(compare, service, prompts, message):
    Path("empty").write_text("")

    done = invoke(
        ["compare", prompts, "--base-model", BASE, "--base-model", "other"], environ=service
    )

    assert (done.stdout, done.exit_code) == ("", 1)
    assert message in done.stderr


# ---------------------------------------------------------------- display

HOSTILE = "<script>alert('1')</script> \x1b[31mred\nand more"


def sample(text: str | None, logprob: float | None = -0.5, count: int = 4) -> Sequence:
    return Sequence(text, "length", logprob, count)


@pytest.fixture
def comparison() -> Comparison:
    models = [Model("base", "Qwen/Qwen3-8B"), Model("run:a", "tinker://run/weights/a")]
    return Comparison(
        models,
        [
            Prompt("q1", "Name <b>a</b> river", ((sample("The Rhine."),), (sample("The Elbe."),))),
            Prompt(
                "q2",
                "x",
                ((sample("same"), sample("two", -1.5, 12)), (sample(HOSTILE), sample(None))),
            ),
            Prompt("q3", "y", ((), ())),
        ],
    )


@pytest.mark.parametrize(
    ("reference", "text", "marked"),
    [
        ("The Rhine.", "The Elbe.", ["Elbe"]),
        ("one two three", "one three", []),
        ("one three", "one two three", ["two "]),
        ("", "all", ["all"]),
        ("a " * 2000, "b", []),
    ],
)
def test_words_that_are_not_in_the_reference_are_marked(reference, text, marked):
    spans = differences(reference, text)

    assert "".join(span.text for span in spans) == text
    assert [span.text for span in spans if span.differs] == marked


def test_means_are_over_tokens_and_samples(comparison):
    summary = comparison.summary(0)

    assert (summary.samples, summary.tokens, summary.truncated) == (3, 20 / 3, 1.0)
    assert summary.logprob == pytest.approx(-(0.5 * 4 + 0.5 * 4 + 1.5 * 12) / 20)
    assert Comparison([Model("a", "a")], [Prompt("q", "x", ((),))]).summary(0) is None


def test_messages_are_displayed_with_their_roles():
    assert prompt_text([{"role": "user", "content": "Hi"}]) == "user: Hi"


def test_the_page_needs_no_network_and_escapes_all_text(comparison):
    text = page(comparison, "a <title>")

    assert "<title>a &lt;title&gt;</title>" in text
    assert "Name &lt;b&gt;a&lt;/b&gt; river" in text
    assert "<script" not in text
    assert "\x1b" not in text
    assert "The <mark>Elbe</mark>." in text
    assert not re.search(
        r"(?:https?:)?//\w|@import|url\(|\bsrc=|<link", text.replace("tinker://", "")
    )
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert "3 samples, mean logprob -1.100, 6.7 tokens, 100% truncated" in text


def test_a_browser_shows_prompts_down_and_models_across(comparison, tmp_path: Path):
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None:
        pytest.skip("no Chromium is installed")
    file = tmp_path / "page.html"
    file.write_text(page(comparison, "Comparison"), encoding="utf-8")
    options = [
        "--headless",
        "--disable-gpu",
        "--no-sandbox" if os.geteuid() == 0 else "--incognito",
    ]

    done = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
    )

    body = done.stdout.partition("<tbody>")[2]
    assert (body.count("<tr>"), body.count("<td>")) == (4, 6), done.stderr
    assert re.findall(r"<mark>(.*?)</mark>", body)[0] == "Elbe"


@pytest.mark.parametrize("columns", [80, 30])
def test_a_terminal_shows_models_next_to_each_other_if_they_fit(comparison, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]

    print_comparison(comparison, stream)

    text = stream.getvalue()
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= columns
    assert any("The Rhine." in line and "The Elbe." in line for line in plain.splitlines()) == (
        columns == 80
    )
    assert "logprob -0.500, 4 tokens, length" in " ".join(plain.split())
    assert "Elbe" in re.findall(r"\x1b\[4;33m([^\x1b]*)", text)
    assert "\x1b[31m" not in text
    assert "(token ids only)" in plain
    assert "base: 3 samples, mean logprob -1.100, 6.7 tokens" in " ".join(plain.split())


def test_compare_prints_tables_on_a_terminal(service, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("Who is there?\n")
    argv = ["compare", "in.txt", "--base-model", BASE, "--base-model", "other", "--max-tokens", "3"]

    with isolated(tmp_path):
        done = invoke(argv, terminal=True, environ={**service, "COLUMNS": "80"})

    assert done.exit_code == 0, done.stderr
    assert "1: " in done.stdout
    assert "3 tokens, length" in done.stdout
