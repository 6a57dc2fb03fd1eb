"""``grade``: checks, pass rates, and errors; no service is needed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tinkex.exceptions import LocalError
from tinkex.testing import Invocation, invoke
from tinkex_lab.checks import pass_at_k
from tinkex_lab.programs import Program, map_concurrently
from tinkex_lab.results import ResultRow


def result(index: int, *texts: str | None, reason: str = "stop", **extra: Any) -> dict[str, Any]:
    sequences = [
        {"text": text, "stop_reason": reason, "avg_logprob": -1.5, "token_count": 3}
        for text in texts
    ]
    return {"id": f"q{index}", "index": index, "sequences": sequences, "extra": extra}


ROWS = [
    result(0, " Paris\n", "Rome", answer="Paris", topic="cities"),
    result(1, "It is 4.", "5", reason="length", answer=4, topic="sums"),
    result(2, "Bonn", "Berlin", answer=["Berlin", "Bonn"], topic="cities"),
]


@pytest.fixture
def grade(tmp_path: Path):
    """Return a function that grades rows (or the text of a file)."""
    file = tmp_path / "answers.jsonl"

    def run(*words: str, rows: Any = ROWS, code: int = 0) -> Invocation:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        file.write_text(text, encoding="utf-8")
        done = invoke(["grade", str(file), *words])
        assert done.exit_code == code, done
        return done

    return run


@pytest.mark.parametrize(
    ("checks", "passed"),
    [
        (["equals:answer"], [[True, False], [False, False], [True, True]]),
        (["contains:answer"], [[True, False], [True, False], [True, True]]),
        (["regex:^[A-Z]"], [[False, True], [True, False], [True, True]]),
        (["regex:^[A-Z]", "contains:answer"], [[False, False], [True, False], [True, True]]),
    ],
)
def test_a_sample_passes_if_it_passes_all_checks(grade, tmp_path: Path, checks, passed):
    words = [word for check in checks for word in ("--check", check)]

    (row,) = grade(*words, "--per-row", str(tmp_path / "rows.jsonl"), "-f", "json").rows

    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["passed"] for line in lines] == passed
    counts = [sum(each) for each in passed]
    assert row["pass_at_1"] == pytest.approx(sum(counts) / 6)
    assert row["pass_at_k"] == pytest.approx(sum(count > 0 for count in counts) / 3)
    assert (row["group"], row["rows"], row["samples"], row["k"]) == (None, 3, 6, 2)
    assert row["truncation_rate"] == pytest.approx(2 / 6)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (5, 0, 2), (5, 5, 5), (6, 1, 4)])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(n, c, k):
    samples = [True] * c + [False] * (n - c)
    choices = [any(chosen) for chosen in itertools.combinations(samples, k)]

    assert pass_at_k(n, c, k) == pytest.approx(sum(choices) / len(choices))


CHECK = """
import json, sys
row = json.load(sys.stdin)
sys.exit(row["extra"]["answer"] not in row["text"] if isinstance(row["extra"]["answer"], str) else 1)
"""


def test_a_program_checks_the_row_on_its_standard_input(grade, tmp_path: Path):
    (tmp_path / "my check.py").write_text(CHECK)
    check = f"exec:{sys.executable} '{tmp_path / 'my check.py'}'"

    grade("--check", check, "--per-row", str(tmp_path / "rows.jsonl"))

    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["passed"] for line in lines] == [[True, False], *[[False, False]] * 2]


def test_a_program_that_takes_too_long_has_not_passed(grade):
    done = grade("--check", "exec:sleep 600", "--exec-timeout", "0.1", rows=ROWS[:1])

    assert done.stdout.startswith("all\t1\t2\t0\t")
    assert "Commands killed after 0.1 s: 2." in done.stderr


def test_control_c_kills_programs_and_their_children(tmp_path: Path):
    children = tmp_path / "children"
    script = tmp_path / "slow.sh"
    script.write_text(f"sleep 600 & echo $! > {children}; wait\n")
    program = Program(f"sh {script}", 600)
    row = ResultRow("", "q", 0, (), {})

    def interrupt() -> None:
        while not children.exists() or not children.read_text().endswith("\n"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        list(map_concurrently(lambda text: program(row, text), ["x"], [program]))
    thread.join()

    status = Path(f"/proc/{children.read_text().strip()}/status")
    # A killed child may wait for its new parent to read its exit code.
    while status.exists() and "State:\tZ" not in status.read_text():
        time.sleep(0.01)
    with pytest.raises(LocalError, match="stopped"):
        program(row, "x")


def test_groups_come_before_the_total(grade):
    shown = grade("--check", "contains:answer", "--group-by", "topic").stdout.splitlines()

    assert [line.split("\t")[:4] for line in shown] == [
        ["cities", "2", "4", "0.75"],
        ["sums", "1", "2", "0.5"],
        ["all", "3", "6", "0.6667"],
    ]


def test_fail_under_sets_the_exit_code_after_the_result(grade):
    words = ("--check", "contains:answer", "--fail-under")

    done = grade(*words, "0.7", code=1)

    assert done.stdout.startswith("all\t3\t6\t0.6667")
    assert done.stderr == "pass@1 is 0.6667, below 0.7.\n"
    assert grade(*words, "0.6").stderr == ""


def test_rows_that_were_not_sampled_are_reported(grade, tmp_path: Path):
    (tmp_path / "answers.failed.jsonl").write_text('{"id": "q7"}\n')

    assert "Rows not graded because sampling failed: 1 (see" in grade("--check", "regex:.").stderr


def test_results_can_come_from_standard_input():
    text = "".join(json.dumps(row) + "\n" for row in ROWS)

    done = invoke(["grade", "-", "--check", "equals:answer", "--json"], stdin=text)

    assert done.rows[0]["rows"] == 3


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        ([], ROWS, "--check is required"),
        (["--check", "equal:answer"], ROWS, "invalid check 'equal:answer'"),
        (["--check", "equals:"], ROWS, "invalid check 'equals:'"),
        (["--check", "regex:("], ROWS, "'(' is not a valid regular expression"),
        (["--check", "exec:"], ROWS, "invalid check 'exec:'"),
        (["--check", "exec: "], ROWS, "exec: requires a command"),
        (["--check", "exec:sh 'x"], ROWS, "No closing quotation"),
        (["--check", "exec:/no/such/program"], ROWS, "cannot run /no/such/program: No such file"),
        (["--check", "equals:solution"], ROWS, "line 1: the row has no field 'solution'"),
        (["--check", "regex:."], "", "there are no results in"),
        (["--check", "regex:."], "\n\n", "there are no results in"),
        (["--check", "regex:."], "[1]\n", "line 1 is not a result of 'tinkex run batch'"),
        (["--check", "regex:."], '{"prompt": "x"}\n', "line 1 is not a result"),
        (["--check", "regex:."], [ROWS[0], result(1)], "line 2 is not a result"),
        (["--check", "regex:."], [result(0, None)], "line 1 has token ids instead of text"),
        (["--check", "regex:.", "-k", "3"], ROWS, "pass@3 needs at least 3 samples per row"),
        (["--check", "regex:.", "--group-by", "x"], ROWS, "the row has no field 'x'"),
        (["--check", "equals:x"], [result(0, "a", x=None)], "line 1: the field 'x' is null"),
    ],
)
def test_what_cannot_be_graded_is_reported(grade, words, rows, message):
    done = grade(*words, rows=rows, code=1)

    assert done.stdout == ""
    assert message in done.stderr
    assert "Hint: " in done.stderr


def test_files_that_cannot_be_read_or_written_are_reported(grade, tmp_path: Path):
    missing = invoke(["grade", str(tmp_path / "none.jsonl"), "--check", "regex:."])
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\n")
    invalid = invoke(["grade", str(binary), "--check", "regex:."])
    full = grade("--check", "regex:.", "--per-row", "/dev/full", code=1)
    same = grade("--check", "regex:.", "--per-row", str(tmp_path / "answers.jsonl"), code=1)

    assert "No such file or directory" in missing.stderr
    assert "is not UTF-8 text (byte 0)" in invalid.stderr
    assert "cannot write /dev/full: No space left on device" in full.stderr
    assert "answers.jsonl: it is part of the input" in same.stderr
    assert {missing.stdout, invalid.stdout, full.stdout} == {""}
