"""Many prompts on one command line, whatever happens meanwhile."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.functional.conftest import MODEL, Program
from tests.serving import Reply, Request, serving
from tests.until import until

STUB = Path(__file__).parents[2] / "benchmarks" / "sampling_server.py"
ON_MODEL = f"--base-model {MODEL} --max-tokens 3"
TO_FILE = "run batch in.jsonl --base-model m --output out.jsonl"


@contextmanager
def stub(*options: str) -> Iterator[Program]:
    """Serve samples in the way the options say; yield the program set to use them."""
    command = [sys.executable, str(STUB), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            yield Program({"TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-batch-0123456789"})
        finally:
            process.terminate()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def indexes(path: Path) -> list[int]:
    return [line["index"] for line in lines(path)]


def token_rows(path: Path, count: int) -> Path:
    path.write_text("".join(f'{{"id": "r{n}", "tokens": [{n}, 2]}}\n' for n in range(count)))
    return path


# ---------------------------------------------------------------- what goes in, what comes out


def test_every_kind_of_prompt(served, tmp_path):
    rows = [
        {"id": "text", "prompt": "Holmes said", "answer": 42},
        {"tokens": [1, 2, 3], "max_tokens": 1},
        {"id": 9, "messages": [{"role": "user", "content": "Hi"}], "num_samples": 2},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = served(f"run batch in.jsonl {ON_MODEL} --ordered --output out.jsonl", cwd=tmp_path)

    first, second, third = lines(tmp_path / "out.jsonl")
    assert (first["id"], second["id"], third["id"]) == ("text", "2", "9")
    assert first["extra"] == {"answer": 42}
    assert [len(line["sequences"]) for line in (first, second, third)] == [1, 1, 2]
    assert second["sequences"][0]["token_count"] == 1
    assert set(first["sequences"][0]) == {"text", "stop_reason", "avg_logprob", "token_count"}
    assert "3 of 3 rows completed" in done.stderr
    assert "Results written to out.jsonl" in done.stderr
    assert done.stdout == ""


def test_a_name_that_means_another_checkpoint_by_now_is_reported(served, client, tmp_path):
    token_rows(tmp_path / "in.jsonl", 3)
    training = client.create_lora_training_client(MODEL, rank=1)
    training.save_weights_for_sampler("one")
    line = f"run batch in.jsonl --model-path {training.model_id}@latest:sampler"
    line += " --max-tokens 1 --output out.jsonl --resume"
    served(line, cwd=tmp_path)
    assert "Nothing to do" in served(line, cwd=tmp_path).stderr
    training.save_weights_for_sampler("two")
    done = served(line, cwd=tmp_path, code=1)
    assert re.search(
        r'was created with --model-path "tinker://\S+/one", but this run uses', done.stderr
    )
    line = line.replace("@latest:sampler", ":one")
    assert "Nothing to do" in served(line, cwd=tmp_path).stderr


def test_rows_that_fail_are_in_a_file_of_failures_and_retried(served, tmp_path):
    rows = ['{"prompt": "fine"}', '{"tokens": [99999999]}', '{"prompt": "fine, too"}']
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    line = f"run batch in.jsonl {ON_MODEL} --output out.jsonl"
    done = served(line, cwd=tmp_path, code=1)

    assert sorted(indexes(tmp_path / "out.jsonl")) == [0, 2]
    (failed,) = lines(tmp_path / "out.failed.jsonl")
    assert (failed["id"], failed["index"]) == ("2", 1)
    assert failed["error"]["message"].startswith("Batch failed")
    assert "1 failed" in done.stderr
    assert "To resume:\n  tinkex run batch in.jsonl" in done.stderr

    done = served(f"{line} --resume", cwd=tmp_path, code=1)
    assert "0 of 3 rows completed" in done.stderr
    assert "1 failed, 2 already done" in done.stderr
    assert len(lines(tmp_path / "out.failed.jsonl")) == 1


def test_one_json_array_is_taken_as_rows(served):
    rows = [{"id": "a", "prompt": "Hi"}, {"id": "b", "tokens": [1]}]
    done = served(f"run batch - {ON_MODEL} --ordered", stdin=json.dumps(rows, indent=2))
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["a", "b"]


def test_rows_that_fail_are_reported_where_there_is_no_file(served):
    stdin = '{"tokens": [9999999]}\n{"tokens": [1]}'
    done = served(f"run batch - {ON_MODEL}", stdin=stdin, code=1)

    assert len(done.stdout.splitlines()) == 1
    assert "Failed: standard input, line 1: " in done.stderr


@pytest.mark.parametrize(
    ("argv", "stdin", "message"),
    [
        ("-", '{"prompt": "x"}\n{"promt": "y"}', "standard input, line 2"),
        ("nothing.jsonl", "", "nothing.jsonl: No such file"),
        ("- --resume", "x", "--resume requires --output"),
        ("- --force", "x", "--force requires --output"),
        ("- --concurrency 0", "x", "at least 1"),
        ("- --output /dev/null", "x", "not a regular file"),
        ("- --api-key -", "x", "not both"),
    ],
)
def test_mistakes_are_reported_before_anything_is_sampled(tinkex, tmp_path, argv, stdin, message):
    words = f"run batch {argv} --base-model m --base-url http://127.0.0.1:9"
    done = tinkex(words, stdin=stdin, code=1, cwd=tmp_path)

    assert message in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "prompts", ["out.jsonl", "out.failed.jsonl", "out.batch.json", "link", "."]
)
def test_results_are_not_written_over_the_prompts(tinkex, tmp_path, prompts):
    (tmp_path / "link").symlink_to("out.jsonl")
    token_rows(tmp_path / ("a" if prompts == "." else prompts), 2)
    before = {path: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    words = "--force --input-format jsonl --base-url http://127.0.0.1:9"
    done = tinkex(TO_FILE.replace("in.jsonl", prompts), *words.split(), cwd=tmp_path, code=1)

    assert "in the prompts directory" in done.stderr or "contains the prompts" in done.stderr
    assert {path: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == before


# ---------------------------------------------------------------- interruptions


def wait_for_lines(path: Path, count: int) -> None:
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)


@pytest.fixture
def many(tmp_path) -> Path:
    """Return a directory with ``in.jsonl``: more rows than are sampled before the test ends them."""
    token_rows(tmp_path / "in.jsonl", 5000)
    return tmp_path


def test_killed_at_any_moment_a_run_resumes_without_loss_or_repetition(tmp_path):
    token_rows(tmp_path / "in.jsonl", 600)
    out = tmp_path / "out.jsonl"
    before: list[str] = []
    with stub("--hold", "2") as program:
        for count in (1, 60, 250):
            process = program.start(f"{TO_FILE} --resume --concurrency 8", cwd=tmp_path)
            wait_for_lines(out, count)
            process.kill()
            process.communicate()
            kept = out.read_text()
            whole = kept[: kept.rindex("\n") + 1].splitlines()
            assert whole[: len(before)] == before  # what was there stays as it was
            before = whole
            out.write_text(kept + '{"id": "r5')  # as if the machine had torn a line as well
        done = program(f"{TO_FILE} --resume", cwd=tmp_path)

    assert f"{len(before)} already done" in done.stderr
    assert f"{600 - len(before)} of 600 rows completed" in done.stderr
    assert sorted(indexes(out)) == list(range(600))
    assert out.read_text().splitlines()[: len(before)] == before


@pytest.mark.parametrize(
    ("number", "code", "hold"),
    [(signal.SIGINT, 130, 100), (signal.SIGINT, 130, 10**8), (signal.SIGTERM, 143, 10**8)],
)
def test_signals_end_it_and_it_says_how_to_resume(many, number, code, hold):
    out = many / "out.jsonl"
    with stub("--hold", str(hold)) as program:
        line = f"{TO_FILE} --concurrency 20 --log-file log"
        process = program.start(line, cwd=many)
        until(lambda: out.exists() and (many / "log").read_text().count("asample") >= 20)
        wait_for_lines(out, 20 if hold == 100 else 0)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)  # it does not wait for samples on hold
        assert (process.returncode, stdout) == (code, "")
        assert number != signal.SIGINT or stderr.endswith("Batch interrupted.\n")
        found = re.search(r"Results in out.jsonl: (\d+). To resume:\n  tinkex (.*)\n", stderr)
        reported, resume = found.groups()
        assert resume == f"{line} --resume"
        finished = indexes(out)
        assert len(set(finished)) == len(finished)
        # A signal may come between the writing of a row and its counting.
        assert len(finished) - int(reported) in (0, 1)
        assert bool(finished) is (hold == 100)
        token_rows(many / "in.jsonl", 5001)
        done = program(resume, cwd=many, code=1)
        assert "was created with different prompts" in done.stderr


def test_an_output_moved_away_ends_the_run_which_can_be_resumed(many):
    out, moved = many / "out.jsonl", many / "moved.jsonl"
    token_rows(many / "in.jsonl", 400)
    with stub("--hold", "20") as program:
        process = program.start(f"{TO_FILE} --concurrency 8", cwd=many)
        wait_for_lines(out, 20)
        out.rename(moved)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (1, "")
        assert "out.jsonl was moved or removed during the batch" in stderr
        count = len(indexes(moved))
        assert f"Results in the original file: {count}. To resume:\n  tinkex run batch" in stderr
        moved.rename(out)
        assert f"{count} already done" in program(f"{TO_FILE} --resume", cwd=many).stderr
    assert sorted(indexes(out)) == list(range(400))


def test_a_full_disk_ends_the_run_and_says_how_to_go_on(tmp_path):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    token_rows(tmp_path / "in.jsonl", 400)
    with stub() as program:
        done = program.process(TO_FILE, cwd=tmp_path, preexec_fn=limit, code=1)
        assert done.stdout == ""
        assert "cannot write out.jsonl: File too large" in done.stderr
        assert "--resume" in done.stderr
        assert (tmp_path / "out.jsonl").read_bytes().endswith(b"\n")
        program(f"{TO_FILE} --resume", cwd=tmp_path)
    assert sorted(indexes(tmp_path / "out.jsonl")) == list(range(400))


def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks = []
    with stub("--tokens", "8") as program:
        for count in (300, 3300):
            token_rows(tmp_path / "in.jsonl", count)
            peaks.append(program.peak(f"{TO_FILE} --force --concurrency 8", cwd=tmp_path))
    # 3000 rows more: half a kilobyte each is allowed, less than one result takes in memory.
    assert peaks[1] - peaks[0] < 1500


# ---------------------------------------------------------------- trouble in the middle

ROWS = 200


class Trouble:
    """Passes requests on to a service unless :attr:`status` is set; 0 ends the connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.status: int | None = None
        self.refused = threading.Event()

    def __call__(self, request: Request) -> Reply | None:
        if self.status is None:
            headers = {"Content-Type": "application/json"}
            passed = urllib.request.Request(self._url + request.path, request.body, headers)
            with urllib.request.urlopen(passed) as response:
                return Reply(json.load(response))
        self.refused.set()
        if self.status:
            return Reply(status=self.status)
        request.handler.close_connection = True
        return None


@pytest.fixture
def troubled(tmp_path: Path) -> Iterator[tuple[Program, Trouble]]:
    token_rows(tmp_path / "in.jsonl", ROWS)
    with stub("--hold", "20") as program:
        trouble = Trouble(program.environment["TINKER_BASE_URL"])
        with serving(trouble) as program.environment["TINKER_BASE_URL"]:
            yield program, trouble


@pytest.mark.parametrize("status", [0, 503, 401])
def test_an_outage_is_outlived_and_an_expired_key_is_resumed_with_another(
    troubled, tmp_path, status
):
    program, trouble = troubled
    process = program.start(f"{TO_FILE} --concurrency 8", cwd=tmp_path)
    wait_for_lines(tmp_path / "out.jsonl", 60)
    trouble.status = status
    assert trouble.refused.wait(60)
    if status != 401:
        trouble.status = None
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (1 if status == 401 else 0, "")
    before = (tmp_path / "out.jsonl").read_text().splitlines()
    if status == 401:
        assert 60 <= len(before) < ROWS
        assert "To resume:" in stderr
        trouble.status = None
        done = program(f"{TO_FILE} --resume", cwd=tmp_path)
        assert f"{len(before)} already done" in done.stderr
    assert (tmp_path / "out.jsonl").read_text().splitlines()[: len(before)] == before
    assert sorted(indexes(tmp_path / "out.jsonl")) == list(range(ROWS))
    assert not (tmp_path / "out.failed.jsonl").exists()
