"""Chat with a model on a terminal, or with lines from standard input."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tinkex.columns import counted, printable
from tinkex.commands.arguments import add_formats, check_stdin
from tinkex.commands.base import Command
from tinkex.commands.sampling import (
    add_sampling_options,
    checked_model,
    find_tokenizer,
    sampling_params,
)
from tinkex.exceptions import (
    ChatTemplateError,
    LocalError,
    NotOffered,
    TinkexError,
    Unauthorized,
    UsageError,
)
from tinkex.files import user_path, write_atomically
from tinkex.options import non_empty

if TYPE_CHECKING:
    from tinkex_lab.conversation import Answer, ChatModel, Conversation, ConversationLog

#: Command → its operand, and its help.
_COMMANDS = {
    "system": ("[TEXT]", "show or set the system message; - removes it"),
    "reset": ("", "start a new conversation"),
    "retry": ("", "regenerate the last answer"),
    "undo": ("", "remove your last message and its answer"),
    "model": ("[NAME]", "show or change the model: a checkpoint or a base model"),
    "params": ("[NAME [VALUE]]", "show or set parameters; NAME alone restores the default"),
    "save": ("FILE", "write the messages to a file for 'run --messages'"),
    "help": ("", "list the commands"),
    "exit": ("", "end the chat (also Ctrl-D)"),
}
#: Proportion of the context above which its use is reported.
_NEARLY_FULL = 0.8


class Chat(Command):
    """Chat with a checkpoint or a base model."""

    notes = (
        "On a terminal, Enter sends a message, and Alt-Enter inserts a line break. Ctrl-C stops "
        "the current answer, and Ctrl-D ends the chat. If standard input is not a terminal, each "
        "line is a message, and a backslash at the end of a line continues the message on the next "
        "line. A message that begins with / is a command; /help lists the commands. With --seed, "
        "the seed increases by one for each answer."
    )
    examples = (
        "tinkex chat run-123:final --system 'Answer briefly.'",
        "tinkex chat --base-model Qwen/Qwen3-8B --log talks.jsonl",
        "echo 'Who are you?' | tinkex chat @latest --json | jq -r .content",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "model_path",
            metavar="<checkpoint>",
            nargs="?",
            help="checkpoint (tinker://RUN/KIND/NAME, RUN:NAME, @latest, @ALIAS), the directory of "
            "a downloaded checkpoint, a file in it, or a saved metadata file",
        )
        parser.add_argument(
            "--base-model",
            metavar="<id>",
            type=non_empty,
            help="base model, instead of a checkpoint",
        )
        parser.add_argument("--system", metavar="<text>", type=non_empty, help="system message")
        parser.add_argument(
            "--log",
            metavar="<path>",
            help="JSONL file to append the conversations to; 'run batch', 'score' and 'train sft' "
            "can read it",
        )
        add_formats(parser, ("json",), "output format: one line of JSON per answer")
        add_sampling_options(parser, single=True)

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from tinkex_lab.conversation import Conversation, ConversationLog

        if bool(parsed_args.model_path) == bool(parsed_args.base_model):
            raise UsageError(
                "use either a checkpoint or --base-model",
                hint="For example: tinkex chat run-123:final",
            )
        if not (self.app.stdin and self.app.stdin.isatty()):
            check_stdin(self, "messages")
        as_json = bool(parsed_args.formatter or self.format_before_command(("json",)))
        as_json = as_json or self.settings.format == "json"
        log = ConversationLog(parsed_args.log) if parsed_args.log else None
        params = sampling_params(parsed_args)
        with ExitStack() as stack:
            models = _Models(self, parsed_args.tokenizer, stack)
            model = models.open(parsed_args.model_path, parsed_args.base_model)
            talk = Conversation(model, params, parsed_args.system)
            _Session(self, models, talk, log, as_json=as_json).run()


class _Models:
    """Opens the models of a chat; all are closed with *stack*."""

    def __init__(self, command: Chat, tokenizer: str | None, stack: ExitStack) -> None:
        self._command, self._tokenizer, self._stack = command, tokenizer, stack

    def open(self, model_path: str | None, base_model: str | None) -> ChatModel:
        """Return a model with a chat template.

        :raises ChatTemplateError: the model has no chat template.
        """
        from tinkex_lab.conversation import ChatModel

        command, client = self._command, self._command.client
        options = argparse.Namespace(model_path=model_path, base_model=base_model)
        path, base = checked_model(command, options, "chat")
        deadline = client.deadline("sampling")
        sampling = self._stack.enter_context(
            client.create_sampling_client(base_model=base, model_path=path, deadline=deadline)
        )
        name = sampling.find_base_model(deadline)
        tokenizer = find_tokenizer(command, lambda: self._tokenizer or name, needed=True)
        assert tokenizer is not None
        try:
            _ = tokenizer.stop_sequences
        except ChatTemplateError as error:
            error.hint = error.hint or (
                "To sample without a template, use 'tinkex run'. To use another model's template, "
                "add --tokenizer MODEL."
            )
            raise
        label = (model_path or name).removeprefix("tinker://")
        return ChatModel(path or name, label, sampling, tokenizer, self._context(name))

    def find(self, text: str) -> ChatModel:
        """Return the model named *text*: a checkpoint, or else a base model."""
        is_checkpoint = "@" in text or ":" in text or user_path(text).exists()
        return self.open(text, None) if is_checkpoint else self.open(None, text)

    def _context(self, base_model: str) -> int | None:
        try:
            known = self._command.client.models.list()
        except NotOffered:
            return None
        return next((m.max_context_length for m in known if m.model_name == base_model), None)


class _Session:
    """The loop of a chat: reads messages and commands, and writes answers."""

    def __init__(
        self,
        command: Chat,
        models: _Models,
        talk: Conversation,
        log: ConversationLog | None,
        *,
        as_json: bool,
    ) -> None:
        self._command, self._models, self._talk, self._log = command, models, talk, log
        self._as_json = as_json
        stdin, stdout = command.app.stdin, command.app.stdout
        self._is_interactive = bool(stdin and stdin.isatty() and stdout.isatty())
        self._is_warned = False

    def run(self) -> None:
        """Answer until the input ends.

        :raises TinkexError: a message from a pipe could not be answered.
        """
        if self._is_interactive:
            self._say(f"{self._talk.model.label}: /help lists the commands; Ctrl-D ends the chat.")
        for text in self._typed() if self._is_interactive else self._piped():
            if text.strip() == "/exit":
                return
            try:
                self._take(text)
            except KeyboardInterrupt:
                if not self._is_interactive:
                    raise
                is_command = text.startswith("/") and text.strip() != "/retry"
                self._say("Stopped." if is_command else "Stopped. Use /retry to try again.")
            except TinkexError as error:
                if not self._is_interactive or isinstance(error, Unauthorized):
                    raise
                self._say("\n".join(filter(None, (f"{error}.", error.hint))))

    def _take(self, text: str) -> None:
        name, _, operand = text.strip().partition(" ")
        if not text.startswith("/"):
            self._write(self._talk.say(text))
            return
        if name[1:] not in _COMMANDS:
            raise UsageError(
                f"unknown command {name}",
                hint="/help lists the commands. To send a message that begins with /, type a "
                "space first.",
            )
        action: Callable[[str], None] = getattr(self, f"_{name[1:]}")
        action(operand.strip())

    # ------------------------------------------------------------------ commands

    def _system(self, text: str) -> None:
        if text:
            self._talk.system = None if text == "-" else text
        self._say(f"System message: {self._talk.system or 'none'}")

    def _reset(self, _: str) -> None:
        self._talk.reset()
        self._is_warned = False
        if self._log is not None:
            self._log.begin()
        self._say("Started a new conversation.")

    def _retry(self, _: str) -> None:
        self._write(self._talk.retry())

    def _undo(self, _: str) -> None:
        removed = self._talk.undo()
        self._record()
        self._say(f"Removed: {_brief(removed)}")

    def _model(self, text: str) -> None:
        if text:
            self._talk.model = self._models.find(text)
            self._is_warned = False
        self._say(f"Model: {self._talk.model.name}")

    def _params(self, text: str) -> None:
        from tinkex_lab.conversation import DEFAULT_MAX_TOKENS

        name, _, value = text.partition(" ")
        if name:
            self._talk.set_param(name, value.strip())
        defaults = {"max_tokens": DEFAULT_MAX_TOKENS, "seed": "random"}
        values = vars(self._talk.params) | {"stop": list(self._talk.params.stop)}
        for key, value in values.items():
            self._say(f"{key} = {defaults[key] if value is None else json.dumps(value)}")
        context = self._talk.model.context
        limit = "" if context is None else f" of {context}"
        self._say(f"Conversation length: {self._talk.size()}{limit} tokens.")

    def _save(self, text: str) -> None:
        if not text:
            raise UsageError("/save requires a file name", hint="For example: /save talk.json")
        if user_path(text).exists():
            raise UsageError(f"{text} already exists", hint="Choose another file name.")
        messages = json.dumps(self._talk.messages, ensure_ascii=False, indent=2)
        write_atomically(text, f"{messages}\n")
        self._say(f"Saved the conversation to {text}")

    def _help(self, _: str) -> None:
        forms = {f"/{name} {operand}".rstrip(): text for name, (operand, text) in _COMMANDS.items()}
        width = max(map(len, forms))
        self._say("\n".join(f"{form:{width}}  {text}" for form, text in forms.items()))

    # ------------------------------------------------------------------ input and output

    def _piped(self) -> Iterator[str]:
        """Yield the lines of standard input; a backslash at the end continues a line."""
        stdin = self._command.app.stdin
        if stdin is None:
            raise LocalError("cannot read standard input: it is closed")
        text = ""
        while line := self._line(stdin):
            text += line.rstrip("\r\n")
            if text.endswith("\\"):
                text = text[:-1] + "\n"
                continue
            if text.strip():
                yield text
            text = ""
        if text.strip():
            yield text

    def _line(self, stdin: TextIO) -> str:
        """Return the next line of *stdin*; if it is a terminal, print ``> `` first."""
        if stdin.isatty():
            self._command.clear_progress()
            self._command.app.stderr.write("> ")
            self._command.app.stderr.flush()
        return stdin.readline()

    def _typed(self) -> Iterator[str]:
        """Yield what the user types; Ctrl-C drops a message, and Ctrl-D ends the chat."""
        session = _prompt_session(self._history())
        while True:
            try:
                text = session.prompt()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text.strip():
                yield text

    def _history(self) -> Path | None:
        try:
            return self._command.data_dir / "chat-history"
        except LocalError as error:
            self._say(f"The input history is unavailable: {error}.")
            return None

    def _write(self, answer: Answer) -> None:
        self._record()
        self._command.clear_progress()
        stdout = self._command.app.stdout
        if self._as_json:
            stdout.write(json.dumps(answer.as_dict(), allow_nan=False) + "\n")
        elif stdout.isatty():
            stdout.write(printable(answer.content, keep="\n\t") + "\n\n")
        else:
            stdout.write(answer.content + "\n")
        stdout.flush()
        if answer.stop_reason == "length":
            stopped = f"Stopped after {counted(answer.token_count, 'token')}."
            self._say(f"{stopped} To change the limit, use /params max_tokens NUMBER.")
        self._warn_of_context(answer)

    def _warn_of_context(self, answer: Answer) -> None:
        context = self._talk.model.context
        used = answer.prompt_tokens + answer.token_count
        if context and used > _NEARLY_FULL * context and not self._is_warned:
            self._is_warned = True
            self._say(f"The context is nearly full: {used} of {context} tokens.")

    def _record(self) -> None:
        if self._log is not None:
            self._log.write(self._talk.messages, self._talk.model.name)

    def _say(self, text: str) -> None:
        for line in text.splitlines():
            self._command.status(line)


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


def _prompt_session(history: Path | None) -> Any:
    """Return a prompt with line editing, history, and Tab completion of commands.

    :param history: history file, in a private directory; ``None`` for no file.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    class Saved(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError):  # a full disk does not end the chat
                super().store_string(string)

    session: PromptSession[str] = PromptSession(
        "> ",
        multiline=True,
        key_bindings=keys,
        prompt_continuation="  ",
        history=InMemoryHistory() if history is None else Saved(str(history)),
        completer=WordCompleter([f"/{name}" for name in _COMMANDS], sentence=True),
        complete_while_typing=False,
    )
    return session
