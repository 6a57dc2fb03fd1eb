"""The command ``checkpoint push-hf``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Structure, counted, plain_text
from tinkex.commands.arguments import add_path, checkpoint_path
from tinkex.commands.base import ShowOne
from tinkex.exceptions import APIError, LocalError, SettingsError, Unauthorized, UsageError
from tinkex.files import user_path
from tinkex.options import non_empty
from tinkex_hub.commands import sources

if TYPE_CHECKING:
    from tinkex.api import AdapterMismatch, CheckpointInfo, TinkerPath
    from tinkex_hub.hub import Hub, Pushed


#: Maximum length of a repository's name on the hub.
_MAX_NAME = 96


class PushHfCheckpoint(ShowOne):
    """Upload a checkpoint to the Hugging Face Hub."""

    is_action = True
    column_names = (
        "tinker_path", "repo_id", "revision", "public", "url", "commit", "pull_request", "format",
        "files",
    )  # fmt: skip
    examples = (
        "tinkex checkpoint push-hf tinker://run-123/weights/final --repo ada/my-adapter",
        "tinkex checkpoint push-hf run-123:final -r ada/my-adapter --create-pr",
        "pass show hf | tinkex checkpoint push-hf run-123:final --hf-token -",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_path(parser)
        parser.add_argument(
            "--raw",
            action="store_true",
            help="upload the tensors unchanged (default: convert them to the names and shapes that "
            "PEFT expects)",
        )
        sources.add_base(parser, "the checkpoint's base model")
        parser.add_argument(
            "-r",
            "--repo",
            metavar="<repo>",
            type=non_empty,
            help="repository, as owner/name (default: a repository in your account, named after "
            "the base model and the run; the branch is then named after the checkpoint)",
        )
        parser.add_argument(
            "--public", action="store_true", help="make a new repository public (default: private)"
        )
        parser.add_argument(
            "--revision",
            metavar="<branch>",
            type=non_empty,
            help="branch to upload to, created if it does not exist (default with --repo: main)",
        )
        parser.add_argument(
            "--commit-message",
            metavar="<text>",
            type=non_empty,
            help="commit message (default: Upload <tinker_path> with tinkex)",
        )
        parser.add_argument(
            "--create-pr",
            action="store_true",
            help="open a pull request instead of committing directly",
        )
        _add_choice(
            parser, "--allow-pattern", "upload only files whose names match this shell pattern"
        )
        _add_choice(parser, "--ignore-pattern", "skip files whose names match this shell pattern")
        parser.add_argument(
            "--hf-token",
            metavar="<token>",
            help="Hugging Face token; - reads it from standard input, @FILE from a file (default: "
            "HF_TOKEN, or the token saved by 'hf auth login')",
        )
        parser.add_argument(
            "--no-model-card", action="store_true", help="do not create a model card (README.md)"
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api import TinkerPath
        from tinkex_hub.hub import Hub

        if parsed_args.create_pr and parsed_args.revision not in (None, "main"):
            raise UsageError(
                "--revision cannot be used with --create-pr, which always targets the main branch",
                hint="Use either --revision or --create-pr.",
            )
        if parsed_args.raw and parsed_args.base:
            raise UsageError("--base has no effect with --raw", hint="Use either --raw or --base.")
        self.client  # noqa: B018 - report a missing key before anything else
        path = TinkerPath.from_string(checkpoint_path(self, parsed_args.tinker_path))
        parsed_args.hf_token = self._token(parsed_args.hf_token)
        hub = Hub(parsed_args.hf_token, self.settings.timeout, visible=self._visible())
        owners = hub.owners()
        with sources.scratch() as scratch:
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
            "format": "raw" if parsed_args.raw else "peft",
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
        place = argument[1:] or "standard input"
        try:
            if argument.startswith("@"):
                text = user_path(argument[1:]).read_text(encoding="utf-8")
            else:
                text = self.app.stdin.readline() if self.app.stdin else ""
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8 text"
            raise LocalError(f"cannot read the token from {place}: {why}") from error
        if not text.strip():
            raise SettingsError(
                f"no Hugging Face token in {place}",
                hint="Check this source, or omit --hf-token and use HF_TOKEN or 'hf auth login'.",
            )
        return text.strip()

    def _visible(self) -> bool:
        """Return whether huggingface_hub may draw its own progress bars on the terminal."""
        stream = self.app.stderr
        return stream is sys.stderr and stream.isatty()


class _Push:
    """The state of one upload."""

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
        self._info = self._checkpoint_info()
        self._base_model = self._info.base_model if self._info else None
        self.repo, self.revision = self._target(owners[0])
        self.private = not options.public
        self._has_card = False
        #: The tensors that PEFT would not load.
        self._unloaded: AdapterMismatch | None = None
        #: Whether the names and shapes fit the base model.
        self._is_checked = False
        self.files: list[tuple[str, Path]] = []
        self.pushed: Pushed

    def run(self) -> None:
        """Check the repository, then download, check and upload the files."""
        exists = self._check_repository()
        directory = self._scratch / "files"
        self._download(directory)
        if not self._options.no_model_card and not self._has_card:
            self._write_card(directory)
        self.files = self._chosen(directory)
        self._hub.prepare(self.repo, self._branch, private=self.private, exists=exists)
        self._command.status(f"Uploading {counted(len(self.files), 'file')} to {self.repo}...")
        message = self._options.commit_message or f"Upload {self._path} with tinkex"
        pull_request = self._options.create_pr
        self.pushed = self._hub.push(
            self.repo, self._branch, self.files, message, pull_request=pull_request
        )

    @property
    def _branch(self) -> str | None:
        return None if self._options.create_pr else self.revision

    def _checkpoint_info(self) -> CheckpointInfo | None:
        try:
            return self._command.client.checkpoints.info(str(self._path))
        except Unauthorized:
            raise
        except APIError:
            return None  # if the checkpoint does not exist, the download fails

    def _target(self, account: str) -> tuple[str, str | None]:
        repo, revision = self._options.repo, self._options.revision
        if repo is None:
            repo = default_repo(self._path, self._base_model)
            if revision is None and not self._options.create_pr:
                revision = default_revision(self._path)
        return (repo if "/" in repo else f"{account}/{repo}"), revision

    def _check_repository(self) -> bool:
        """Return whether the repository exists.

        :raises UsageError: it contains another checkpoint, is public without ``--public``, or
            cannot be created.
        """
        from tinkex_hub import card

        private = self._hub.is_private(self.repo)
        owner = self.repo.partition("/")[0]
        if private is None and owner not in self._owners:
            raise UsageError(
                f"the repository {self.repo} does not exist, and the account {self._owners[0]} "
                "cannot create it",
                hint=f"Choose a repository with one of these owners: {', '.join(self._owners)}.",
            )
        if private is None:
            return False
        if not private and not self._options.public:
            raise UsageError(
                f"the repository {self.repo} is public",
                hint="To upload to a public repository, add --public.",
            )
        if private and self._options.public:
            self._command.status(f"The repository {self.repo} already exists and remains private.")
        self.private = private
        text = self._hub.card_of(self.repo, self._branch, self._scratch / "cache")
        named = card.path_in(text) if text else None
        if named and named != str(self._path):
            branch = "" if self._options.create_pr else ", or another branch with --revision"
            raise UsageError(
                f"the repository {self.repo} already contains a different checkpoint: {named}",
                hint=f"Choose another repository with --repo{branch}.",
            )
        self._has_card = text is not None
        return True

    def _download(self, directory: Path) -> None:
        from tinkex_hub import adapter

        command = self._command
        command.status(f"Downloading {self._path}...")
        done = command.client.checkpoints.download(
            str(self._path), directory, on_progress=command.show_transfer
        )
        adapter.check(directory, str(self._path))
        if not self._options.raw:
            self._convert(directory)
            return
        self._unloaded = adapter.fix_modules(directory, done.mismatch)
        if self._unloaded is not None:
            command.status(f"Warning: {self._unloaded}. The adapter is uploaded unchanged.")
        self._base_model = adapter.fill_base_model(directory, self._base_model)

    def _convert(self, directory: Path) -> None:
        """Convert the adapter in *directory* to PEFT format, in place."""
        from tinkex_hub import peft_format
        from tinkex_hub.placement import place

        new = self._scratch / "peft"
        with ExitStack() as stack:
            found = sources.open_adapter(directory, str(self._path), stack)
            self._base_model = self._base_model or found.base_model
            base = sources.find_base(
                self._command, self._options.base, self._base_model, self._options.hf_token
            )
            self._is_checked = base is not None
            try:
                new.mkdir()
                peft_format.write(found, place(found, base), self._base_model, new)
                for file in new.iterdir():
                    file.replace(directory / file.name)
            except OSError as error:
                raise LocalError(f"cannot convert the adapter: {error.strerror}") from error
            except UsageError as error:
                error.hint = (
                    f"{error.hint or ''} To upload the adapter unchanged, use --raw.".strip()
                )
                raise

    def _write_card(self, directory: Path) -> None:
        from tinkex_hub import card

        file = directory / card.NAME
        if file.exists():
            return
        how = card.RAW if self._options.raw else card.CONVERTED
        if not self._options.raw and not self._is_checked:
            how = card.UNCHECKED
        text = card.build(
            self._path,
            self.repo,
            self._base_model,
            self._info,
            is_peft=self._unloaded is None,
            origin=how,
        )
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
                "no file matches the patterns",
                hint=f"Use patterns that match file names such as {', '.join(names[:6])}.",
            )
        return chosen


def default_repo(path: TinkerPath, base_model: str | None) -> str:
    """Return the name of the repository for *path*, without its owner.

    As in the official command line: ``tinker-<base model>-<run>``.
    """
    base = base_model.rstrip("/").rsplit("/", 1)[-1] if base_model else "adapter"
    return _sanitize(f"tinker-{base}-{path.run_id}")


def default_revision(path: TinkerPath) -> str:
    """Return the branch for *path* in the repository of its run."""
    return _sanitize(path.checkpoint_id)


def _sanitize(text: str) -> str:
    # The hub rejects '--', '..', and punctuation at either end.
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", text)
    name = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", name))
    return name[:_MAX_NAME].strip("-_.")


def _add_choice(parser: argparse.ArgumentParser, option: str, words: str) -> None:
    parser.add_argument(
        option,
        metavar="<pattern>",
        type=non_empty,
        action="append",
        default=[],
        help=f"{words}; may be repeated",
    )
