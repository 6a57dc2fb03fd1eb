"""``chat`` with lines from a pipe, and on a terminal."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from unittest import mock

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from tests.full_disk import files_up_to
from tinkex.api import SamplingClient, Tokenizer
from tinkex.exceptions import LocalError, OperationFailed
from tinkex.testing import Invocation, invoke
from tinkex_lab.commands.chat import Chat
from tinkex_lab.conversation import Conversation, ConversationLog

BASE = "tinkex/baker-street-2M"
TALK = ["chat", "--base-model", BASE, "--max-tokens", "6", "--seed", "1"]


@pytest.fixture
def chat(service: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that sends lines to a chat."""
    monkeypatch.chdir(tmp_path)

    def run(lines: list[str], *words: str, code: int = 0, argv: list[str] = TALK) -> Invocation:
        done = invoke([*argv, *words], stdin="\n".join(lines) + "\n", environ=service)
        assert done.exit_code == code, done
        return done

    return run


@pytest.fixture
def typed(service: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that types keys on a terminal, and Ctrl-D at the end."""
    monkeypatch.chdir(tmp_path)

    def run(keys: str, *words: str, argv: list[str] = TALK) -> Invocation:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(keys + "\x04")
            done = invoke([*argv, *words], terminal=True, environ=service)
        assert done.exit_code == 0, done
        return done

    return run


def answers(done: Invocation) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def conversations(file: str) -> list[list[str]]:
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return [[message["content"] for message in row["messages"]] for row in rows]


# ---------------------------------------------------------------- lines from a pipe


def test_lines_are_turns_of_one_conversation(chat, monkeypatch):
    first, second = answers(chat(["Who are you?", "", "What do \\", "you see?"], "--json"))

    assert (first["role"], first["stop_reason"]) == ("assistant", "length")
    assert first["token_count"] == second["token_count"] == 6
    # The template adds tokens around both messages.
    assert second["prompt_tokens"] > first["prompt_tokens"] + 6
    assert first["avg_logprob"] < 0
    assert answers(chat(["Who are you?"], argv=["-f", "json", *TALK])) == [first]
    with monkeypatch.context() as patch:
        patch.setenv("TINKEX_FORMAT", "json")
        assert answers(chat(["Who are you?"])) == [first]
    plain = chat(["Who are you?"])
    assert plain.stdout == first["content"] + "\n"
    assert (
        "Stopped after 6 tokens. To change the limit, use /params max_tokens NUMBER."
        in plain.stderr
    )


def test_the_prompt_has_all_messages_and_no_answer_has_special_tokens(
    chat, model_directory: Path, monkeypatch
):
    tokenizer = Tokenizer.from_file(model_directory / "tokenizer.json")
    prompts: list[str] = []
    sample = SamplingClient.sample

    def record(self, tokens, *args, **options):
        prompts.append(tokenizer.decode(tokens, strip_end=False))
        return sample(self, tokens, *args, **options)

    monkeypatch.setattr(SamplingClient, "sample", record)

    done = chat(["One", "/system Be brief.", "Two"], "--json")

    first, second = answers(done)
    question = "<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n"
    assert prompts[0] == question
    answer = f"{first['content']}<|im_end|>\n<|im_start|>user\nTwo<|im_end|>\n"
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert prompts[1] == f"{system}{question}{answer}<|im_start|>assistant\n"
    assert "<|" not in first["content"] + second["content"]


def test_retry_replaces_the_answer_and_undo_removes_it(chat):
    done = chat(
        ["One", "/retry", "Two", "/undo", "/save talk.json"], "--json", "--log", "log.jsonl"
    )

    first, second, _ = answers(done)
    assert first["content"] != second["content"]
    messages = json.loads(Path("talk.json").read_text())
    assert messages == [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": second["content"]},
    ]
    assert conversations("log.jsonl") == [["One", second["content"]]]


def test_the_log_has_a_line_for_each_conversation(chat, service):
    chat(["One", "Two", "/reset", "Three"], "--log", "log.jsonl")
    chat(["Four"], "--log", "log.jsonl")

    lines = conversations("log.jsonl")
    assert [(line[0], len(line)) for line in lines] == [("One", 4), ("Three", 2), ("Four", 2)]
    model = ["--base-model", BASE, "--max-tokens", "2"]
    batch = invoke(["run", "batch", "log.jsonl", *model], environ=service)
    assert len(batch.stdout.splitlines()) == 3, batch
    score = invoke(["score", "log.jsonl", "--base-model", BASE], environ=service)
    assert score.stdout.split("\t")[2] == "3", score


def test_parameters_can_be_set(chat):
    done = chat(
        ["/params max_tokens 2", "One", "/params max_tokens", '/params stop "x"', "/params seed 9"],
        *("--temperature", "0.5"),
    )

    assert "Stopped after 2 tokens." in done.stderr
    assert "max_tokens = 256" in done.stderr
    assert 'stop = ["x"]' in done.stderr
    assert "seed = 9" in done.stderr
    assert "temperature = 0.5" in done.stderr
    assert "of 1024 tokens." in done.stderr


def test_the_model_can_be_changed(chat):
    done = chat(["One", "/model other", "/retry", "/model"], "--log", "log.jsonl")

    assert done.stderr.count("Model: other") == 2
    assert json.loads(Path("log.jsonl").read_text())["model"] == "other"


def test_a_checkpoint_can_be_talked_to(chat, typed, service, tmp_path: Path):
    words = [
        "checkpoint",
        "--base-model",
        BASE,
        "--rank",
        "1",
        "--output",
        str(tmp_path / "c.json"),
    ]
    assert invoke(words, environ=service).exit_code == 0

    done = chat(["One", "/model"], argv=["chat", "@latest", "--max-tokens", "2"])
    on_terminal = typed("", argv=["chat", "@latest"])

    assert done.stdout.strip()
    assert "Model: tinker://" in done.stderr
    assert "\n@latest: /help lists" in on_terminal.stderr


def test_a_user_at_a_terminal_is_prompted_if_only_the_output_is_redirected(chat, monkeypatch):
    take_action = Chat.take_action

    def on_a_terminal(self: Chat, parsed_args: object) -> object:
        self.app.stdin.isatty = lambda: True
        return take_action(self, parsed_args)

    monkeypatch.setattr(Chat, "take_action", on_a_terminal)

    done = chat(["One"])

    assert done.stderr.startswith("> ")
    assert "> " not in done.stdout


def test_help_and_exit(chat):
    done = chat(["/help", "/exit", "never sent"])

    assert done.stdout == ""
    assert "/retry" in done.stderr
    assert all(len(line) < 80 for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("lines", "hint"),
    [
        (
            ["/params max_tokens 1023", "One"],
            "Reduce the maximum length of answers: /params max_tokens 10",
        ),
        (["word " * 1100], "Send a shorter message."),
        (["One", "word " * 1100], "Remove turns with /undo or /reset."),
    ],
)
def test_the_hint_shows_how_to_fit_the_context(chat, lines, hint):
    done = chat(lines, code=1)

    assert f"Hint: {hint}" in done.stderr


@pytest.mark.parametrize(
    ("lines", "words", "message"),
    [
        ([], ["--api-key", "-"], "standard input can provide the key or the messages"),
        (["/nope"], [], "unknown command /nope"),
        (["/retry"], [], "there is no message to answer"),
        (["/undo"], [], "there is no message to remove"),
        (["/save"], [], "/save requires a file name"),
        (["/save ."], [], ". already exists"),
        (["/params size 3"], [], "unknown parameter 'size'"),
        (["/params max_tokens many"], [], "max_tokens must be a whole number"),
        (["/model none/such"], [], "none/such"),
        (["/params max_tokens 1023", "One"], [], "it could exceed the context of 1024 tokens"),
        (["One"], ["--log", "."], "cannot write .: it is a directory"),
        (["One"], ["--log", "/dev/full"], "/dev/full is not a regular file"),
        (["One"], ["--tokenizer", "./none"], "none"),
        ([], ["@latest"], "use either a checkpoint or --base-model"),
    ],
)
def test_what_is_not_possible_ends_a_script(chat, lines, words, message):
    done = chat(lines, *words, code=1)

    assert done.stdout == ""
    assert message in done.stderr
    assert "Hint: " in done.stderr


def test_a_model_without_a_chat_template_is_refused(chat, model_directory: Path, tmp_path: Path):
    (tmp_path / "plain").mkdir()
    file = (model_directory / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "plain" / "tokenizer.json").write_text(file, encoding="utf-8")

    done = chat(["One"], "--tokenizer", "./plain", code=1)

    assert "has no chat template" in done.stderr
    assert "tinkex run" in done.stderr


# ---------------------------------------------------------------- a terminal


def test_a_message_can_have_several_lines(typed, home: Path):
    done = typed("One\x1b\rmore\r/undo\r")

    assert f"{BASE}: /help lists the commands; Ctrl-D ends the chat." in done.stderr
    assert "Removed: One more" in done.stderr
    (history,) = home.rglob("chat-history")
    assert "+One\n+more\n" in history.read_text()
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700


def test_control_c_drops_a_message_and_errors_do_not_end_the_chat(typed):
    done = typed("dropped\x03One\r/nope\r/params max_tokens 1023\rTwo\r/save talk.json\r")

    assert "unknown command /nope." in done.stderr
    assert "it could exceed the context of 1024 tokens." in done.stderr
    messages = json.loads(Path("talk.json").read_text())
    assert [message["content"] for message in messages][0::2] == ["One"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OperationFailed("broken")], ids=repr)
def test_a_stopped_answer_can_be_asked_for_again(typed, monkeypatch, failure):
    outcomes = [failure]
    sample = SamplingClient.sample

    def stopped_once(self, *args, **options):
        if outcomes:
            raise outcomes.pop()
        return sample(self, *args, **options)

    monkeypatch.setattr(SamplingClient, "sample", stopped_once)

    done = typed("One\r/retry\r/save talk.json\r", "--log", "log.jsonl")

    assert (
        "Stopped. Use /retry to try again." if isinstance(failure, KeyboardInterrupt) else "broken."
    ) in (done.stderr)
    messages = json.loads(Path("talk.json").read_text())
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert [row[0] for row in conversations("log.jsonl")] == ["One"]


def test_an_interrupted_command_suggests_no_retry(typed, monkeypatch):
    monkeypatch.setattr(Conversation, "undo", mock.Mock(side_effect=KeyboardInterrupt))
    done = typed("/undo\r")
    assert "Stopped." in done.stderr.splitlines()
    assert "/retry" not in done.stderr


# ---------------------------------------------------------------- the log


def messages(*contents: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[number % 2], "content": content}
        for number, content in enumerate(contents)
    ]


def test_another_process_may_append_to_the_log(tmp_path: Path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"messages": []}')  # without a line break
    log, other = ConversationLog(str(file)), ConversationLog(str(file))

    log.write(messages("a", "b"), "m")
    other.write(messages("x", "y"), "m")
    log.write(messages("a", "b", "c", "d"), "m")
    log.write(messages("a", "b", "c", "d", "e"), "m")
    other.write(messages(), "m")

    # The line of the first conversation was no longer the last one.
    assert conversations(str(file)) == [[], ["a", "b"], ["x", "y"], ["a", "b", "c", "d"]]


def test_a_full_disk_keeps_the_previous_line(tmp_path: Path, monkeypatch):
    file = tmp_path / "log.jsonl"
    log = ConversationLog(str(file))
    log.write(messages("a", "b"), "m")
    before = file.read_bytes()

    with files_up_to(len(before) + 10), pytest.raises(LocalError, match="cannot write"):
        log.write(messages("a", "b", "c" * 100, "d"), "m")

    assert file.read_bytes() == before
