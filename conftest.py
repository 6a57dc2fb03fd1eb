"""No test leaves its environment behind: what starts between two would take it for its own."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

_READ = ("TINKE", "HF_", "HUGGING_FACE_", "CLIFF_", "XDG_", "HOME")


def _ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_READ)}


_at_first = _ours()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Compare the environment when the last fixture of a file has gone."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        assert _ours() == _at_first, "a test of this file has changed the environment for good"
    return result
