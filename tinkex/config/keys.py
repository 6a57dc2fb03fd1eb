"""Where an API key comes from when it is not written out: a file, a pipe, a command."""

from __future__ import annotations

import os
import re
from typing import Any, TextIO

from tinkex.exceptions import LocalError, SettingsError, UsageError
from tinkex.files import user_path

#: Seconds a credential command may take.
CREDENTIAL_COMMAND_TIMEOUT = 60


def read_argument(argument: str, stdin: TextIO | None) -> str:
    """Return the key that ``--api-key`` names: itself, ``-`` for *stdin*, ``@FILE``.

    :raises SettingsError: there is nothing.
    :raises LocalError: the file cannot be read.
    """
    if argument == "-":
        text = stdin.readline() if stdin is not None else ""
        source = "standard input"
    elif argument.startswith("@"):
        source = argument[1:]
        try:
            text = user_path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8 text"
            raise LocalError(f"cannot read the API key from {source}: {why}") from error
    else:
        return argument
    if not text.strip():
        raise SettingsError(
            f"no API key in {source}",
            hint="The first line of standard input, or the file, is the key.",
        )
    return text.strip()


def ask(question: str) -> str:
    """Return the key that a person types at the terminal, which does not show it.

    :raises UsageError: nothing was typed, or the terminal cannot be kept from showing it.
    """
    import getpass
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            key = getpass.getpass(question).strip()
    except getpass.GetPassWarning as error:
        raise UsageError(
            "this terminal cannot hide what is typed",
            hint="Give the key on standard input: … | tinkex auth login --with-token",
        ) from error
    except EOFError:
        key = ""
    if not key:
        raise UsageError(
            "Cancelled: nothing was typed, nothing was changed.", hint="", whole_line=True
        )
    return key


def checked(key: str) -> str:
    """Return *key* if a header can carry it.

    :raises SettingsError: it cannot.
    """
    # A line break in a header value would be refused later with a far worse message.
    if not key.isascii() or any(c.isspace() or not c.isprintable() for c in key):
        raise SettingsError(
            "the API key holds a space, a line break or a non-ASCII character",
            hint="It is one word: is anything else there, from copying it?",
        )
    return key


def from_command(command: str) -> str:
    """Return what *command*, run by the shell, prints.

    :raises SettingsError: it fails or prints nothing.
    """
    import subprocess

    hint = "It is run by the shell and must print the key and nothing else."
    try:
        done = subprocess.run(  # noqa: S602 - running the user's own command is its purpose
            command,
            shell=True,
            check=False,
            # What is piped to the program is not for the command; a person can answer it.
            stdin=None if os.isatty(0) else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=CREDENTIAL_COMMAND_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise SettingsError(
            f"the credential command did not end within {CREDENTIAL_COMMAND_TIMEOUT} s", hint=hint
        ) from error
    key = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode or not key:
        what = f"ended with status {done.returncode}" if done.returncode else "printed nothing"
        raise SettingsError(f"the credential command {what}", hint=hint)
    return key


def jwt_claims(token: str) -> dict[str, Any]:
    """Return the claims of the JSON Web Token *token*, unverified; empty if it is none."""
    import base64
    import json

    try:
        _, payload, _ = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def is_expired(key: str) -> bool:
    """Return whether *key* is a token (JWT) that has expired."""
    import time

    try:
        return key.startswith("eyJ") and float(jwt_claims(key)["exp"]) < time.time()
    except (ValueError, KeyError, TypeError):
        return False


def mask(secret: str) -> str:
    """Return *secret* so that it can be told apart but not used: ``tml-…9f3c``."""
    return f"{secret[:4]}…{secret[-4:]}" if len(secret) >= 16 else "…" if secret else ""


def mask_inside(text: str) -> str:
    """Return *text* with everything masked that looks like a key of the official service."""
    return re.sub(r"(?:tml-|eyJ)[\w.=-]+", lambda found: mask(found[0]), text)
