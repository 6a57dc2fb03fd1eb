"""Puts off the import of what others import and this program seldom uses.

requests imports its detector of text encodings and its tables of international domain names
whenever it is imported; answers of an API are JSON, and its host names are ASCII. cliff brings
log handlers that write to sockets, dataclasses a reader of signatures, importlib.metadata one of
zip files, and a cache that is not used here the functions of OpenSSL.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_lock = threading.RLock()


#: What cliff imports for cases that a command seldom meets, with all that these modules import.
_BESIDE_CLIFF = ("hashlib", "inspect", "logging.handlers", "subprocess", "zipfile")


class _Later(ModuleType):
    """A module whose code runs when something of it is first used.

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


def before_cliff() -> None:
    """Put off what cliff, and what it is made of, imports and most commands do not use.

    For a process of our own only.
    """
    for name in _BESIDE_CLIFF:
        put_off(name)


def before_requests() -> None:
    """Put off what requests imports and a client of an API does not use.

    For a process of our own only: in anybody else's, what is imported is not our affair.
    """
    if "requests" not in sys.modules:
        put_off("charset_normalizer", version_in="version")
        put_off("idna")


def put_off(name: str, *, version_in: str = "") -> None:
    """Import the module or package *name* only when something of it is used.

    Does nothing where it has been imported already, or is not there.

    :param version_in: submodule that has ``__version__``, where others look for that at once.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = _Later(name)
    module.__spec__, module.__loader__ = spec, spec.loader
    module.__file__, module.__package__ = spec.origin, spec.parent
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    sys.modules[name] = module
    if version_in:
        try:
            version = import_module(f"{name}.{version_in}").__version__
        except (ImportError, AttributeError):  # another release keeps it elsewhere
            del sys.modules[name]
            return
        vars(module)["__version__"] = version
    if spec.parent and spec.parent != name:
        # The import system would do so, had it imported the module.
        setattr(sys.modules[spec.parent], name.rpartition(".")[2], module)
