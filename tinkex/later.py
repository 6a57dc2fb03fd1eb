"""Puts off the import of packages that others import and this program seldom uses.

requests imports its detector of text encodings and its tables of international domain names
whenever it is imported; answers of an API are JSON, and its host names are ASCII.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_lock = threading.RLock()


class _Later(ModuleType):
    """A package whose code runs when something of it is first used.

    :class:`importlib.util.LazyLoader` would run it as soon as anybody asks for its version, which
    requests does.
    """

    _running = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for what modules may have
            raise AttributeError(name)
        with _lock:
            if type(self) is _Later and not self._running:
                self._run()
        return ModuleType.__getattribute__(self, name)

    def _run(self) -> None:
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        self._running = True
        try:
            spec.loader.exec_module(self)
        finally:
            del self._running
        self.__class__ = ModuleType  # type: ignore[assignment]


def before_requests() -> None:
    """Put off what requests imports and a client of an API does not use.

    For a process of our own only: in anybody else's, what is imported is not our affair.
    """
    if "requests" not in sys.modules:
        put_off("charset_normalizer", version_in="version")
        put_off("idna")


def put_off(package: str, *, version_in: str = "") -> None:
    """Import *package* only when something of it is used.

    Does nothing where it has been imported already, or is not there.

    :param version_in: submodule that has ``__version__``, where others look for that at once.
    """
    if package in sys.modules:
        return
    spec = find_spec(package)
    if spec is None or spec.loader is None or spec.submodule_search_locations is None:
        return
    module = _Later(package)
    module.__spec__, module.__loader__ = spec, spec.loader
    module.__file__, module.__path__ = spec.origin, spec.submodule_search_locations
    module.__package__ = package
    sys.modules[package] = module
    if version_in:
        try:
            version = import_module(f"{package}.{version_in}").__version__
        except (ImportError, AttributeError):  # another release keeps it elsewhere
            del sys.modules[package]
        else:
            vars(module)["__version__"] = version
