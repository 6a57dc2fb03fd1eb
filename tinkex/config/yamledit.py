"""One change of a YAML text that leaves everything else in it as it is.

PyYAML writes a file anew, without comments, order or layout. But its parser tells where each value
stands in the text, so that one value can be replaced, added or removed in its place. Every change
is read back and compared with what was meant; where that fails — anchors, merge keys, a layout not
thought of — nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

_ENDLESS = 10**9


class NotEditable(Exception):
    """The text is laid out in a way that cannot be changed without losing something."""


def put(text: str, path: Sequence[str], value: Any) -> str:
    """Return *text* with *value* at *path*, a key of each mapping on the way down.

    :raises NotEditable: see the module.
    """
    meant = at = _own_copy(text)
    for key in path[:-1]:
        at = _below(at, key)
    at[_own_key(at, path[-1])] = value
    return _checked(_put(text, list(path), value), meant)


def drop(text: str, path: Sequence[str]) -> str:
    """Return *text* without what is at *path*.

    :raises NotEditable: see the module.
    :raises KeyError: there is nothing.
    """
    meant = at = _own_copy(text)
    for key in path[:-1]:
        at = at.get(_own_key(at, key)) or {}
    del at[_own_key(at, path[-1])]
    return _checked(_drop(text, list(path)), meant)


def _loaded(text: str) -> dict[Any, Any]:
    return yaml.safe_load(text) or {}


def _own_copy(text: str) -> dict[Any, Any]:
    """Return what *text* says, with every alias a value of its own: a change reaches one place."""
    try:
        content: dict[Any, Any] = _unshared(_loaded(text))
    except RecursionError as error:
        raise NotEditable from error
    return content


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(below) for key, below in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _below(mapping: dict[Any, Any], key: str) -> dict[Any, Any]:
    own = _own_key(mapping, key)
    if not isinstance(mapping.get(own), dict):
        mapping[own] = {}
    below: dict[Any, Any] = mapping[own]
    return below


def _own_key(mapping: dict[Any, Any], key: str) -> Any:
    """Return *key* as the mapping has it: ``7`` is a number there."""
    return next((own for own in mapping if str(own) == key), key)


def _checked(text: str, meant: Any) -> str:
    try:
        found = _loaded(text)
    except (yaml.YAMLError, ValueError) as error:
        raise NotEditable from error
    # A mapping that lost its last member may be written as nothing at all.
    if _without_nothing(found) != _without_nothing(meant):
        raise NotEditable
    return text


def _without_nothing(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {key: _without_nothing(below) for key, below in value.items()}
    return {key: {} if below is None else below for key, below in kept.items()}


def _put(text: str, path: list[str], value: Any) -> str:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return _ended(text) + _block({path[0]: _nested(path[1:], value)}, 0)
    depth = 0
    while True:
        key, below = _entry(node, path[depth])
        if key is None:
            return _add(text, node, path[depth], _nested(path[depth + 1 :], value))
        depth += 1
        if depth == len(path) or not isinstance(below, yaml.MappingNode):
            rest = _nested(path[depth:], value)
            return _replace(text, node, key, below, rest)
        node = below


def _drop(text: str, path: list[str]) -> str:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for name in path[:-1]:
        _, node = _entry(node, name)
    key, value = _entry(node, path[-1])
    begin, end = key.start_mark.index, _end(value)
    if node.flow_style:
        after = text[end:].lstrip()
        if after.startswith(","):
            end = len(text) - len(after) + 1
            end += len(text[end:]) - len(text[end:].lstrip(" "))
        elif text[:begin].rstrip().endswith(","):
            begin = len(text[:begin].rstrip()) - 1
        return text[:begin] + text[end:]
    return text[: _line_start(text, begin)] + text[_line_end(text, end) :]


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _entry(node: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise NotEditable
    return next(((k, v) for k, v in node.value if k.value == name), (None, None))


def _add(text: str, node: Any, name: str, value: Any) -> str:
    """Add an entry as the last one of the mapping *node*."""
    if node.flow_style:
        at = node.end_mark.index - 1  # before the brace
        kept = text[:at].rstrip()
        comma = "" if kept.endswith(("{", ",")) else ","
        space = "" if kept.endswith("{") else " "
        return f"{kept}{comma}{space}{_flow({name: value})}{text[at:]}"
    indent = node.start_mark.column
    at = _line_end(text, _end(node))
    return _ended(text[:at]) + _block({name: value}, indent) + text[at:]


def _replace(text: str, parent: Any, key: Any, old: Any, value: Any) -> str:
    """Write *value* in the place of *old*."""
    begin, end = old.start_mark.index, _end(old)
    if begin < key.end_mark.index:  # an alias: its text is elsewhere
        raise NotEditable
    if isinstance(value, dict) and not parent.flow_style:
        indent = parent.start_mark.column + 2
        head = text[:begin].rstrip(" ") + text[end : _line_end(text, end)]
        return _ended(head) + _block(value, indent) + text[_line_end(text, end) :]
    written = _flow([value])[1:-1] if not isinstance(value, dict) else "{" + _flow(value) + "}"
    if isinstance(old, yaml.CollectionNode) and not old.flow_style:  # it begins on the next line
        colon = text.index(":", key.end_mark.index) + 1
        rest = text[colon : _line_end(text, colon)]
        return f"{text[:colon]} {written}{rest}{text[_line_end(text, end) :]}"
    space = "" if text[begin - 1 : begin].isspace() else " "
    if isinstance(old, yaml.ScalarNode) and old.style in ("|", ">"):
        return text[:begin] + written + "\n" + text[end:]
    return text[:begin] + space + written + text[end:]


def _end(node: Any) -> int:
    """Return where the text of *node* ends; a block ends where its last value does."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end: int = node.end_mark.index
    return end


def _flow(value: Any) -> str:
    """Return *value* on one line: a mapping without its braces, anything else as it is."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=_ENDLESS, allow_unicode=True, sort_keys=False
    ).rstrip("\n")
    return text[1:-1] if isinstance(value, dict) else text


def _block(value: dict[str, Any], indent: int) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=False, width=_ENDLESS, allow_unicode=True, sort_keys=False
    )
    return "".join(" " * indent + line for line in text.splitlines(keepends=True))


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _line_end(text: str, at: int) -> int:
    """Return where the line with the character before *at* ends, its line break included."""
    if text[at - 1 : at] == "\n":  # of a block text
        return at
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1
