"""The commands ``tinkex local …``."""

from __future__ import annotations

import argparse
import errno
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from tinkex.columns import plain_text
from tinkex.commands.base import Command, Lister, ShowOne
from tinkex.exceptions import LocalError, UsageError
from tinkex.options import integer

if TYPE_CHECKING:
    from tinkex_local.app import App


class ServeLocal(Command):
    """Run the local service as an HTTP server."""

    operation = "serving"
    examples = (
        "tinkex local serve --port 8000",
        "TINKER_BASE_URL=http://127.0.0.1:8000 TINKER_API_KEY=tml-dummy tinker run list",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--host",
            default="127.0.0.1",
            metavar="<host>",
            help="address to listen on (default: 127.0.0.1); an address that other machines can "
            "reach requires --api-key",
        )
        parser.add_argument(
            "--port",
            type=integer(0, 65535),
            default=0,
            metavar="<port>",
            help="port to listen on (default: 0, any free port)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        from tinkex_local.serve import Server, is_loopback

        # A key from the environment is for the hosted service; this one only uses the option.
        by_flag = self.settings.origins.get("api_key") == "--api-key"
        key = self.settings.api_key if by_flag else None
        if key is None and not is_loopback(parsed_args.host):
            raise UsageError(
                f"--api-key is required, because other machines can reach {parsed_args.host}",
                hint="Choose a key for clients: --api-key KEY, --api-key @FILE or --api-key -",
            )
        with _app(key) as app:
            try:
                server = Server(app, parsed_args.host, parsed_args.port, self.status)
            except (OSError, ValueError) as error:  # ValueError: a name without an address
                where = f"{parsed_args.host}:{parsed_args.port}"
                reason = getattr(error, "strerror", None) or "invalid host name"
                hint = "Choose another port with --port; --port 0 selects a free port."
                if getattr(error, "errno", None) not in (errno.EADDRINUSE, errno.EACCES):
                    hint = "Specify an address of this machine with --host."
                raise LocalError(f"cannot listen on {where}: {reason}", hint=hint) from error

            def announce() -> None:
                self.app.stdout.write(f"{server.url}\n")
                self.app.stdout.flush()
                self.status(f"Serving {app.service.home}. Press Ctrl-C to stop.")

            received = server.run(announce)
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        self.status("Stopped.")
        return 0


class InfoLocal(ShowOne):
    """Show the state of the local service."""

    operation = "showing the local service"
    column_names: ClassVar = ("home", "models", "sessions", "runs", "checkpoints", "size_bytes")

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        from tinkex_local.home import occupied
        from tinkex_local.state import checkpoints

        with _app() as app:
            service = app.service
            values = (
                str(service.home),
                len(service.models.all()),
                service.store.scalar("SELECT count(*) FROM sessions"),
                service.store.scalar("SELECT count(*) FROM runs"),
                checkpoints.count(service),
                occupied(service.home),
            )
        self.result = dict(zip(self.column_names, values, strict=True))
        return self.column_names, values


class ResetLocal(ShowOne):
    """Delete all data except models from the local service."""

    operation = "reset"
    is_action = True
    column_names: ClassVar = ("home",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        from tinkex_local.home import default_home
        from tinkex_local.state.reset import reset

        home = default_home()
        self.confirm(
            f"Delete every session, run and checkpoint in {home}?", assume_yes=parsed_args.yes
        )
        with _reported(str(home)):
            reset(home)
        self.result = home
        return self.column_names, (str(home),)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Reset {plain_text(record['home'])}"]


class AddLocalModel(ShowOne):
    """Add a model to the local service."""

    operation = "adding a model"
    is_action = True
    column_names: ClassVar = ("model_name", "engine", "directory")
    examples = (
        "tinkex local model add HuggingFaceTB/SmolLM2-135M ./smollm2-onnx",
        "tinkex local model add Qwen/Qwen3-0.6B ./Qwen3-0.6B",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="<name>", help="model name, for use with --base-model")
        parser.add_argument(
            "directory",
            metavar="<dir>",
            help="model directory with tokenizer.json, and either genai_config.json with ONNX "
            "files or config.json with model.safetensors (requires tinkex-torch); the directory is "
            "not copied",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        from tinkex.files import user_path
        from tinkex_local.engines.choice import no_engine
        from tinkex_local.state.models import LocalModel, ModelError

        directory = user_path(parsed_args.directory)
        with _app() as app, _reported(parsed_args.directory):

            def check(model: LocalModel) -> None:
                if app.engines.name_for(model) is None:
                    raise ModelError(no_engine(model))

            models = app.service.models
            model = models.add(parsed_args.name, directory, app.service.clock(), check)
            engine = app.engines.name_for(model)
            self.result = model.name
        return self.column_names, (model.name, engine, str(model.directory))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Added {plain_text(record['model_name'])}"]


class ListLocalModel(Lister):
    """List the models in the local service."""

    operation = "listing local models"
    column_names: ClassVar = ("model_name", "engine", "trainable", "context_length", "directory")
    plain_columns: ClassVar = ("model_name", "engine", "directory")

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        from tinkex_local.state.models import ModelError

        rows: list[tuple[Any, ...]] = []
        with _app() as app:
            for model in app.service.models.all():
                try:
                    context: int | None = model.facts.context_length
                except ModelError as error:
                    context = None
                    self.status(f"Warning: {model.name} is not usable: {error}")
                engine, trainable = app.engines.name_for(model), app.engines.trains(model)
                rows.append((model.name, engine, trainable, context, str(model.directory)))
        self.result = [dict(zip(self.column_names, row, strict=True)) for row in rows]
        return self.column_names, rows


class RemoveLocalModel(ShowOne):
    """Remove an added model from the local service."""

    operation = "removing a model"
    is_action = True
    column_names: ClassVar = ("model_name",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="<name>", help="name of the added model")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        with _app() as app, _reported(parsed_args.name, "See: tinkex local model list"):
            app.service.models.remove(parsed_args.name)
            self.result = parsed_args.name
        return self.column_names, (parsed_args.name,)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Removed {plain_text(record['model_name'])}"]


class AddLocalCheckpoint(ShowOne):
    """Add an adapter to the local service as a checkpoint."""

    operation = "adding a checkpoint"
    is_action = True
    column_names: ClassVar = ("tinker_path", "base_model", "lora_rank", "size_bytes")
    examples = (
        "tinkex local checkpoint add ./my-adapter",
        "tinkex local checkpoint add ./my-adapter --base-model me/model --name v1",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "directory",
            metavar="<dir>",
            help="directory to copy, with adapter_config.json and adapter_model.safetensors in "
            "PEFT format or as downloaded from a Tinker service",
        )
        parser.add_argument(
            "--base-model",
            metavar="<id>",
            help="base model in the local service (default: base_model_name_or_path in "
            "adapter_config.json)",
        )
        parser.add_argument(
            "--name",
            metavar="<name>",
            type=checkpoint_name,
            help="checkpoint name (default: the directory name)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        from tinkex.files import user_path
        from tinkex_local.state import foreign

        directory = user_path(parsed_args.directory).absolute()
        name = parsed_args.name or re.sub(r"[^A-Za-z0-9_-]+", "-", directory.name)[:200] or "added"
        with _app() as app, _reported(parsed_args.directory):
            added = foreign.add(app.service, directory, name, parsed_args.base_model)
        values = tuple(added[column] for column in self.column_names)
        self.result = added["tinker_path"]
        return self.column_names, values

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [plain_text(record["tinker_path"])]


def checkpoint_name(text: str) -> str:
    """Return *text* if it is a valid checkpoint name; used as the type of an option."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", text):
        raise argparse.ArgumentTypeError(
            "a name must consist of 1 to 200 letters, digits, '_', '-' or '.', and must not begin "
            "with a dot"
        )
    return text


@contextmanager
def _app(key: str | None = None) -> Iterator[App]:
    """Open the state in the default home directory."""
    import sqlite3

    from tinkex_local.app import open_default, unusable

    app = open_default(key)
    try:
        yield app
    except sqlite3.Error as error:
        raise unusable(error) from error
    finally:
        app.close()


@contextmanager
def _reported(what: str, hint: str | None = None) -> Iterator[None]:
    """Convert errors of the block to exceptions of tinkex.

    :param what: the directory or model, for messages.
    :param hint: hint for errors about models.
    """
    import sqlite3

    from tinkex_local.app import unusable
    from tinkex_local.problems import OperationError
    from tinkex_local.state.foreign import ForeignError
    from tinkex_local.state.models import ModelError
    from tinkex_local.state.store import StateError

    try:
        yield
    except (StateError, sqlite3.Error) as error:
        raise unusable(error) from error
    except ModelError as error:
        raise UsageError(str(error), hint=hint) from error
    except ForeignError as error:
        raise UsageError(f"cannot add {what}: {error}", hint=error.hint) from error
    except OperationError as error:
        raise LocalError(str(error)) from error
    except OSError as error:
        raise LocalError(f"cannot use {what}: {error.strerror or error}") from error
