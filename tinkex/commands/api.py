"""The command ``api``, which sends any request to the API."""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from tinkex.columns import json_text, printable
from tinkex.commands.base import Command
from tinkex.exceptions import LocalError, UsageError
from tinkex.files import read_bytes
from tinkex.options import non_empty

if TYPE_CHECKING:
    from tinkex.api.http.transport import Response


_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_HINT = "Use one of these forms for each name: name=value, name[member]=value, name[]=value."


class Api(Command):
    """Send any request to the API and print the response."""

    notes = (
        "The path is relative to /api/v1, or, with a leading slash, to the base URL.\n"
        "Fields become the query parameters of GET, HEAD and DELETE requests, and the JSON body\n"
        "of all other requests."
    )
    operation = "API request"
    examples = (
        "tinkex api GET training_runs --field limit=5",
        "tinkex api GET training_runs --paginate",
        "tinkex api POST sessions/search -F owner[type]=accessible -F limit=50",
        "tinkex api GET audit -F event_type=checkpoints -F day=2026-11-01",
        "tinkex api PUT sessions/ID/project --field project_id=p-1",
        "tinkex api POST weights_info --input body.json",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "method", metavar="<method>", help="HTTP method (default: GET, or POST with a body)"
        )
        parser.add_argument("path", metavar="<api_path>", nargs="?", help="request path")
        repeatable = functools.partial(parser.add_argument, action="append", default=[])
        repeatable(
            "-F",
            "--field",
            metavar="<key=value>",
            help="request field: numbers, true, false, null and JSON are parsed, @FILE reads a "
            "file and @- standard input, and a[b]=… and a[]=… build nested values; may be repeated",
        )
        repeatable(
            "--raw-field",
            metavar="<key=value>",
            help="request field whose value is always a string; may be repeated",
        )
        repeatable(
            "-H",
            "--header",
            metavar="<header>",
            type=_header,
            help="additional header of the form 'Name: value'; may be repeated",
        )
        parser.add_argument(
            "--input",
            metavar="<file>",
            type=non_empty,
            help="file with the request body, or - for standard input; fields then become query "
            "parameters",
        )
        add_flag = functools.partial(parser.add_argument, action="store_true")
        add_flag("--paginate", help="fetch all pages and combine them into one response")
        add_flag("-i", "--include", help="print the status and headers before the body")

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        method, path = _method_and_path(parsed_args)
        _check_stdin(parsed_args, self.app.option("api_key"))
        typed = [split_field(field) for field in parsed_args.field]
        raw = [split_field(field) for field in parsed_args.raw_field]
        pairs = [(key, field_value(value, self.app.stdin)) for key, value in typed]
        fields = build_object([*pairs, *raw])
        body: Any = None
        if parsed_args.input is not None:
            body = read_bytes(parsed_args.input, self.app.stdin)
            if parsed_args.paginate:
                body = _object(body)
        elif method not in ("GET", "HEAD", "DELETE") and (fields or method == "POST"):
            body, fields = fields, {}
        response = self.client.request(
            method,
            path,
            params={name: _in_query(name, value) for name, value in fields.items()},
            body=body,
            headers=dict(parsed_args.header),
            paginate=parsed_args.paginate,
        )
        self.result = _value(response)
        self.app.display.clear()
        if parsed_args.include:
            lines = [
                f"{name}: {printable(text)}" for name, text in sorted(response.headers.items())
            ]
            self.app.stdout.write("\n".join([f"HTTP {response.status}", *lines, "\n"]))
        self._print(response)

    def _print(self, response: Response) -> None:
        """Print the body: formatted JSON on a terminal, otherwise its bytes."""
        if not response.body:
            return
        out, on_terminal = self.app.stdout, self.app.stdout.isatty()
        if on_terminal and isinstance(self.result, bytes):
            if not response.content_type.startswith("text/"):
                raise LocalError(
                    f"cannot show a response of type {response.content_type or 'unknown'} "
                    "on a terminal",
                    hint="Redirect it to a file: tinkex api … > file",
                )
            out.write(printable(response.body.decode("utf-8", "replace"), keep="\n\t") + "\n")
        elif on_terminal:
            text = json_text(self.result, indent=2)
            out.write(printable(text, keep="\n") + "\n")
        else:
            _write(out, response.body, newline=not isinstance(self.result, bytes))


def _check_stdin(parsed_args: argparse.Namespace, api_key: str | None) -> None:
    readers = [field.partition("=")[2] == "@-" for field in parsed_args.field]
    readers += [parsed_args.input == "-", api_key == "-"]
    if sum(readers) > 1:  # the second would read nothing
        raise UsageError(
            "only one of --input, --field and --api-key can read from standard input",
            hint="Specify a file for each of the others.",
        )


def _method_and_path(parsed_args: argparse.Namespace) -> tuple[str, str]:
    if parsed_args.path is not None:
        return parsed_args.method.upper(), parsed_args.path
    if parsed_args.method.isupper():
        raise UsageError("the path is missing", hint="For example: tinkex api GET training_runs")
    has_body = parsed_args.field or parsed_args.raw_field or parsed_args.input is not None
    return ("POST" if has_body else "GET"), parsed_args.method


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    named = name.strip().replace("-", "").replace("_", "")
    if not colon or not named.isalnum() or not text.isascii() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected 'Name: value', not {text[:80]!r}")
    return name.strip(), value.strip()


def _object(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UsageError("--paginate requires a JSON object as the body") from None


def _in_query(name: str, value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        return ",".join(_in_query(name, item) for item in value)
    if isinstance(value, (dict, list)):
        hint = "Use POST or PUT without --input, or send the value as a string with --raw-field."
        raise UsageError(f"the nested field {name!r} cannot be a query parameter", hint=hint)
    return value if isinstance(value, str) else json.dumps(value)


def _value(response: Response) -> Any:
    """Return the JSON value of the body, its bytes if it is not JSON, or ``None`` if empty."""
    if not response.body:
        return None
    try:
        return json.loads(response.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return response.body


def _write(stream: Any, content: bytes, *, newline: bool) -> None:
    if newline and not content.endswith(b"\n"):
        content += b"\n"
    binary = getattr(stream, "buffer", None)
    if binary is None:  # tinkex.run() captures text
        stream.write(content.decode("utf-8", "replace"))
        return
    stream.flush()
    binary.write(content)
    binary.flush()


def field_value(text: str, stdin: TextIO | None) -> Any:
    """Return the value of the field text *text*.

    ``true``, ``false``, ``null``, numbers, ``[…]`` and ``{…}`` are decoded as JSON. ``@FILE``
    and ``@-`` read a file or standard input. Anything else is a string.

    :raises tinkex.exceptions.LocalError: the file cannot be read.
    """
    if text.startswith("@"):
        return read_bytes(text[1:], stdin).decode("utf-8", "replace")
    if text in ("true", "false", "null") or text[:1] in ("[", "{") or _NUMBER.fullmatch(text):
        try:
            value = json.loads(text)
            json.dumps(value, allow_nan=False)  # Python's parser accepts NaN, and 1e999
        except (ValueError, RecursionError):
            return text
        return value
    return text


def split_field(field: str) -> tuple[str, str]:
    """Return the key and value of *field*.

    :raises UsageError: there is no ``=`` or no valid key.
    """
    key, sign, value = field.partition("=")
    if not sign or not _KEY.fullmatch(key):
        raise UsageError(f"invalid field: {field[:80]!r}", hint=_HINT)
    return key, value


def build_object(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return *fields* as one JSON object; keys such as ``a[b]`` and ``a[]`` nest.

    The notation is that of ``gh api``.

    :raises UsageError: two fields conflict.
    """
    result: dict[str, Any] = {}
    for key, value in fields:
        match = _KEY.fullmatch(key)
        assert match is not None, "checked by split_field()"
        _put(result, [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])], value, key)
    return result


def _put(target: Any, steps: list[str], value: Any, key: str) -> None:
    """Put *value* into the object or list *target* at *steps*, creating missing levels."""
    step, rest = steps[0], steps[1:]
    if isinstance(target, list):
        if step:
            raise _conflict(key)
        if not rest:
            target.append(value)
            return
        # As in gh: a member that the last element already has starts another element.
        last = target[-1] if target else None
        if not isinstance(last, dict) or rest[0] in last:
            target.append({} if rest[0] else [])
        _put(target[-1], rest, value, key)
        return
    if not isinstance(target, dict) or not step:
        raise _conflict(key)
    if not rest:
        if step in target:
            raise UsageError(f"the field {key!r} is given twice", hint=f"For arrays, use {key}[]=.")
        target[step] = value
        return
    _put(target.setdefault(step, {} if rest[0] else []), rest, value, key)


def _conflict(key: str) -> UsageError:
    return UsageError(f"the field {key!r} conflicts with another field", hint=_HINT)
