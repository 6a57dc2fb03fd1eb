"""Sample many prompts."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tinkex.commands.arguments import add_model_options
from tinkex.commands.base import Command
from tinkex.commands.sample import (
    add_sampling_options,
    checked_model,
    find_tokenizer,
    sampling_params,
)
from tinkex.exceptions import UsageError
from tinkex.options import integer

if TYPE_CHECKING:
    from tinkex.commands.ledger import Ledger
    from tinkex.commands.rows import Prompts

#: Maximum number of concurrent requests; as in tinkex.api.sampling.batch, not imported for help.
MOST = 256
#: Options that decide about results: a run goes on only with the same.
_DECISIVE = (
    *("base_model", "model_path", "max_tokens", "temperature", "top_k", "top_p", "seed"),
    *("stop", "num_samples", "tokenizer", "with_tokens"),
)


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
        from tinkex.commands.batching import Batch
        from tinkex.commands.rows import open_prompts

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
        from tinkex.commands.ledger import Ledger

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
