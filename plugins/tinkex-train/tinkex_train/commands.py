"""The commands of tinkex-train."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinkex.columns import counted
from tinkex.commands.arguments import checkpoint_path
from tinkex.commands.base import ShowOne
from tinkex.exceptions import TinkexError, UsageError
from tinkex.options import integer, non_empty, number

if TYPE_CHECKING:
    from tinkex.api import Tokenizer, TrainingClient
    from tinkex_train.data import DataSet
    from tinkex_train.log import RunDirectory
    from tinkex_train.loop import Plan, Summary

#: As in tinkex_train.learning_rate, tinkex.api.ExampleBuilder and tinkex.api.SupervisedRow, which
#: are not imported for help.
SCHEDULES = ("linear", "cosine", "constant")
TRAIN_ON = ("assistant", "last", "all")
LAYOUTS = ("messages", "completion", "text", "alpaca", "sharegpt")
#: Name of *train_on* in the official cookbook.
_TRAIN_ON_WHAT = {
    "assistant": "all_assistant_messages",
    "last": "last_assistant_message",
    "all": "all_tokens",
}
#: Number of lines of progress if no progress bar is shown.
_LINES = 10


class SftTrain(ShowOne):
    """Fine-tune a model on a file of examples."""

    operation = "Training"
    is_action = True
    column_names = (
        *("training_run_id", "base_model", "steps", "tokens", "seconds", "train_mean_nll"),
        *("test_nll", "state_path", "sampler_path", "output"),
    )
    notes = (
        'Each data row is a JSON object: {"messages": [...]}, {"prompt": ..., "completion": '
        '...}, {"text": ...}, or an Alpaca or ShareGPT row.'
    )
    examples = (
        "tinkex train sft data.jsonl --base-model Qwen/Qwen3-8B --dry-run",
        "tinkex train sft data.jsonl --base-model Qwen/Qwen3-8B -o runs/first",
        "tinkex train sft data.jsonl --base-model Qwen/Qwen3-8B -o runs/first --resume",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "data", metavar="<data>", help="file of training data, as JSONL or a JSON array"
        )
        parser.add_argument("--base-model", metavar="<id>", help="base model to fine-tune")
        parser.add_argument(
            "--model-path",
            metavar="<path>",
            help="training checkpoint to start from, instead of --base-model "
            "(tinker://RUN/weights/NAME, RUN:NAME, @latest)",
        )
        _add_data_options(parser)
        _add_training_options(parser)
        parser.add_argument(
            *("-o", "--output"),
            metavar="<dir>",
            help="directory for the run's metrics and checkpoint list; required without --dry-run",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="resume the interrupted run in the --output directory",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="show the first three examples, with trained tokens marked, instead of training",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        self._check(parsed_args)
        from tinkex_train.log import RunDirectory

        log = None if parsed_args.dry_run else RunDirectory(parsed_args.output)
        if log is not None and log.is_used() and not parsed_args.resume:
            raise UsageError(
                f"{log.name} already contains a training run",
                hint="To continue the run, add --resume. To start another run, choose another "
                "directory with --output.",
            )
        job = self._job(parsed_args)
        if log is None:
            return self._preview(parsed_args, job)
        return self._train(parsed_args, job, log)

    def _check(self, parsed_args: argparse.Namespace) -> None:
        if parsed_args.base_model and parsed_args.model_path:
            raise UsageError("use either --base-model or --model-path")
        if not parsed_args.base_model and not parsed_args.model_path:
            raise UsageError(
                "--base-model or --model-path is required",
                hint="For example: --base-model Qwen/Qwen3-8B; see 'tinkex model list'.",
            )
        if "-" in (parsed_args.data, parsed_args.eval):
            raise UsageError(
                "the data cannot come from standard input, because --resume reads it again",
                hint="Write the data to a file first.",
            )
        if not parsed_args.dry_run and not parsed_args.output:
            raise UsageError(
                "--output is required", hint="Specify a directory for the run: --output runs/first"
            )
        if parsed_args.eval_every and not parsed_args.eval:
            raise UsageError(
                "--eval-every requires --eval",
                hint="Specify a file with held-out rows: --eval FILE",
            )

    def _job(self, parsed_args: argparse.Namespace) -> _Job:
        """Read the data and the tokenizer, and make the plan."""
        from tinkex.api import TinkerPath, load_tokenizer

        base_model, checkpoint = parsed_args.base_model, None
        if parsed_args.model_path:
            checkpoint = checkpoint_path(self, parsed_args.model_path, kind="training")
            if TinkerPath.from_string(checkpoint).kind == "sampler_weights":
                run_id = checkpoint.removeprefix("tinker://").partition("/")[0]
                raise UsageError(
                    f"cannot train from {checkpoint}, because it is a sampler checkpoint",
                    hint="List the run's training checkpoints: "
                    f"tinkex checkpoint list --run-id {run_id} --type training",
                )
            base_model = self.client.checkpoints.info(checkpoint).base_model
            if not base_model:
                raise UsageError(f"the service does not report the base model of {checkpoint}")
        tokenizer = load_tokenizer(parsed_args.tokenizer or base_model)
        data, held_out = self._read(parsed_args, tokenizer, base_model)
        plan = _plan(parsed_args, data, base_model, tokenizer)
        return _Job(base_model, checkpoint, tokenizer, data, held_out, plan)

    def _read(
        self, parsed_args: argparse.Namespace, tokenizer: Tokenizer, base_model: str
    ) -> tuple[DataSet, DataSet | None]:
        """Read the data and the held-out data."""
        from tinkex.api import ExampleBuilder
        from tinkex_train.data import DataSet

        length = parsed_args.max_length or self._context(
            base_model, is_optional=parsed_args.dry_run
        )
        builder = ExampleBuilder(tokenizer, train_on=parsed_args.train_on, max_length=length)
        found: list[DataSet | None] = []
        for name in (parsed_args.data, parsed_args.eval):
            found.append(name and DataSet.read(name, builder, parsed_args.input_format))
        for data in filter(None, found):
            if data.truncated:
                self.status(
                    f"Warning: {data.truncated} of {len(data.examples)} examples in {data.name} "
                    f"are longer than {length} tokens and are truncated."
                )
        assert found[0] is not None
        return found[0], found[1]

    def _context(self, base_model: str, *, is_optional: bool) -> int | None:
        """Return the context length of the model, if the service reports it."""
        try:
            for model in self.client.models.list():
                if model.model_name == base_model:
                    return model.max_context_length
        except TinkexError:
            if not is_optional:
                raise
        return None

    def _preview(self, parsed_args: argparse.Namespace, job: _Job) -> Any:
        from tinkex_train import preview

        data = job.data
        is_json = parsed_args.formatter == "json"
        if not is_json and not getattr(self.app_args, "quiet", False):
            preview.show(data, job.tokenizer, self.app.stderr)
        shown: dict[str, Any] = {
            "rows": data.rows,
            "examples": len(data.examples),
            "truncated": data.truncated,
            "longest": data.longest,
            "tokens": data.tokens,
            "trained_tokens": data.trained_tokens,
            "eval_examples": len(job.held_out.examples) if job.held_out else None,
            "batch_size": job.plan.batches.size,
            "steps": job.plan.batches.steps,
            "learning_rate": job.plan.learning_rate,
        }
        if is_json:
            shown["preview"] = preview.records(data, job.tokenizer)
        return tuple(shown), tuple(shown.values())

    def _train(self, parsed_args: argparse.Namespace, job: _Job, log: RunDirectory) -> Any:
        config = _config(parsed_args, job)
        last = None
        if parsed_args.resume:
            log.check_config(config)
            last = log.last_checkpoint()
            if last is None and log.is_used():
                self.status(f"{log.name} has no checkpoint to resume from. Starting over.")
            if last and last.get("final"):
                self.status(f"Nothing to do: the run in {log.name} is complete.")
                return self._finished(job, log, last)
        step = last["epoch"] * job.plan.batches.per_epoch + last["batch"] if last else 0
        with ExitStack() as stack:
            stack.callback(log.close)
            log.lock()
            training = stack.enter_context(self._training(parsed_args, job, last))
            log.begin(config, step)
            steps, rate = counted(job.plan.batches.steps, "step"), job.plan.learning_rate
            self.status(f"Training run {training.model_id}: {steps}, learning rate {rate:g}")
            summary = self._run(training, job, log, step)
        return self._results(training.model_id, job.base_model, summary, log)

    def _training(
        self, parsed_args: argparse.Namespace, job: _Job, last: dict[str, Any] | None
    ) -> TrainingClient:
        """Start a training run on the service.

        :param last: the record of the checkpoint to resume from.
        """
        if last is not None:
            path = last["state_path"]
            self.status(f"Resuming from {path}")
            return self.client.create_training_client_from_checkpoint(path, optimizer=True)
        if job.checkpoint is not None:
            return self.client.create_training_client_from_checkpoint(job.checkpoint)
        return self.client.create_lora_training_client(
            job.base_model, rank=parsed_args.rank, seed=parsed_args.seed
        )

    def _run(self, training: TrainingClient, job: _Job, log: RunDirectory, start: int) -> Summary:
        from tinkex_train.loop import Trainer
        from tinkex_train.preview import sparkline

        trainer = Trainer(
            *(self.client, training, job.data, job.held_out, job.plan, log),
            start=start,
            on_step=self._progress(job.plan.batches.steps),
            say=self.status,
        )
        try:
            summary = trainer.run()
        except (TinkexError, KeyboardInterrupt, SystemExit):
            if log.last_checkpoint():
                self.status("To resume:")
                self.status(f"  {self.resume_command()}")
            raise
        losses = summary.losses
        if losses:
            self.status(f"Loss: {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
        return summary

    def _progress(self, steps: int) -> Callable[[Summary], None]:
        """Return a function that shows the progress, in a bar or, without a terminal, in lines."""
        lines_every = -(-steps // _LINES)

        def show(summary: Summary) -> None:
            rate = summary.tokens / max(summary.seconds, 0.001)
            text = f"loss {summary.losses[-1]:.3f}, {rate:.0f} tok/s"
            is_drawn = self.show_count(text, summary.steps, steps)
            if not is_drawn and summary.steps % lines_every == 0:
                self.status(f"Step {summary.steps} of {steps}: {text}")

        return show

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        rounded = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in record.items()}
        return super().plain_lines(rounded)

    def _finished(self, job: _Job, log: RunDirectory, last: dict[str, Any]) -> Any:
        """Return the results of a run that is complete."""
        from tinkex_train.loop import Summary

        rows = log.metrics()
        summary = Summary(job.plan.batches.steps)
        summary.losses = [row["train_mean_nll"] for row in rows if row.get("train_mean_nll")]
        summary.test_nll = next((r["test/nll"] for r in reversed(rows) if "test/nll" in r), None)
        summary.state_path, summary.sampler_path = last["state_path"], last.get("sampler_path")
        run_id = last["state_path"].removeprefix("tinker://").partition("/")[0]
        return self._results(run_id, job.base_model, summary, log)

    def _results(self, run_id: str, base_model: str, summary: Summary, log: RunDirectory) -> Any:
        self.result = summary
        last = summary.losses[-1] if summary.losses else None
        return self.column_names, (
            *(run_id, base_model, summary.steps, summary.tokens, summary.seconds, last),
            *(summary.test_nll, summary.state_path, summary.sampler_path, log.name),
        )


@dataclass(frozen=True)
class _Job:
    """The models, data and plan of a training run.

    :ivar checkpoint: path of the checkpoint to start from, if any.
    """

    base_model: str
    checkpoint: str | None
    tokenizer: Tokenizer
    data: DataSet
    held_out: DataSet | None
    plan: Plan


def _plan(
    parsed_args: argparse.Namespace, data: DataSet, base_model: str, tokenizer: Tokenizer
) -> Plan:
    from tinkex_train import learning_rate
    from tinkex_train.data import Batches
    from tinkex_train.loop import Plan

    size, epochs, seed = parsed_args.batch_size, parsed_args.epochs, parsed_args.seed
    rate = parsed_args.learning_rate
    return Plan(
        Batches(len(data.examples), size, epochs, seed),
        rate or learning_rate.suggested(base_model, tokenizer.directory),
        parsed_args.schedule,
        parsed_args.eval_every,
        parsed_args.save_every,
        parsed_args.name,
    )


def _config(parsed_args: argparse.Namespace, job: _Job) -> dict[str, Any]:
    """Return the configuration in the format of the official cookbook."""
    from tinkex_train import __version__
    from tinkex_train.loop import ADAM

    plan, data, held_out = job.plan, job.data, job.held_out
    return {
        "log_path": parsed_args.output,
        "model_name": job.base_model,
        "load_checkpoint_path": job.checkpoint,
        "lora_rank": parsed_args.rank,
        "learning_rate": plan.learning_rate,
        "lr_schedule": plan.schedule,
        "num_epochs": plan.batches.epochs,
        "eval_every": plan.eval_every,
        "save_every": plan.save_every,
        **{f"adam_{name}": value for name, value in ADAM.items()},
        "dataset_builder": {
            "file_path": data.name,
            "sha256": data.digest,
            "test_file_path": held_out.name if held_out else None,
            "test_sha256": held_out.digest if held_out else None,
            "num_examples": len(data.examples),
            "num_tokens": data.tokens,
            "batch_size": plan.batches.size,
            "shuffle_seed": plan.batches.seed,
            "max_length": parsed_args.max_length,
            "train_on_what": _TRAIN_ON_WHAT[parsed_args.train_on],
        },
        "tinkex_train": __version__,
    }


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-format",
        choices=LAYOUTS,
        help="format of all rows (default: detected for each row)",
    )
    parser.add_argument(
        "--train-on",
        choices=TRAIN_ON,
        default="assistant",
        help="part of a conversation to train on: every assistant message, the last "
        "assistant message, or all tokens (default: assistant)",
    )
    parser.add_argument(
        "--max-length",
        metavar="<int>",
        type=integer(2),
        help="maximum number of tokens per row; longer 'text' rows are split, and other longer "
        "rows are truncated (default: the model's context length, if known)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="<name>",
        help="model name or local directory to load the tokenizer from (default: base model)",
    )
    parser.add_argument("--eval", metavar="<file>", help="file with held-out rows for evaluation")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    def add(name: str, metavar: str, kind: Callable[[str], Any], default: Any, text: str) -> None:
        shown = "auto" if default is None else default
        parser.add_argument(
            name, metavar=metavar, type=kind, default=default, help=f"{text} (default: {shown})"
        )

    rate = number(0, above=True)
    add("--rank", "<int>", integer(1), 32, "LoRA rank; ignored with --model-path")
    add("--epochs", "<int>", integer(1), 1, "number of passes over the data")
    add("--batch-size", "<int>", integer(1), 16, "number of examples per step")
    add(
        *("--learning-rate", "<float>", lambda text: None if text == "auto" else rate(text), None),
        "initial learning rate; auto selects one for the model",
    )
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="linear",
        help="learning rate schedule: linear or cosine decay to 0, or constant (default: linear)",
    )
    add("--seed", "<int>", integer(0), 0, "seed for adapter initialization and data order")
    add(
        *("--eval-every", "<int>", integer(0), 0),
        "number of steps between evaluations; 0: only at the beginning and the end",
    )
    add(
        *("--save-every", "<int>", integer(0), 20),
        "number of steps between checkpoints, which expire after 7 days; 0: save only the final "
        "checkpoint, which does not expire",
    )
    add("--name", "<name>", non_empty, "final", "name of the final checkpoint")
