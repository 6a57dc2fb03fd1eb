"""Sample many prompts."""

from __future__ import annotations

import argparse
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinkex.columns import json_text
from tinkex.commands.arguments import add_model_options
from tinkex.commands.base import Command
from tinkex.commands.run import (
    add_sampling_options,
    checked_model,
    find_tokenizer,
    mean,
    sampling_params,
)
from tinkex.exceptions import (
    APIError,
    ConnectionFailed,
    NotOffered,
    PaymentRequired,
    SettingsError,
    Terminated,
    TinkexError,
    TLSError,
    Unauthorized,
    UsageError,
)
from tinkex.options import integer

if TYPE_CHECKING:
    from tinkex.api import SampledRow, SampledRows, SampleRow, SamplingClient, Tokenizer
    from tinkex.commands.batchfiles import Ledger, PromptRow, Prompts

__all__ = ["BatchRun", "BatchSummary"]

#: Maximum number of concurrent requests; as in tinkex.api.sampling.batch, not imported for help.
MOST = 256
#: Options that decide about results: a run goes on only with the same.
_DECISIVE = (
    *("base_model", "model_path", "max_tokens", "temperature", "top_k", "top_p", "seed"),
    *("stop", "num_samples", "tokenizer", "with_tokens"),
)
#: Seconds that rows under way have left after Ctrl-C.
DRAIN = 5.0
#: Rows that fail one after the other, by no fault of theirs, before the run is given up.
GIVE_UP = 20
#: Seconds between two changes of the bar.
_TICK = 0.1
#: Errors that every other row would meet as well.
_HOPELESS = (Unauthorized, PaymentRequired, NotOffered, TLSError, SettingsError)
#: Options that a command line for going on must not have: a key, and what would begin anew.
_LEFT_OUT = {"--api-key": 1, "--force": 0, "--resume": 0}


class BatchRun(Command):
    """Sample many prompts; results as JSON lines."""

    operation = "Batch"
    examples = (
        "tinkex run batch prompts.jsonl --base-model Qwen/Qwen3-8B --output answers.jsonl",
        "tinkex run batch prompts.jsonl --base-model Qwen/Qwen3-8B --output answers.jsonl --resume",
        "shuf -n 100 questions.txt | tinkex run batch - --base-model Qwen/Qwen3-8B --max-tokens 64",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "prompts",
            metavar="<prompts>",
            help="JSONL file, text file with one prompt a line, or directory with one prompt a "
            "file; - is standard input",
        )
        add_model_options(parser)
        parser.add_argument(
            "--output",
            metavar="<path>",
            help="file for the results (default, or -: standard output, without --resume)",
        )
        parser.add_argument(
            "--resume", action="store_true", help="go on with the file of an earlier run"
        )
        parser.add_argument("--force", action="store_true", help="replace the file")
        parser.add_argument(
            "--concurrency",
            metavar="<int>",
            type=_concurrency,
            default=None,
            help=f"rows under way at once, at most {MOST}, or auto: as many as the service takes "
            "(default: auto)",
        )
        parser.add_argument(
            "--ordered", action="store_true", help="put the results into the order of the prompts"
        )
        parser.add_argument(
            "--input-format",
            choices=("jsonl", "text"),
            help="what a file holds (default: by its name, else by its first line)",
        )
        parser.add_argument(
            "-f",
            "--format",
            dest="formatter",
            choices=("json",),
            help="results are JSON lines, whether this is given or not",
        )
        parser.add_argument(
            "--json", action="store_const", const="json", dest="formatter", help="same as -f json"
        )
        parser.add_argument(
            "--with-tokens", action="store_true", help="add token ids and logprobs to the results"
        )
        add_sampling_options(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        model_path, base_model = checked_model(self, parsed_args, "run batch")
        self._check(parsed_args)
        from tinkex.commands.batchfiles import open_prompts

        with ExitStack() as stack:
            prompts = stack.enter_context(
                open_prompts(
                    parsed_args.prompts,
                    self.app.stdin,
                    sampling_params(parsed_args),
                    parsed_args.num_samples,
                    parsed_args.input_format,
                )
            )
            ledger = self._ledger(parsed_args, prompts, model_path)
            deadline = self.client.deadline("sampling")
            sampling = stack.enter_context(
                self.client.create_sampling_client(
                    base_model=base_model, model_path=model_path, deadline=deadline
                )
            )
            tokenizer = find_tokenizer(
                self,
                lambda: parsed_args.tokenizer or sampling.find_base_model(deadline),
                needed=prompts.needs_tokenizer or bool(parsed_args.tokenizer),
            )
            if tokenizer is not None and prompts.needs_template:
                _ = tokenizer.template  # that there is none is told once, not for each row
            if ledger is not None:
                stack.callback(ledger.close)
                ledger.open(resume=parsed_args.resume)
            batch = Batch(self, parsed_args, prompts, sampling, tokenizer, ledger)
            self.result = batch.summary
            return batch.run()

    def _check(self, parsed_args: argparse.Namespace) -> None:
        if parsed_args.output == "-":
            parsed_args.output = None
        if parsed_args.prompts == "-" and self.app.option("api_key") == "-":
            raise UsageError("standard input can give the key or the prompts, not both")
        if parsed_args.resume and parsed_args.force:
            raise UsageError("--resume and --force exclude each other")
        if parsed_args.output is None and (parsed_args.resume or parsed_args.force):
            option = "--resume" if parsed_args.resume else "--force"
            raise UsageError(
                f"{option} needs a file", hint="Name it with --output: --output answers.jsonl"
            )

    def _ledger(
        self, parsed_args: argparse.Namespace, prompts: Prompts, model_path: str | None
    ) -> Ledger | None:
        if parsed_args.output is None:
            return None
        from tinkex.commands.batchfiles import Ledger

        made_by = {name: getattr(parsed_args, name) for name in _DECISIVE}
        # A short name, such as RUN@latest, may mean another checkpoint by the time of --resume.
        made_by |= {"prompts": prompts.digest, "model_path": model_path}
        ledger = Ledger(parsed_args.output, made_by, prompts.total)
        if parsed_args.prompts != "-":
            ledger.keep_off(parsed_args.prompts)
        ledger.check(resume=parsed_args.resume, force=parsed_args.force)
        return ledger


def _concurrency(text: str) -> int | None:
    return None if text == "auto" else integer(1, MOST)(text)


@dataclass
class BatchSummary:
    """What a run over many prompts came to.

    :ivar rows: prompts in all.
    :ivar completed: sampled by this run.
    :ivar skipped: there from an earlier one.
    :ivar tokens: generated by this run.
    :ivar retries: refusals and samples asked for again.
    """

    rows: int = 0
    completed: int = 0
    skipped: int = 0
    failed: int = 0
    tokens: int = 0
    retries: int = 0
    seconds: float = 0.0


class Batch:
    """One run over all rows that are still to be done."""

    def __init__(
        self,
        command: Command,
        options: argparse.Namespace,
        prompts: Prompts,
        sampling: SamplingClient,
        tokenizer: Tokenizer | None,
        ledger: Ledger | None,
    ) -> None:
        self._command = command
        self._options = options
        self._prompts = prompts
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._ledger = ledger
        self._interrupted = self._prompts_lost = False
        self._failures_in_a_row = 0
        self._drawn = 0.0
        self._began = time.monotonic()
        skipped = ledger.done if ledger else 0
        self.summary = BatchSummary(rows=prompts.total, skipped=skipped)

    def run(self) -> int:
        """Sample, write, and return the exit code."""
        # On the way to a file the order does not matter: it is put right in the end, so that no
        # finished row waits in memory for another.
        ordered = self._options.ordered and self._ledger is None
        results = self._sampling.sample_many(
            self._rows(),
            concurrency=self._options.concurrency,
            ordered=ordered,
            tokenizer=self._tokenizer,
        )
        try:
            with _ctrl_c(lambda: self._interrupt(results)):
                hopeless = self._take_all(results)
        except (Terminated, KeyboardInterrupt):  # at once: what is under way is lost
            self._interrupted = True
            self._close_summary()
            self._tell(None)
            raise
        self._close_summary()
        whole = not self._interrupted and hopeless is None
        if self._ledger is not None and self._options.ordered and whole:
            self._ledger.sort()
        self._tell(hopeless)
        if self._interrupted:
            raise KeyboardInterrupt
        if hopeless is not None:
            raise hopeless
        return 1 if self.summary.failed else 0

    def _take_all(self, results: SampledRows) -> TinkexError | None:
        """Write all results; return the error that made an end of it before all were there."""
        hopeless: TinkexError | None = None
        self._draw(results)
        try:
            for result in results:
                hopeless = self._take(result) or hopeless
                if hopeless is not None:
                    results.stop(DRAIN)
                self._draw(results)
        except TinkexError as error:  # there is nowhere to put results, or no more of the prompts
            return error
        return hopeless

    def _rows(self) -> Iterator[SampleRow]:
        from tinkex.api import SampleRow

        try:
            for row in self._prompts:
                if self._ledger is None or row.index not in self._ledger:
                    yield SampleRow(row.prompt, row.params, row.num_samples, key=row)
        except TinkexError:  # they are no more what they were when they were checked
            self._prompts_lost = True
            raise

    def _take(self, result: SampledRow) -> TinkexError | None:
        """Write one result; return its error if that is the end of the whole run."""
        row: PromptRow = result.row.key
        if result.error is not None:
            return self._fail(row, result.error)
        assert result.response is not None
        self._failures_in_a_row = 0
        record: dict[str, Any] = {"id": row.id, "index": row.index}
        record["sequences"] = [self._sequence(s.as_dict()) for s in result.response.sequences]
        if row.extra:
            record["extra"] = row.extra
        if self._ledger is not None:
            self._ledger.write(row.index, record)
        else:
            stdout = self._command.app.stdout
            if stdout.isatty():
                self._command.app.display.clear()
            stdout.write(json_text(record) + "\n")
            stdout.flush()
        self.summary.completed += 1
        self.summary.tokens += sum(len(s.tokens) for s in result.response.sequences)
        return None

    def _sequence(self, whole: dict[str, Any]) -> dict[str, Any]:
        tokens, logprobs = whole["tokens"], whole["logprobs"]
        known = [x for x in logprobs or () if x is not None]
        found: dict[str, Any] = {
            "text": self._tokenizer.decode(tokens) if self._tokenizer else None,
            "stop_reason": whole["stop_reason"],
            "avg_logprob": mean(known),
            "token_count": len(tokens),
        }
        if self._options.with_tokens or self._tokenizer is None:
            found |= {"tokens": tokens, "logprobs": logprobs}
        return found

    def _fail(self, row: PromptRow, error: TinkexError) -> TinkexError | None:
        self.summary.failed += 1
        if self._ledger is not None:
            told = error.as_dict(self._command.operation_name())
            self._ledger.fail({"id": row.id, "index": row.index, "error": told})
        else:
            self._command.app.warn(f"{row.where}: {error}", prefix="Failed: ")
        if isinstance(error, _HOPELESS):
            return error
        # Rows fail one by one; a service that fails, or is gone, fails all of them.
        at_fault = error.category == "server" and isinstance(error, (APIError, ConnectionFailed))
        self._failures_in_a_row = self._failures_in_a_row + 1 if at_fault else 0
        return error if self._failures_in_a_row >= GIVE_UP else None

    def _interrupt(self, results: SampledRows) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        results.stop(DRAIN)

    def _draw(self, results: SampledRows) -> None:
        now = time.monotonic()
        if now - self._drawn < _TICK:
            return
        self._drawn = now
        took = max(now - self._began, 0.001)
        note = f"{self.summary.completed / took:.1f} rows/s, {self.summary.tokens / took:.0f} tok/s"
        if self.summary.failed:
            note += f", {self.summary.failed} failed"
        if self._interrupted:
            note += f", waiting for {results.under_way} under way"
        elif self._sampling.backpressure.is_shut:
            note += ", the service is busy"
        else:
            note += f", {results.under_way} at once"
        done = self.summary.completed + self.summary.skipped + self.summary.failed
        self._command.app.display.count(note, done, self.summary.rows)

    def _close_summary(self) -> None:
        self._command.app.display.clear()
        self.summary.seconds = round(time.monotonic() - self._began, 3)
        self.summary.retries = self._sampling.backpressure.refusals + self._sampling.resubmissions

    def _tell(self, hopeless: TinkexError | None) -> None:
        say, summary = self._command.status, self.summary
        seconds = max(summary.seconds, 0.001)
        say(
            f"{summary.completed} of {summary.rows} rows sampled in {summary.seconds:.1f} s: "
            f"{summary.tokens} tokens ({summary.tokens / seconds:.0f}/s), "
            f"{summary.retries} retries, {summary.failed} failed"
            + (f", {summary.skipped} done before" if summary.skipped else "")
            + "."
        )
        if self._ledger is None:
            return
        if summary.skipped == summary.rows:
            say(f"Nothing was left to do: {self._ledger.name} has all rows")
            return
        if summary.failed:
            say(f"Rows that failed: {self._ledger.failed_path}")
        if self._prompts_lost:
            say(f"{self._ledger.done} rows are in {self._ledger.name}")
        elif self._interrupted or hopeless is not None or summary.failed:
            say(f"{self._ledger.done} rows are in {self._ledger.name}. To go on:")
            say(f"  {self._command_line()}")
        else:
            say(f"Results written to {self._ledger.name}")

    def _command_line(self) -> str:
        words = _without(self._command.app.words, _LEFT_OUT)
        return shlex.join([self._command.app.NAME, *words, "--resume"])


def _without(words: tuple[str, ...], options: dict[str, int]) -> list[str]:
    """Return *words* without some options and as many words after each as it takes."""
    kept: list[str] = []
    skip = 0
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in options:
            skip = 0 if equals else options[name]
        else:
            kept.append(word)
    return kept


@contextmanager
def _ctrl_c(act: Callable[[], None]) -> Iterator[None]:
    """Call *act* at Ctrl-C instead of leaving at once, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
