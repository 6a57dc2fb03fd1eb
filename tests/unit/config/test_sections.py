"""Settings that plugins declare, and users write into their profiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinkex.config import sections
from tinkex.exceptions import PluginError
from tinkex.testing import check_distribution, invoke

SCHEMA = """
from __future__ import annotations
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from tinkex.commands.base import Command

@dataclass(frozen=True)
class Notes:
    author: str = "me"
    limit: int = field(default=20, metadata={"help": "most notes to list"})
    share: float | None = None
    sorted: bool = False
    file: Path = Path("notes.md")
    tags: tuple[str, ...] = ()
    order: Literal["old", "new"] = "new"
    token: str | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.limit < 1:
            raise ValueError("limit must be at least 1")

class ShowNote(Command):
    "Show the settings."
    def take_action(self, parsed_args):
        own = self.settings.plugin("p-notes")
        self.app.stdout.write(repr(list(vars(own).values())))
"""
ENTRIES = """
[tinkex.settings]
p-notes = p_notes:Notes
[tinkex.commands]
memo_show = p_notes:ShowNote
"""
DEFAULTS = ["me", 20, None, False, "notes.md", (), "new", None]


@pytest.fixture
def profile(fake_plugins, config):
    """Return a function that writes the section of the plugin in the default profile."""
    fake_plugins.add("p-notes", ENTRIES, SCHEMA)

    def write(section: object, name: str = "p-notes") -> Path:
        text = json.dumps({"profile": "work", "profiles": {"work": {"plugins": {name: section}}}})
        return config(text)

    return write


def test_a_plugin_without_a_section_has_its_defaults(profile):
    done = invoke(["memo", "show"])

    assert done.stdout.replace("PosixPath('notes.md')", "'notes.md'") == repr(DEFAULTS)


@pytest.mark.parametrize("name", ["p-notes", "P_Notes"])
def test_a_plugin_reads_its_section_of_the_profile(profile, name: str):
    section = {"author": "Ada", "limit": 3, "share": 1, "sorted": True, "tags": ["a"], "token": "x"}

    path = profile({**section, "file": "n.md", "order": "old"}, name)

    shown = ["Ada", 3, 1.0, True, path.parent / "n.md", ("a",), "old", "x"]
    assert invoke(["memo", "show"]).stdout == repr(shown)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"limt": 3}, "p-notes has no setting 'limt' (from profile work)"),
        ({"author": ["Ada"]}, "the setting author of p-notes must be a string (from profile work)"),
        ({"limit": True}, "the setting limit of p-notes must be a whole number"),
        ({"limit": 1.5}, "the setting limit of p-notes must be a whole number"),
        ({"limit": 0}, "settings of p-notes: limit must be at least 1 (from profile work)"),
        ({"share": "half"}, "the setting share of p-notes must be a number"),
        ({"sorted": "often"}, "the setting sorted of p-notes must be true or false"),
        ({"tags": "a,b"}, "the setting tags of p-notes must be a list of strings"),
        ({"file": ["a"]}, "the setting file of p-notes must be a path"),
        ({"order": "odd"}, "the setting order of p-notes must be one of old, new"),
        (["limit"], "plugins must be a mapping of distributions to their settings"),
    ],
    ids=str,
)
def test_a_setting_of_a_plugin_that_is_wrong_is_named(profile, section, problem: str):
    profile(section)

    done = invoke(["memo", "show"])

    assert (done.stdout, done.exit_code) == ("", 1)
    assert problem in done.stderr.splitlines()[0]


def test_a_wrong_setting_in_the_profile_of_a_plugin_names_that_plugin(fake_plugins, config):
    entries = f"{ENTRIES}[tinkex.profiles]\nnoted = p_notes:noted\n"
    code = "\ndef noted(): return {'plugins': {'p-notes': {'limit': 'many'}}}\n"
    fake_plugins.add("p-notes", entries, SCHEMA + code)

    done = invoke(["--profile", "noted", "memo", "show"])
    assert "Hint: Report the problem to the maintainers of p-notes. To override the" in done.stderr

    path = config("profiles: {noted: {plugins: {p-notes: {limit: few}}}}")
    done = invoke(["--profile", "noted", "memo", "show"])
    assert done.stderr.endswith(f"Hint: Change the setting in {path}.\n")


def test_config_show_has_the_settings_of_plugins_and_masks_secret_ones(profile):
    profile({"limit": 3, "token": "secret", "tags": ["a", "b"]})

    rows = invoke(["config", "show", "-f", "json"]).rows

    shown = {row["name"]: row for row in rows if row["name"].startswith("plugins.")}
    assert shown["plugins.p-notes.token"]["value"] == "…"
    assert shown["plugins.p-notes.tags"]["value"] == ["a", "b"]
    limit = shown["plugins.p-notes.limit"]
    assert list(limit.values())[1:3] == [3, "profile work"]
    assert limit["description"] == "most notes to list"
    others = [shown[f"plugins.p-notes.{name}"]["origin"] for name in ("author", "share")]
    assert others == ["default", "not set"]


def test_config_show_omits_plugins_whose_settings_do_not_load(profile, fake_plugins):
    fake_plugins.add("p-bad", "[tinkex.settings]\np-bad = p_bad:Gone\n")

    assert "p-bad" not in invoke(["config", "show"]).stdout
    profile({"limit": 3}, "p-bad")
    assert "p-bad 1.0 does not load" in invoke(["config", "show"]).stderr


def test_a_section_that_no_plugin_reads_is_shown_without_its_values(profile):
    profile({"limit": 3}, "p-gone")

    rows = invoke(["config", "show", "-f", "json"]).rows

    (row,) = (row for row in rows if row["name"] == "plugins.p-gone.limit")
    assert (row["value"], row["description"]) == ("…", "not declared by any loaded plugin")
    assert "unknown" not in invoke(["profile", "list"]).stderr


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("Notes = dict", "settings must be declared as a dataclass"),
        ("limit: int", "the setting limit of Notes has no default"),
        ("limits: dict[str, int] = None", "the setting limits of Notes has an unsupported type"),
        ("file: 'Path' = None", "name 'Path' is not defined"),
        ("limit: int = 'ten'", "the default of the setting limit must be a whole number"),
        ("limit: int = True", "the default of the setting limit must be a whole number"),
        ("def __post_init__(self): 1 / 0", "the defaults are not valid"),
    ],
)
def test_an_author_learns_what_a_declaration_of_settings_lacks(fake_plugins, schema, problem):
    code = f"from dataclasses import dataclass\n@dataclass\nclass Notes:\n    {schema}\n"
    code = schema if schema.startswith("Notes") else code
    fake_plugins.add("p-notes", "[tinkex.settings]\np-notes = p_notes:Notes\n", code)

    with pytest.raises(AssertionError, match=problem):
        check_distribution("p-notes")
    error = invoke(["plugin", "show", "p-notes", "-f", "json"]).rows["errors"][0]["error"]
    assert problem in error


def test_a_user_learns_which_plugin_declares_unusable_settings(fake_plugins):
    fake_plugins.add("p-notes", ENTRIES, SCHEMA.replace("= 20", "= None").replace("int", "set"))

    done = invoke(["memo", "show"])

    why = "the plugin p-notes declares unusable settings: the setting limit of"
    assert done.stderr.startswith(f"Memo show failed: {why}")


@pytest.mark.parametrize(
    ("name", "what"), [("tinkex-hub", "declares no settings"), ("p-nots", "is not installed")]
)
def test_a_plugin_without_declared_settings_is_told_where_to_declare_them(fake_plugins, name, what):
    fake_plugins.add("p-notes", ENTRIES, SCHEMA.replace('"p-notes"', f'"{name}"'))

    done = invoke(["memo", "show"])

    assert f"the plugin {name} {what}" in done.stderr
    assert "tinkex.settings" in done.stderr
    assert "p-notes" in done.stderr


def test_settings_of_a_disabled_plugin(fake_plugins, monkeypatch):
    fake_plugins.add("p-notes", ENTRIES, SCHEMA)
    monkeypatch.setenv("TINKEX_PLUGINS", "-p-notes")
    with pytest.raises(
        PluginError, match="p-notes is not loaded: TINKEX_PLUGINS disables"
    ) as found:
        sections.declared("p-notes")
    assert found.value.hint == "Change or unset TINKEX_PLUGINS."


def test_plugin_show_lists_the_settings(profile):
    rows = invoke(["plugin", "show", "p-notes", "-f", "json"]).rows

    assert rows["settings"][:2] == [
        "author: a string; default 'me'",
        "limit: most notes to list (a whole number; default 20)",
    ]
    assert rows["settings"][5] == "tags: a list of strings; not set by default"


def test_config_set_get_and_unset_change_a_setting_of_a_plugin(profile):
    path = profile({"author": "Ada"}, "P_Notes")
    line = ["plugins.p-notes.limit"]

    assert invoke(["config", "get", *line]).stdout == "20\n"
    done = invoke(["config", "set", *line, "3"])
    assert done.stdout == "Set plugins.p-notes.limit to 3 in profile work\n", done.stderr
    assert invoke(["config", "get", *line, "-f", "json"]).rows["origin"] == "profile work"
    assert invoke(["memo", "show"]).stdout.startswith("['Ada', 3, ")
    done = invoke(["config", "unset", *line])
    assert done.stdout == "Removed plugins.p-notes.limit from profile work\n"
    assert "limit" not in path.read_text()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["author", "no"], "author: no"),
        (["share", "0.5"], "share: 0.5"),
        (["sorted", "yes"], "sorted: yes"),
        (["tags", "a, b"], "tags:\n        - a\n        - b"),
        (["order", "old"], "order: old"),
    ],
    ids=" ".join,
)
def test_the_first_setting_of_a_plugin_makes_a_profile(profile, home: Path, words, shown: str):
    done = invoke(["config", "set", f"plugins.p-notes.{words[0]}", *words[1:]])

    text = (home / ".config" / "tinkex" / "config.yaml").read_text()
    assert done.exit_code == 0, done.stderr
    assert shown in text.replace("'no'", "no")
    assert invoke(["memo", "show"]).exit_code == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["limit", "many"], "the setting limit of p-notes must be a whole number"),
        (["limit", "0"], "limit must be at least 1"),
        (["sorted", "often"], "the setting sorted of p-notes must be true or false"),
        (["limt", "3"], "Hint: Did you mean plugins.p-notes.limit?"),
    ],
    ids=" ".join,
)
def test_config_set_refuses_what_a_plugin_would(profile, words, problem: str):
    done = invoke(["config", "set", f"plugins.p-notes.{words[0]}", *words[1:]])

    assert (done.stdout, done.exit_code) == ("", 1)
    assert problem in done.stderr
    if words[0] != "limt":
        assert done.stderr.endswith("Hint: See: tinkex plugin show p-notes\n")


def test_a_secret_setting_of_a_plugin_is_not_shown(profile):
    assert "secret" not in invoke(["config", "set", "plugins.p-notes.token", "secret"]).stdout
    assert invoke(["config", "get", "plugins.p-notes.token"]).stdout == "…\n"
