"""The hint that the command line adds to an error of the api, by its class."""

from __future__ import annotations

import errno
import json

import pytest

from tinkex import exceptions
from tinkex.cli.errors import hint_for
from tinkex.exceptions import (
    APIError,
    BadRequest,
    InvalidName,
    LocalError,
    NotFound,
    TinkexError,
    Unauthorized,
)
from tinkex.testing import invoke


def about(error: APIError, **facts: str) -> APIError:
    for name, value in facts.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (InvalidName("x"), "See 'tinkex checkpoint list'."),
        (InvalidName("x", hint="Did you mean y?"), "Did you mean y? See 'tinkex checkpoint list'."),
        (InvalidName("x", resource="run"), "See 'tinkex run list'."),
        (exceptions.TargetExists("x"), "Add --force to replace it, or name another place"),
        (exceptions.TargetInUse("x"), "Wait for it"),
        (exceptions.ChatTemplateError("x"), "Name another one or a local directory with --token"),
        (exceptions.Unreachable("x"), "Is the address right? See 'tinkex config show'."),
        (exceptions.ConnectionFailed("x"), None),
        (exceptions.TimedOut("x"), "Allow more time with --timeout"),
        (exceptions.Redirected("x", location="https://y"), "Set --base-url to https://y"),
        (Unauthorized("x", status=401), "Check it with 'tinkex"),
        (about(Unauthorized("x", status=401), key_origin="A"), "The key comes from A. Check it"),
        (BadRequest("x", status=400), None),
        (about(BadRequest("x", status=400), resource="model"), "See 'tinkex model list'."),
        (NotFound("x", status=404), "See 'tinkex checkpoint list' or 'tinkex run list'."),
        (about(NotFound("x", status=404), resource="session"), "See 'tinkex session list'."),
        (NotFound("x", status=404, hint="The run has no checkpoints."), "The run has no"),
        (LocalError("x"), "Check the name"),
        (LocalError("x", hint=""), ""),
        (exceptions.ServerError("x", status=500), None),
        (TinkexError("x"), None),
    ],
)
def test_the_hint_is_the_error_s_own_or_that_of_the_nearest_class(error, hint):
    found = hint_for(error)
    assert (found or "").startswith(hint or "")
    assert (found is None) == (hint is None)


def test_a_local_error_has_the_hint_of_its_cause():
    error = LocalError("cannot write x")
    error.__cause__ = OSError(errno.EACCES, "Permission denied")
    assert hint_for(error) == "Check the permissions."


def test_the_hint_is_the_same_in_json():
    words = ["checkpoint", "info", "tinker://no-path", "--api-key", "k"]
    hint = json.loads(invoke([*words, "-f", "json"]).stderr)["error"]["hint"]
    assert hint.endswith("See 'tinkex checkpoint list'.")
    assert invoke(words).stderr.endswith(f"\nHint: {hint}\n")
