"""The command ``checkpoint push-hf``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Structure, plain_text
from tinkex.commands.base import ShowOne
from tinkex.exceptions import APIError, LocalError, SettingsError, Unauthorized, UsageError
from tinkex.files import user_path
from tinkex.options import non_empty

if TYPE_CHECKING:
    from tinkex.api import CheckpointInfo, TinkerPath
    from tinkex_hub.hub import Hub, Pushed


class PushHfCheckpoint(ShowOne):
    """Upload a checkpoint to the Hugging Face Hub as a PEFT adapter."""

    is_action = True
    column_names = (
        "tinker_path", "repo_id", "revision", "public", "url", "commit", "pull_request", "files",
    )  # fmt: skip
    examples = (
        "tinkex checkpoint push-hf tinker://run-123/weights/final --repo ada/my-adapter",
        "tinkex checkpoint push-hf tinker://run-123/weights/final -r ada/my-adapter --create-pr",
        "pass show hf | tinkex checkpoint push-hf tinker://run-123/weights/final --hf-token -",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "tinker_path",
            metavar="<tinker_path>",
            help="checkpoint path, such as tinker://run-123/weights/0001",
        )
        parser.add_argument(
            "-r",
            "--repo",
            metavar="<repo>",
            type=non_empty,
            help="repository, as owner/name (default: one of your own, named after base model and "
            "run, with a branch named after the checkpoint)",
        )
        parser.add_argument(
            "--public", action="store_true", help="make a new repository public (default: private)"
        )
        parser.add_argument(
            "--revision", metavar="<branch>", type=non_empty, help="branch; made if it is missing"
        )
        parser.add_argument(
            "--commit-message", metavar="<text>", type=non_empty, help="message of the commit"
        )
        parser.add_argument(
            "--create-pr", action="store_true", help="open a pull request instead of committing"
        )
        _add_choice(parser, "--allow-pattern", "only files whose names match this shell pattern")
        _add_choice(parser, "--ignore-pattern", "no files whose names match this shell pattern")
        parser.add_argument(
            "--hf-token",
            metavar="<token>",
            help="token of the hub; - reads it from standard input, @FILE from a file [HF_TOKEN]",
        )
        parser.add_argument(
            "--no-model-card", action="store_true", help=f"write no {'README.md'} where none is"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api import TinkerPath
        from tinkex_hub.hub import Hub

        path = TinkerPath.from_string(parsed_args.tinker_path)
        if parsed_args.create_pr and parsed_args.revision not in (None, "main"):
            raise UsageError("a pull request is against main: leave --revision or --create-pr out")
        self.client  # noqa: B018 - a missing key shows before anything else
        hub = Hub(self._token(parsed_args.hf_token), self.settings.timeout, visible=self._visible())
        owners = hub.owners()
        with _scratch() as scratch:
            push = _Push(self, parsed_args, path, hub, owners, scratch)
            push.run()
        self.result = {
            "tinker_path": str(path),
            "repo_id": push.repo,
            "revision": push.revision or "main",
            "public": not push.private,
            "url": push.pushed.url,
            "commit": push.pushed.commit,
            "pull_request": parsed_args.create_pr,
            "files": [name for name, _ in push.files],
        }
        shown = {"public": Flag, "pull_request": Flag, "files": Structure}
        return self.column_names, tuple(
            shown[name](value) if name in shown else value for name, value in self.result.items()
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Pushed {plain_text(record['tinker_path'])} to {plain_text(record['url'])}"]

    def _token(self, argument: str | None) -> str | None:
        if argument is None or not argument.startswith(("@", "-")):
            return argument
        try:
            if argument.startswith("@"):
                text = user_path(argument[1:]).read_text(encoding="utf-8")
            else:
                text = self.app.stdin.readline() if self.app.stdin else ""
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8 text"
            raise LocalError(f"cannot read the token from {argument[1:]}: {why}") from error
        if not text.strip():
            raise SettingsError(f"no Hugging Face token in {argument[1:] or 'standard input'}")
        return text.strip()

    def _visible(self) -> bool:
        """Tell whether progress of huggingface_hub, which draws on its own, may be seen."""
        stream = self.app.stderr
        return stream is sys.stderr and stream.isatty()


class _Push:
    """One upload: what is known of it grows from step to step."""

    def __init__(
        self,
        command: PushHfCheckpoint,
        options: argparse.Namespace,
        path: TinkerPath,
        hub: Hub,
        owners: list[str],
        scratch: Path,
    ) -> None:
        self._command, self._options = command, options
        self._path, self._hub, self._scratch = path, hub, scratch
        self._owners = owners
        self._info = self._described()
        self._base_model = self._info.base_model if self._info else None
        self.repo, self.revision = self._target(owners[0])
        self.private = not options.public
        self._has_card = False
        self.files: list[tuple[str, Path]] = []
        self.pushed: Pushed

    def run(self) -> None:
        """Do it: nothing is downloaded before the repository is known to be the right one."""
        exists = self._check_repository()
        directory = self._scratch / "files"
        self._download(directory)
        if not self._options.no_model_card and not self._has_card:
            self._write_card(directory)
        self.files = self._chosen(directory)
        self._hub.prepare(self.repo, self._branch, private=self.private, exists=exists)
        self._command.status(f"Uploading {len(self.files)} files to {self.repo}...")
        message = self._options.commit_message or f"Upload {self._path} with tinkex"
        pull_request = self._options.create_pr
        self.pushed = self._hub.push(
            self.repo, self._branch, self.files, message, pull_request=pull_request
        )

    @property
    def _branch(self) -> str | None:
        return None if self._options.create_pr else self.revision

    def _described(self) -> CheckpointInfo | None:
        try:
            return self._command.client.checkpoints.info(str(self._path))
        except Unauthorized:
            raise
        except APIError:
            return None  # the download will tell if there is no such checkpoint

    def _target(self, account: str) -> tuple[str, str | None]:
        from tinkex_hub import names

        repo, revision = self._options.repo, self._options.revision
        if repo is None:
            repo = names.default_repo(self._path, self._base_model)
            if revision is None and not self._options.create_pr:
                revision = names.default_revision(self._path)
        return (repo if "/" in repo else f"{account}/{repo}"), revision

    def _check_repository(self) -> bool:
        """Refuse a repository of another checkpoint or one more public than meant.

        :return: whether it is there already.
        """
        from tinkex_hub import card

        private = self._hub.is_private(self.repo)
        owner = self.repo.partition("/")[0]
        if private is None and owner not in self._owners:
            raise UsageError(
                f"there is no repository {self.repo}, and {self._owners[0]} cannot create it",
                hint=f"Repositories of {', '.join(self._owners)} can be created.",
            )
        if private is None:
            return False
        if not private and not self._options.public:
            raise UsageError(
                f"the repository {self.repo} is public", hint="If that is meant, add --public."
            )
        if private and self._options.public:
            self._command.status(f"The repository {self.repo} is there already and stays private.")
        self.private = private
        text = self._hub.card_of(self.repo, self._branch, self._scratch / "cache")
        named = card.path_in(text) if text else None
        if named and named != str(self._path):
            raise UsageError(
                f"the repository {self.repo} belongs to another checkpoint: {named}",
                hint="Name another --repo or --revision.",
            )
        self._has_card = text is not None
        return True

    def _download(self, directory: Path) -> None:
        from tinkex_hub import adapter

        command = self._command
        command.status(f"Downloading {self._path}...")
        command.client.checkpoints.download(
            str(self._path), directory, on_progress=command.show_transfer
        )
        adapter.check(directory)
        self._base_model = adapter.fill_base_model(directory, self._base_model)

    def _write_card(self, directory: Path) -> None:
        from tinkex_hub import card

        file = directory / card.NAME
        if file.exists():
            return
        text = card.written(self._path, self.repo, self._base_model, self._info)
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise LocalError(f"cannot write the model card: {error.strerror}") from error

    def _chosen(self, directory: Path) -> list[tuple[str, Path]]:
        from huggingface_hub.utils import filter_repo_objects

        from tinkex_hub import adapter

        names = sorted(
            file.relative_to(directory).as_posix()
            for file in directory.rglob("*")
            if file.is_file()
        )
        kept = filter_repo_objects(
            [name for name in names if name not in adapter.BOOKKEEPING],
            allow_patterns=self._options.allow_pattern or None,
            ignore_patterns=self._options.ignore_pattern or None,
        )
        chosen = [(name, directory / name) for name in kept]
        if not chosen:
            raise UsageError(
                "the patterns leave no file to upload", hint=f"There are: {', '.join(names[:6])}."
            )
        return chosen


@contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a private directory that is gone afterwards, whatever happens."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="tinkex-hub-")
    except OSError as error:
        raise LocalError(
            f"no temporary directory can be made: {error.strerror}",
            hint="Free some space, or name another directory with TMPDIR.",
        ) from error
    with directory as name:
        yield Path(name)


def _add_choice(parser: argparse.ArgumentParser, option: str, words: str) -> None:
    parser.add_argument(
        option,
        metavar="<pattern>",
        type=non_empty,
        action="append",
        default=[],
        help=f"{words}; may be repeated",
    )
