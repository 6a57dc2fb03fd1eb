"""What completion offers at the cursor, and the names it keeps."""

from __future__ import annotations

import json
import re
import stat
import threading

import pytest
import responses

from tests.conftest import FakePlugins
from tinkex.cli import completion
from tinkex.cli.app import TinkexApp
from tinkex.cli.completion import Cache
from tinkex.config import aliases
from tinkex.config.values import DEFAULT_BASE_URL
from tinkex.testing import invoke


def offered(line: str) -> tuple[list[str], str]:
    """Return the words offered at the end of *line*, and the kind of files."""
    done = invoke(["complete", "--line", line])
    assert (done.stderr, done.exit_code) == ("", 0)
    kind, *words = done.stdout.splitlines()
    return [word.partition("\t")[0] for word in words], kind


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("tinkex ", ["checkpoint", "config", "run", "version"]),
        ("tinkex che", ["checkpoint"]),
        ("tinkex checkpoint ", ["delete", "list", "unpublish"]),
        ("tinkex --profile local checkpoint de", ["delete"]),
        ("tinkex --base-url=http://x config ", ["show"]),
        ("/usr/bin/tinkex run in", ["info"]),
        ("TINKEX_FORMAT=json tinkex run in", ["info"]),
        ("tinkex help ", ["checkpoint", "options"]),
        ("tinkex help checkpoint ", ["delete", "list"]),
        ("tinkex --", ["--profile", "--version", "--keep-going"]),
        ("tinkex checkpoint --", ["--base-model", "--no-train-mlp", "--output"]),
        ("tinkex checkpoint list --", ["--limit", "--run-id", "--format", "--api-key"]),
        ("tinkex version ", ["--format", "--json"]),
        ("tinkex run list -f ", ["csv", "json", "plain", "table", "value", "yaml"]),
        ("tinkex run list --format=j", ["--format=json"]),
        ("tinkex version -f s", ["shell"]),
        ("tinkex -f ", ["json", "shell", "csv"]),
        ("tinkex run list -c ", ["training_run_id", "base_model"]),
        ("tinkex --http-pool ", ["default"]),
        ("tinkex complete --shell ", ["bash", "fish", "zsh"]),
        ("tinkex 'che", ["checkpoint"]),
    ],
)
def test_words(line, some):
    words, kind = offered(line)
    assert set(some) <= set(words)
    assert kind == "words"
    assert all(not word.startswith("checkpoint_") for word in words)
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("line", "not_there"),
    [
        ("tinkex checkpoint list ", "delete"),
        ("tinkex checkpoint list --limit ", "--offset"),
        ("tinkex checkpoint list --limit 3 --l", "--limit"),
        ("tinkex run list -- ", "--limit"),
        ("tinkex nope ", "list"),
        ("tinkex checkpoint --rank 3 ", "list"),
    ],
)
def test_words_that_are_not_offered(line, not_there):
    assert not_there not in offered(line)[0]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("tinkex checkpoint --output ", "files"),
        ("tinkex run --prompt-file ", "files"),
        ("tinkex --log-file ", "files"),
        ("tinkex checkpoint download tinker://a/weights/b --output ", "directories"),
        ("tinkex run --model-path ", "directories"),
        ("tinkex checkpoint inspect ", "directories"),
        ("tinkex checkpoint export final --base ", "directories"),
        ("tinkex version > ", "files"),
        ("tinkex run --max-tokens ", "words"),
        ("tinkex checkpoint --output=", "files"),
        ("tinkex run batch ", "files"),
    ],
)
def test_files(line, kind):
    assert offered(line)[1] == kind


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tinkex checkpoint info @", ["@latest", "@latest:sampler", "@latest:training"]),
        ("tinkex run --model-path @latest:s", ["@latest:sampler"]),
        ("tinkex checkpoint info 3f9a@latest:", ["3f9a@latest:sampler", "3f9a@latest:training"]),
        ("tinkex run info @", ["@latest"]),
        ("tinkex checkpoint export @latest:s", ["@latest:sampler"]),
        ("tinkex checkpoint export x --to ", ["merged", "peft"]),
        ("tinkex checkpoint list --type s", ["sampler", "sampler_weights"]),
        ("tinkex checkpoint list --access-scope ", ["accessible", "owned"]),
        ("tinkex checkpoint list --sort time", ["time", "time:desc"]),
        ("tinkex checkpoint prune --keep-", ["--keep-every", "--keep-last"]),
        ("tinkex run wait r --until ", ["checkpoint", "checkpoint:", "idle:10m"]),
        ("tinkex run watch r --format ", ["json", "plain"]),
        ("tinkex config show --sort-column d", ["description"]),
    ],
)
def test_values(line, words):
    assert sorted(offered(line)[0]) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tinkex checkpoint info @p", ["@prod"]),
        ("tinkex run --model-path @", ["@latest", "@latest:sampler", "@latest:training", "@prod"]),
        ("tinkex checkpoint info r1@p", []),
        ("tinkex run info @", ["@latest", "@prod"]),
        ("tinkex alias remove ", ["prod"]),
        ("tinkex session show @p", []),
    ],
)
def test_aliases(line, words):
    aliases.write("prod", "tinker://r/weights/x")
    assert sorted(offered(line)[0]) == words
    aliases.aliases_path().write_text("{")  # reported when it is used
    assert "@prod" not in offered(line)[0]


def test_profiles(config):
    config("profiles: {work: {}, 'has space': {}, '$(rm)': {}}")
    words, _ = offered("tinkex --profile ")
    assert "work" in words
    assert all(" " not in word and "$" not in word for word in words)


def test_names_that_were_seen(monkeypatch):
    known = Cache(DEFAULT_BASE_URL, None)
    known.add("checkpoints", ["tinker://a/weights/1", "tinker://a/weights/2", "tinker://$(rm)/x"])
    known.add("runs", ["run-1"])
    known.add("models", ["Qwen/Qwen3-8B"])
    assert offered("tinkex checkpoint info ")[0] == ["a:1", "a:2"]
    assert offered("tinkex checkpoint info a")[0] == ["a:1", "a:2"]
    assert offered("tinkex checkpoint info a:training/")[0] == ["a:training/1", "a:training/2"]
    paths = ["tinker://a/weights/1", "tinker://a/weights/2"]
    assert offered("tinkex checkpoint info t")[0] == paths
    assert offered("tinkex checkpoint info tinker://a/weights/2")[0] == paths[1:]
    for given in ("a:1", paths[0]):
        assert offered(f"tinkex checkpoint delete {given} ")[0] == ["a:2"]
    assert offered("tinkex run info ")[0] == ["run-1"]
    assert offered("tinkex checkpoint list --run-id r")[0] == ["run-1"]
    assert offered("tinkex run --base-model=Q")[0] == ["--base-model=Qwen/Qwen3-8B"]
    assert offered("tinkex run --model-path t")[0] == paths
    assert offered("tinkex --base-url http://127.0.0.1:1 run info ")[0] == []


def test_a_command_of_a_plugin_and_one_that_does_not_load(fake_plugins: FakePlugins):
    fake_plugins.add(
        "extra",
        "[tinkex.commands]\nextra_do = extra:Do\nextra_broken = extra:Nothing\n"
        "extra_half = extra:Half\n",
        "from tinkex.commands.base import Command\n"
        "class Half(Command):\n    'No action.'\n"
        "class Do(Command):\n    'Do.'\n"
        "    def take_action(self, parsed_args): pass\n"
        "    def get_parser(self, prog_name):\n"
        "        parser = super().get_parser(prog_name)\n"
        "        parser.add_argument('run', metavar='<run_id>', help='run')\n"
        "        return parser\n",
    )
    Cache(DEFAULT_BASE_URL, None).add("runs", ["run-1"])
    assert offered("tinkex extra ")[0] == ["broken", "do", "half"]
    assert offered("tinkex extra do ")[0] == ["run-1"]
    assert offered("tinkex extra broken ")[0] == []
    assert offered("tinkex extra half ")[0] == []


def test_the_options_of_a_named_format_and_the_settings_of_plugins(fake_plugins: FakePlugins):
    fake_plugins.add(
        "extra",
        "[tinkex.formatters.list]\nshout = extra:Shout\n[tinkex.settings]\nextra = extra:Own\n",
        "from dataclasses import dataclass\n"
        "from cliff.formatters.base import ListFormatter\n"
        "class Shout(ListFormatter):\n"
        "    def add_argument_group(self, parser):\n"
        "        parser.add_argument('--shout-mark', help='what follows')\n"
        "    def emit_list(self, *args): pass\n"
        "@dataclass\nclass Own:\n    volume: int = 11\n",
    )
    assert offered("tinkex run list --sh")[0] == []
    assert offered("tinkex run list -f shout --sh")[0] == ["--shout-mark"]
    assert offered("tinkex config set plugins.e")[0] == ["plugins.extra.volume"]


def test_an_invalid_configuration_is_not_reported(config):
    config("profiles: [")
    assert offered("tinkex --profile ") == ([], "words")
    assert offered("tinkex run info ") == ([], "words")


RUNS = re.compile(f"{DEFAULT_BASE_URL}/api/v1/training_runs.*")


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-abc")


@pytest.mark.parametrize("names", [["run-0", "run-1"], []])
def test_the_service_is_asked_once_where_nothing_is_known(key, names):
    run = {"base_model": "m", "model_owner": "me", "is_lora": True, "corrupted": False}
    run |= {"last_request_time": "2026-01-01T00:00:00Z"}
    found = [run | {"training_run_id": name} for name in names]
    with responses.RequestsMock() as server:
        status = 200 if names else 403
        body = {"training_runs": found, "cursor": {"total_count": len(found)}}
        server.get(RUNS, status=status, json=body)
        assert [offered("tinkex run info ")[0] for _ in range(2)] == [names, names]
        assert len(server.calls) == 1


def test_a_service_that_is_slow_is_not_waited_for(key, monkeypatch):
    Cache(DEFAULT_BASE_URL, None).add("runs", ["run-1"])
    monkeypatch.setattr(completion, "FRESH", 0)
    monkeypatch.setattr(completion, "PATIENCE", 0.01)
    ended = threading.Event()
    monkeypatch.setattr(completion, "_listed", lambda *_: ended.wait(60) or [])
    assert offered("tinkex run info ")[0] == ["run-1"]
    ended.set()


def test_no_credential_command_is_run_for_tab(monkeypatch, tmp_path):
    monkeypatch.setattr(completion, "_ask", lambda *_: pytest.fail("asked"))
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", f"touch {tmp_path}/run; echo key")
    assert offered("tinkex run info ")[0] == []
    monkeypatch.delenv("TINKER_CREDENTIAL_CMD")
    assert offered("tinkex --api-key tml-abc run info ")[0] == []
    assert not (tmp_path / "run").exists()


def test_inside_the_shell(config):
    config("profiles: {work: {}}")
    app = TinkexApp()
    app.interactive_mode = True
    assert "exit" in dict(completion.offer(app, [], "e").values)
    assert "use" in dict(completion.offer(app, ["profile"], "").values)
    assert "work" in dict(completion.offer(app, ["profile", "use"], "").values)
    assert "local-nope" not in dict(completion.offer(app, ["profile", "use"], "").values)


def test_names_printed_for_python_are_not_kept():
    app = TinkexApp()
    app.remember("runs", ["a"])
    app.uses_cache = False
    app.remember("runs", ["b"])
    assert Cache(DEFAULT_BASE_URL, None).names("runs") == ["a"]


def test_names_of_keys_profiles_and_settings_are_offered(home, config):
    config("profiles: {work: {}, skyrl: {}}")
    store = home / ".tinker" / "credentials.json"
    store.parent.mkdir()
    records = {
        "7": {"key": "tml-a-0123456789", "name": "laptop"},
        "8": {"key": "tml-b-0123456789", "name": "twice"},
        "9": {"key": "tml-c-0123456789", "name": "twice"},
    }
    store.write_text(json.dumps({"version": 1, "default": "7", "keys": records}))

    def offered(*words: str) -> list[str]:
        return [value for value, _ in completion.offer(TinkexApp(), words, "").values]

    assert offered("auth", "switch") == offered("auth", "logout") == ["laptop", "8", "9"]
    assert {"work", "skyrl"} <= set(offered("profile", "remove"))
    assert {"base_url", "allow_http"} <= set(offered("config", "set"))
    assert offered("profile", "add", "x", "--server") == ["official", "skyrl", "tuft"]


# ---------------------------------------------------------------------- the cache


@pytest.fixture
def known() -> Cache:
    return Cache("http://127.0.0.1:1", None)


@pytest.fixture
def later(monkeypatch):
    """Return a function that sets the clock to so many seconds from now."""
    now = completion.time.time()
    return lambda seconds: monkeypatch.setattr(completion.time, "time", lambda: now + seconds)


def test_names_are_returned_the_latest_first(known):
    known.add("runs", ["a", "b"])
    known.add("runs", ["c", None, "a"])
    known.add("checkpoints", ["p"])
    assert known.names("runs") == ["c", "a", "b"]
    assert (known.names("checkpoints"), known.names("models")) == (["p"], [])
    known.add("runs", ["b"], whole=True)
    assert known.names("runs") == ["b"]
    known.drop("runs", ["b", "never there"])
    assert known.names("runs") == []
    known.add("runs", [f"r{n}" for n in range(completion.KEPT + 5)])
    assert known.names("runs") == [f"r{n}" for n in range(completion.KEPT)]


def test_names_expire(known, later):
    known.add("runs", ["a"])
    assert known.is_fresh("runs")
    later(completion.FRESH + 1)
    assert not known.is_fresh("runs")
    assert known.names("runs") == ["a"]
    known.add("runs", [])
    assert known.is_fresh("runs")
    later(2 * completion.EXPIRY)
    assert known.names("runs") == []
    later(-10)  # a clock that was set back
    assert known.names("runs") == []
    assert not known.is_fresh("runs")


def test_servers_and_profiles_are_kept_apart(known):
    known.add("runs", ["a"])
    for url, profile in (("http://127.0.0.1:2", None), ("http://127.0.0.1:1", "work")):
        assert Cache(url, profile).names("runs") == []
    assert Cache("http://127.0.0.1:1", None).names("runs") == ["a"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"runs": []}', '{"runs": ["x", ["a"]]}', '{"runs": null}', "[" * 100_000],
)
def test_a_damaged_file_counts_as_empty(known, content):
    known.add("runs", ["a"])
    known.path.write_text(content)
    assert known.names("runs") == []
    known.add("runs", ["b"])
    assert known.names("runs") == ["b"]


def test_the_file_is_private_and_its_name_says_nothing(home):
    known = Cache("http://ada:secret@tinker.test", None)
    known.add("runs", ["a"])
    assert stat.S_IMODE(known.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(known.path.parent.stat().st_mode) == 0o700
    assert list(known.path.parent.iterdir()) == [known.path]
    assert "tinker" not in known.path.name


def test_a_directory_that_is_not_private_is_not_used(known):
    known.add("runs", ["a"])
    known.path.parent.chmod(0o777)
    assert known.names("runs") == []
    known.add("runs", ["b"])
    assert known.names("runs") == []
