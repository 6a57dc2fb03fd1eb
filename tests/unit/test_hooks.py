"""Hooks that fail while a command runs: whose they are is told."""

from __future__ import annotations

import pytest

from tinkex.testing import invoke

HOOK = """
from cliff.hooks import CommandHook
from tinkex.exceptions import UsageError

class Hook(CommandHook):
    def get_parser(self, parser):
        return parser
    def get_epilog(self):
        return ""
    def before(self, parsed_args):
        {before}
    def after(self, parsed_args, result):
        {after}
"""


@pytest.mark.parametrize("command", [["config", "show"], ["version"], ["profile", "list"]])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["ValueError('x')", "UsageError('not today')"])
def test_a_hook_that_fails_is_named_unless_it_means_to(fake_plugins, command, when, what):
    code = HOOK.format(**{"before": "pass", "after": "pass", when: f"raise {what}"})
    entry = f"[tinkex.hooks.{'_'.join(command)}]\nh = p_hook:Hook\n"
    fake_plugins.add("p-hook", entry, code)
    done = invoke(command)
    assert (done.exit_code, done.stdout) == (1, "")
    if "UsageError" in what:
        assert "not today" in done.stderr
        assert "p-hook" not in done.stderr
    else:
        assert "the hook 'h' of plugin p-hook failed (ValueError: x)" in done.stderr
        assert "TINKEX_PLUGINS" in done.stderr


def test_a_hook_that_does_nothing_changes_nothing(fake_plugins):
    plain = invoke(["config", "show"]).stdout
    code = HOOK.format(before="pass", after="pass")
    fake_plugins.add("p-hook", "[tinkex.hooks.config_show]\nh = p_hook:Hook\n", code)
    assert invoke(["config", "show"]).stdout == plain
