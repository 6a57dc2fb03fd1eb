"""Where keys come from."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tinkex.config import keys
from tinkex.exceptions import SettingsError

_ASK = """
import sys
from tinkex.config import keys
print(keys.from_command("cat; echo tml-from-command"))
print(sys.stdin.read())
"""


def test_a_credential_command_does_not_eat_what_was_piped_to_the_program():
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        input="a prompt",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.splitlines() == ["tml-from-command", "a prompt"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 3", "ended with status 3"),
        ("true", "printed nothing"),
        ("sleep 20", "did not end within 2 s"),
    ],
)
def test_a_credential_command_that_gives_no_key(command, message, monkeypatch):
    monkeypatch.setattr(keys, "CREDENTIAL_COMMAND_TIMEOUT", 2 if "sleep" in command else 60)

    with pytest.raises(SettingsError, match=message):
        keys.from_command(command)
