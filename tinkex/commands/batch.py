"""Generate samples for many prompts."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tinkex.cli.errors import hint_for, is_unloaded
from tinkex.columns import Dollars, counted, heading, json_text, plain_text
from tinkex.commands.arguments import add_formats, add_model_options, check_stdin
from tinkex.commands.base import Command
from tinkex.commands.billing import add_prices, find_prices
from tinkex.commands.sampling import (
    add_chat_options,
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
    from tinkex.api import SampledRow, SampleRow, SamplingClient, Tokenizer
    from tinkex.commands.batch_prompts import PromptRow, PromptSource
    from tinkex.commands.batch_results import ResultsFile
    from tinkex.config.prices import TokenPrices

__all__ = ["BatchRun", "BatchSummary"]

#: As in tinkex.api.sampling.batch, which is not imported for help.
MAX_CONCURRENCY = 256
#: Options that the results depend on; resuming a batch requires the same values.
_DECISIVE = (
    *("base_model", "model_path", "max_tokens", "temperature", "top_k", "top_p", "seed"),
    *("stop", "num_samples", "tokenizer", "with_tokens"),
)
#: Number of consecutive rows failed by the service after which the batch ends.
_GIVE_UP = 20
#: Errors that would occur for every other row too.
_FATAL = (Unauthorized, PaymentRequired, NotOffered, TLSError, SettingsError)
#: Minimum number of seconds between two updates of the progress bar.
_TICK = 0.1


class BatchRun(Command):
    """Generate samples for many prompts and write them as JSON lines."""

    operation = "Batch"
    #: Whether the results file is temporary: failures are reported at once, and the command does
    #: not suggest --resume.
    is_temporary = False
    examples = (
        "tinkex run batch prompts.jsonl --base-model Qwen/Qwen3-8B -o answers.jsonl",
        "tinkex run batch in.jsonl --base-model Qwen/Qwen3-8B -o out.jsonl --resume",
        "shuf prompts.txt | tinkex run batch - --base-model Qwen/Qwen3-8B --top-k 9",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "prompts",
            metavar="<prompts>",
            help="JSONL or JSON array file, text file with one prompt per line, or directory with "
            "one prompt per file; - is standard input",
        )
        add_model_options(parser)
        _add_output_options(parser)
        parser.add_argument(
            "--concurrency",
            metavar="<int>",
            type=_concurrency,
            default=None,
            help=f"number of concurrent requests, at most {MAX_CONCURRENCY}, or auto to adapt to "
            "the service (default: auto)",
        )
        parser.add_argument(
            "--input-format",
            choices=("jsonl", "text"),
            help="input format (default: detected from the file name or the first line)",
        )
        add_chat_options(parser)
        add_sampling_options(parser)
        parser.add_argument(
            "--estimate", action="store_true", help="only estimate tokens and, with --prices, cost"
        )
        add_prices(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        model_path, base_model = checked_model(self, parsed_args, "run batch")
        self._check(parsed_args)
        from tinkex.commands.batch_prompts import PromptSource

        with ExitStack() as stack:
            params, num_samples = sampling_params(parsed_args), parsed_args.num_samples
            name, kind = parsed_args.prompts, parsed_args.input_format
            chat = {"chat": parsed_args.chat, "system": parsed_args.system}
            prompts = PromptSource(name, self.app.stdin, params, num_samples, kind, **chat)
            stack.callback(prompts.close)
            if doubt := prompts.doubt("treated"):
                self.app.warn(doubt)
            if parsed_args.estimate:
                return self._estimate(parsed_args, prompts, model_path, base_model)
            file = self._results_file(parsed_args, prompts, model_path)
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
                # Report a missing template once, not for each row.
                _ = tokenizer.stop_sequences
            if file is not None:
                stack.callback(file.close)
                file.open(resume=parsed_args.resume)
            batch = _Batch(self, parsed_args, prompts, sampling, tokenizer, file)
            self.result = batch.summary
            return batch.run()

    def _estimate(
        self,
        parsed_args: argparse.Namespace,
        prompts: PromptSource,
        model_path: str | None,
        base_model: str | None,
    ) -> int:
        """Print the number of tokens, and the maximum cost of sampling."""
        if base_model is None:
            assert model_path is not None
            base_model = self.client.checkpoints.info(model_path).base_model or ""
        prices = find_prices(self, parsed_args.prices, base_model)
        tokenizer = find_tokenizer(
            self, lambda: parsed_args.tokenizer or base_model, needed=prompts.needs_tokenizer
        )
        self.result = estimate = _estimated(prompts, tokenizer, base_model, prices)
        if prices and estimate.max_cost_usd is None:
            self.app.warn(f"{parsed_args.prices} lacks a prefill or sample price for {base_model}")
        stdout = self.app.stdout
        if (parsed_args.formatter or self.format_before_command(("json",))) == "json":
            stdout.write(json_text(asdict(estimate)) + "\n")
        else:
            stdout.writelines(f"{line}\n" for line in estimate.lines())
        return 0

    def _check(self, parsed_args: argparse.Namespace) -> None:
        if parsed_args.prices and not parsed_args.estimate:
            raise UsageError("--prices requires --estimate", hint="Add --estimate.")
        if parsed_args.prompts == "-":
            check_stdin(self, "prompts")
        if parsed_args.resume and parsed_args.force:
            raise UsageError("use either --resume or --force", hint="Omit one of the two.")
        if parsed_args.output is None and (parsed_args.resume or parsed_args.force):
            option = "--resume" if parsed_args.resume else "--force"
            raise UsageError(
                f"{option} requires --output with a file",
                hint="For example: --output answers.jsonl",
            )

    def _results_file(
        self, parsed_args: argparse.Namespace, prompts: PromptSource, model_path: str | None
    ) -> ResultsFile | None:
        if parsed_args.output is None:
            return None
        from tinkex.commands.batch_results import ResultsFile

        # An option that is not given is None, as in records of versions without the option.
        made_by = {name: getattr(parsed_args, name) or None for name in ("chat", "system")}
        made_by |= {name: getattr(parsed_args, name) for name in _DECISIVE}
        # A short name, such as RUN@latest, may mean another checkpoint by the time of --resume.
        made_by |= {"prompts": prompts.digest, "model_path": model_path}
        file = ResultsFile(parsed_args.output, made_by, prompts.total)
        if parsed_args.prompts != "-":
            file.check_apart_from(parsed_args.prompts)
        file.check(resume=parsed_args.resume, force=parsed_args.force)
        return file


@dataclass(frozen=True)
class BatchEstimate:
    """Upper limits of the tokens and the cost of a batch.

    :ivar prompts: number of prompts.
    :ivar prefill_tokens: tokens of all prompts.
    :ivar cached_tokens: prompt tokens of all samples except the first for each prompt.
    :ivar max_sampled_tokens: maximum number of generated tokens.
    :ivar max_cost_usd: cost if all of these tokens are generated, or ``None`` if a price is
        missing; without a price for cached tokens, the price for prefill applies.
    :ivar prices_date: day from which the prices are valid.
    """

    base_model: str
    prompts: int
    prefill_tokens: int
    cached_tokens: int
    max_sampled_tokens: int
    max_cost_usd: float | None = None
    prices_date: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield the lines of the plain format."""
        for name, value in asdict(self).items():
            if name not in ("max_cost_usd", "prices_date"):
                yield f"{heading(name)}: {plain_text(value)}"
        if self.max_cost_usd is not None:
            cost = Dollars(self.max_cost_usd).human_readable()
            yield f"Cost: at most {cost} (prices as of {plain_text(self.prices_date)})"


def _estimated(
    prompts: PromptSource, tokenizer: Tokenizer | None, model: str, prices: TokenPrices | None
) -> BatchEstimate:
    from tinkex.api.sampling.client import encode_prompt
    from tinkex.api.sampling.types import DEFAULT_MAX_TOKENS
    from tinkex.config.prices import cost

    prefill = cached = sampled = 0
    for row in prompts:
        size = len(encode_prompt(tokenizer, row.prompt))
        prefill += size
        cached += size * (row.num_samples - 1)
        sampled += row.num_samples * (row.params.max_tokens or DEFAULT_MAX_TOKENS)
    estimate = BatchEstimate(model, prompts.total, prefill, cached, sampled)
    if prices is None:
        return estimate
    again = prices.prefill if prices.cached is None else prices.cached
    parts = [
        cost(tokens, price)
        for tokens, price in ((prefill, prices.prefill), (cached, again), (sampled, prices.sample))
    ]
    known = [part for part in parts if part is not None]
    total = math.fsum(known) if len(known) == len(parts) else None
    return replace(estimate, max_cost_usd=total, prices_date=prices.date)


@dataclass
class BatchSummary:
    """The outcome of a batch.

    :ivar rows: number of prompts.
    :ivar completed: rows sampled by this run.
    :ivar skipped: rows sampled by an earlier run.
    :ivar tokens: tokens generated by this run.
    :ivar retries: number of resubmissions, of rejected and of lost samples.
    """

    rows: int = 0
    completed: int = 0
    skipped: int = 0
    failed: int = 0
    tokens: int = 0
    retries: int = 0
    seconds: float = 0.0


@dataclass
class _Batch:
    """A single pass over the rows that have no result yet."""

    command: BatchRun
    options: argparse.Namespace
    prompts: PromptSource
    sampling: SamplingClient
    tokenizer: Tokenizer | None
    file: ResultsFile | None

    def __post_init__(self) -> None:
        self._started = self._consecutive_failures = 0
        self._drawn = 0.0
        self._began = time.monotonic()
        skipped = self.file.done if self.file else 0
        self.summary = BatchSummary(rows=self.prompts.total, skipped=skipped)

    def run(self) -> int:
        """Sample the rows, write the results, and return the exit code."""
        try:
            failure = self._sample_all()
        except (Terminated, KeyboardInterrupt) as interruption:
            self._report(interruption)
            raise
        if self.file is not None and self.options.ordered and failure is None:
            self.file.sort()
        self._report(failure)
        if failure is not None:
            raise failure
        return 1 if self.summary.failed else 0

    def _sample_all(self) -> TinkexError | None:
        """Write all results; return the error that ended the batch early."""
        # A file is sorted at the end, so that no finished row waits in memory for another.
        results = self.sampling.sample_many(
            self._rows(),
            concurrency=self.options.concurrency,
            ordered=self.options.ordered and self.file is None,
            tokenizer=self.tokenizer,
        )
        with closing(results):
            self._show_progress()
            try:
                for result in results:
                    self._take(result)
                    self._show_progress()
                if self.file is not None:
                    self.file.check_in_place()
            except TinkexError as error:
                return error
        return None

    def _rows(self) -> Iterator[SampleRow]:
        from tinkex.api import SampleRow

        for row in self.prompts:
            if self.file is None or row.index not in self.file:
                self._started += 1
                yield SampleRow(row.prompt, row.params, row.num_samples, key=row)

    def _take(self, result: SampledRow) -> None:
        """Write one result.

        :raises TinkexError: it cannot be written, or the row's error ends the whole batch.
        """
        row: PromptRow = result.row.key
        if result.response is None:
            assert result.error is not None
            self._take_failed(row, result.error)
            return
        self._consecutive_failures = 0
        record: dict[str, Any] = {"id": row.id, "index": row.index}
        record["sequences"] = [
            self._sequence(s.as_dict(), self._text(s.tokens, result))
            for s in result.response.sequences
        ]
        if row.extra:
            record["extra"] = row.extra
        if self.file is not None:
            self.file.write(row.index, record)
        else:
            stdout = self.command.app.stdout
            if stdout.isatty():
                self.command.app.display.clear()
            stdout.write(json_text(record) + "\n")
            stdout.flush()
        self.summary.completed += 1
        self.summary.tokens += sum(len(s.tokens) for s in result.response.sequences)

    def _take_failed(self, row: PromptRow, error: TinkexError) -> None:
        self.summary.failed += 1
        if self.file is None or self.command.is_temporary:
            self.command.app.warn(f"{row.where}: {error}", prefix="Failed: ")
        else:
            error.hint = hint_for(error)
            failure = error.as_dict(self.command.operation_name())
            self.file.write_failed({"id": row.id, "index": row.index, "error": failure})
        # Single rows may fail; a broken service fails all of them.
        is_service = error.category == "server" and isinstance(error, (APIError, ConnectionFailed))
        self._consecutive_failures = self._consecutive_failures + 1 if is_service else 0
        if (
            isinstance(error, _FATAL)
            or is_unloaded(error)
            or self._consecutive_failures >= _GIVE_UP
        ):
            raise error

    def _text(self, tokens: Sequence[int], result: SampledRow) -> str | None:
        from tinkex.api.sampling.types import is_chat

        if self.tokenizer is None:
            return None
        if is_chat(result.row.prompt):
            return self.tokenizer.decode_reply(tokens)
        return self.tokenizer.decode(tokens, after=result.tail)

    def _sequence(self, whole: Mapping[str, Any], text: str | None) -> dict[str, Any]:
        tokens, logprobs = whole["tokens"], whole["logprobs"]
        sequence: dict[str, Any] = {
            "text": text,
            "stop_reason": whole["stop_reason"],
            "avg_logprob": mean(logprobs),
            "token_count": len(tokens),
        }
        if self.options.with_tokens or self.tokenizer is None:
            sequence |= {"tokens": tokens, "logprobs": logprobs}
        return sequence

    def _show_progress(self) -> None:
        now = time.monotonic()
        if now - self._drawn < _TICK:
            return
        self._drawn = now
        summary = self.summary
        took = max(now - self._began, 0.001)
        note = f"{summary.completed / took:.1f} rows/s, {summary.tokens / took:.0f} tok/s"
        if summary.failed:
            note += f", {summary.failed} failed"
        if self.sampling.backpressure.is_shut:
            note += ", the service is busy"
        else:
            note += f", {self._started - summary.completed - summary.failed} in progress"
        done = summary.completed + summary.skipped + summary.failed
        self.command.app.display.count(note, done, summary.rows)

    def _report(self, end: BaseException | None) -> None:
        """Report the outcome, and how to resume a batch that is not complete.

        :param end: what ended the batch early.
        """
        from tinkex.commands.batch_prompts import PromptsChanged
        from tinkex.commands.batch_results import ResultsMoved

        self.command.app.display.clear()
        say, summary, file = self.command.status, self.summary, self.file
        summary.seconds = round(time.monotonic() - self._began, 3)
        summary.retries = self.sampling.backpressure.refusals + self.sampling.resubmissions
        rate = summary.tokens / max(summary.seconds, 0.001)
        say(
            f"{summary.completed} of {summary.rows} rows completed in {summary.seconds:.1f} s: "
            f"{counted(summary.tokens, 'token')} ({rate:.0f}/s), {summary.retries} "
            f"{'retry' if summary.retries == 1 else 'retries'}, {summary.failed} failed"
            + (f", {summary.skipped} already done." if summary.skipped else ".")
        )
        if file is None or self.command.is_temporary:
            return
        if summary.skipped == summary.rows:
            say(f"Nothing to do: {file.name} already contains all results")
            return
        if summary.failed:
            say(f"Failed rows: {file.failed_path}")
        if isinstance(end, PromptsChanged):  # --resume would reject them
            say(f"Results in {file.name}: {file.done}")
        elif end is not None or summary.failed:
            where = "the original file" if isinstance(end, ResultsMoved) else file.name
            say(f"Results in {where}: {file.done}. To resume:")
            say(f"  {self.command.resume_command()}")
        else:
            say(f"Results written to {file.name}")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="<path>",
        type=lambda text: None if text == "-" else text,
        help="results file (default, or -: standard output); --resume and --force require a file",
    )
    parser.add_argument("--resume", action="store_true", help="resume an interrupted batch")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--ordered", action="store_true", help="write the results in the order of the prompts"
    )
    add_formats(parser, ("json",), "output format of --estimate; results are always JSON lines")
    parser.add_argument(
        "--with-tokens", action="store_true", help="add token ids and logprobs to the results"
    )


def _concurrency(text: str) -> int | None:
    return None if text == "auto" else integer(1, MAX_CONCURRENCY)(text)
