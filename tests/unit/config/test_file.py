"""Changes of a YAML text that leave everything else as it is."""

from __future__ import annotations

import pytest
import yaml

from tinkex.config import file

TEXT = """\
# mine
profile: work  # the usual
profiles:
  # hosted
  work:   {api_key_command: pass show tinker, format: table}   # flow
  skyrl:
    base_url: http://127.0.0.1:8000   # here
    api_key: tml-dummy

  local:  {http_pool: local}
# end
"""


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (["profile"], "skyrl", "profile: work  #", "profile: skyrl  #"),
        (["profiles", "skyrl", "api_key"], "tml-x", "tml-dummy", "tml-x"),
        (["profiles", "work", "format"], "json", "format: table}", "format: json}"),
        (["profiles", "work", "tags"], ["a"], "format: table}", "format: table, tags: [a]}"),
        (["profiles", "skyrl", "timeout"], "5m", "dummy\n", "dummy\n    timeout: 5m\n"),
        (
            ["profiles", "new"],
            {"format": "a: b"},
            "{http_pool: local}\n",
            "{http_pool: local}\n  new:\n    format: 'a: b'\n",
        ),
    ],
)
def test_only_the_value_changes(path, value, old, new):
    assert file.edit(TEXT, path, value) == TEXT.replace(old, new)


def test_other_values_stay_as_they_are_written():
    text = "profile: no\nprofiles:\n  no: {api_key: 0123, tags: [yes, 1.10], allow_http: true}\n"
    changed = file.edit(text, ["profiles", "no", "format"], "no")
    assert changed == text.replace("true}", "true, format: 'no'}")
    assert file.edit(changed, ["profiles", "no", "format"], None) == text


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (["profile"], "profile: work  # the usual\n", ""),
        (["profiles", "work", "format"], ", format: table}", "}"),
        (["profiles", "work", "api_key_command"], "api_key_command: pass show tinker, ", ""),
        (["profiles", "skyrl", "api_key"], "    api_key: tml-dummy\n", ""),
        (["profiles", "local"], "  local:  {http_pool: local}\n", ""),
    ],
)
def test_only_the_entry_goes(path, old, new):
    assert file.edit(TEXT, path, None) == TEXT.replace(old, new)


@pytest.mark.parametrize("path", [["nope"], ["profiles", "x"], ["profiles", "work", "tags"]])
@pytest.mark.parametrize("text", [TEXT, "", "profiles:\n", "profiles:\n  work:\n"])
def test_what_is_not_there_cannot_go(text, path):
    with pytest.raises(KeyError):
        file.edit(text, path, None)


@pytest.mark.parametrize(
    "text",
    [
        *("", "# nothing\n", "profiles:\n", "profiles: # mine\nprofile: x\n", "profiles: ~\n"),
        *("profiles: {}\n", "{profiles: {}}", "profiles:\n  a:\n  b: {}\n"),
        "profiles:\n  a:\n    api_key_command: |\n      one\n      two\n\nprofile: a\n",
        "---\nprofiles:\n  a: {format: json}\n...\n",
        *("profiles:\n    a:\n        format: json", '"profiles":\n  "a": {"format": "json",}\n'),
        "profiles:\n  a:\n    tags:\n    - x\n    - y\n",
        "profiles:\n  a:\n    tags:  # mine\n      - x # one\n      - y # two\nprofile: a\n",
        "profiles:\n  7: {format: json}\n",
    ],
)
def test_every_layout_takes_every_change(text):
    for path, value in (
        (["profile"], "on"),
        (["profiles", "a", "format"], "json # no comment"),
        (["profiles", "a", "api_key_command"], "x"),
        (["profiles", "a", "tags"], ["a,b", "c"]),
        (["profiles", "7", "tags"], ["a,b", "c"]),
        (["profiles", "n"], {"allow_http": True}),
    ):
        meant = yaml.safe_load(text) or {}
        at = meant
        for key in path[:-1]:
            key = 7 if key == "7" and 7 in at else key
            at[key] = at = at.get(key) or {}
        at[path[-1]] = value
        assert yaml.safe_load(file.edit(text, path, value)) == meant


@pytest.mark.parametrize(
    "text",
    [
        "base: &x {format: json}\nprofiles:\n  a: *x\n",
        *("base: &x\n  format: json\nprofiles:\n  a:\n    <<: *x\n", "profiles: &p\n  a: *p\n"),
    ],
)
def test_what_is_shared_is_not_changed_by_halves(text):
    with pytest.raises(file.NotEditable):
        file.edit(text, ["profiles", "a", "format"], "table")


@pytest.mark.parametrize(
    "text", ["profiles: {a: {format: json,\n  tags: x}}\n", "{profiles: 1 # x\n}"]
)
def test_braces_with_a_layout_are_not_written_anew(text):
    with pytest.raises(file.NotEditable):
        file.edit(text, ["profiles", "a", "format"], "table")
