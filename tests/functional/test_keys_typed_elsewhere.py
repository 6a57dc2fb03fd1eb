"""A key that is typed in the wrong place is not printed, neither for people nor as JSON."""

from __future__ import annotations

import pytest

from tinkex.testing import invoke

KEY = "tml-0123456789abcdefghij"


@pytest.mark.parametrize(
    "line",
    [
        *("KEY", "run KEY", "run info KEY", "help KEY", "auth login KEY", "auth switch KEY"),
        *("--profile KEY run list", "--base-url KEY run list", "--http-pool KEY run list"),
        *("--timeout KEY run list", "-f KEY run list", "--api-key @KEY run list"),
        *("--profile KEY doctor", "--profile KEY profile list", "--debug run list --sort KEY"),
        *("config set KEY x", "config set base_url KEY"),
        *("config set timeout KEY", "config set allow_http KEY", "config set http_pool KEY"),
        *("config set project_id KEY", "config set tags a,KEY", "--profile KEY config set tags a"),
        *("profile add KEY", "profile use KEY", "profile remove KEY --yes", "profile list -c KEY"),
        *("checkpoint info KEY", "checkpoint list --sort KEY", "checkpoint delete KEY"),
        *("run --base-model m --prompt-file KEY", "run --model-path KEY --prompt x"),
        *("api -F KEY x", "complete --shell KEY", "--debug --profile KEY run list"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_key_in_the_wrong_place_is_not_echoed(line, more):
    environ = {"TINKER_API_KEY": "tml-x", "TINKER_BASE_URL": "http://127.0.0.1:9"}
    done = invoke([*line.replace("KEY", KEY).split(), *more], environ=environ)
    assert KEY[:12] not in done.stdout + done.stderr


@pytest.mark.parametrize("variable", ["TINKEX_PROFILE", "TINKER_BASE_URL", "TINKEX_FORMAT"])
def test_key_in_the_wrong_variable_is_not_echoed(variable):
    done = invoke(["run", "list"], environ={variable: KEY, "TINKER_API_KEY": "tml-x"})
    assert "tml-…ghij" in done.stderr
    assert KEY not in done.stderr


def test_key_in_the_wrong_setting_is_not_shown(config):
    config(f"profile: p\nprofiles: {{p: {{project_id: {KEY}, tags: [{KEY}]}}}}")
    for line in ("config show", "config get project_id", "profile list -f json", "doctor"):
        done = invoke(line.split(), environ={"TINKER_BASE_URL": "http://127.0.0.1:9"})
        assert KEY not in done.stdout + done.stderr


def test_other_names_stay_whole():
    done = invoke(["--profile", "tml-prod", "run", "list"])
    assert "'tml-prod'" in done.stderr
    done = invoke(["run", "--base-model", "m", "--prompt-file", "/data/tml-experiments-2026/x"])
    assert "/data/tml-experiments-2026/x" in done.stderr
