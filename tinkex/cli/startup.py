"""The process of the ``tinkex`` program: fast start, signals, streams, fast exit.

CPU time saved per process (Python 3.11; ``checkpoint list`` takes 130 ms):

- ``--version`` is answered before cliff is imported: 55 ms.
- Modules that cliff imports for rare cases are deferred: :data:`_RARE`, 10 ms.
- The encoding detector and domain name tables that requests imports are deferred: 8 ms.
- Imports create many objects and drop none: fewer garbage collections, 8 ms.
- The garbage collection at exit walks no object of an imported module: 25 ms.

Elsewhere: only the command that runs is imported (:mod:`tinkex.cli.commandmanager`), entry points
are read without their distributions (:mod:`tinkex.plugins`), and ``api``, rich, prettytable and
wcwidth are imported where they are used.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from _thread import RLock  # importing threading is slower than `--version` needs

TYPE_CHECKING = False  # that of typing, whose import is slow too
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)

#: Modules of the standard library that cliff imports and few commands use.
_RARE = ("hashlib", "inspect", "logging.handlers", "subprocess", "zipfile")


def main() -> int:
    """Run the program and return its exit code."""
    # Everything else is imported here, so that Ctrl-C and a closed pipe end the program quietly.
    try:
        if sys.stdout is not None and _wants_version_only(sys.argv[1:]):
            from tinkex.version import line

            return _finish(0, line() + "\n")
        gc.set_threshold(100_000, 20, 20)
        # tinkex prints its own warning, once, and also with --quiet.
        warnings.filterwarnings("ignore", message="Unverified HTTPS request")
        for name in (*_RARE, "idna"):
            defer(name)
        defer("charset_normalizer", version_in="version")  # which requests reads at once
        return _finish(_run_app(sys.argv[1:]))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _finish(141)


def _wants_version_only(words: list[str]) -> bool:
    """Return whether to print the version line: no setting can ask for another format."""
    if words == ["--version"]:
        return True
    ours = any(name.startswith("TINKEX_") and name != "TINKEX_LOCAL_HOME" for name in os.environ)
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return words == ["version"] and not ours and not os.path.exists(f"{config}/tinkex/config.yaml")


def _finish(code: int, text: str = "") -> int:
    """Write *text*, flush standard output, and return the exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError as error:
        # Python would complain again when it closes the stream at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return 141
        if not code:  # else an error has been printed
            sys.stderr.write(f"Output failed: {error.strerror}.\n")
        return 1
    gc.freeze()
    return code


def _run_app(argv: Sequence[str]) -> int:
    import signal

    from tinkex.cli.app import EXIT_FAILURE, TinkexApp

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _raise_terminated)
    sys.unraisablehook = _raise_again
    _make_streams_safe()
    app = TinkexApp()
    if app.stdout is None:
        app.stderr.write("Output failed: standard output is closed.\n")
        return EXIT_FAILURE
    try:
        return app.run(list(argv))
    finally:
        # Python would print a traceback for Ctrl-C while it shuts down.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _raise_terminated(number: int, _: object) -> None:
    from tinkex.exceptions import Terminated

    raise Terminated(128 + number)


def _raise_again(dropped: sys.UnraisableHookArgs) -> None:
    """Re-raise a signal's exception that Python dropped in a finalizer."""
    from tinkex.exceptions import Terminated

    error = dropped.exc_value
    if not isinstance(error, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(dropped)
        return
    import signal

    def again(*_: object) -> None:
        raise error

    # A moment later: raised here, it would be dropped again.
    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, 0.02)


def _make_streams_safe() -> None:
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is escaped.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


# ---------------------------------------------------------------------- deferred imports


_lock = RLock()


class _Deferred(ModuleType):
    """A module whose code runs when an attribute of it is first used.

    :class:`importlib.util.LazyLoader` would run it at the next ``import`` statement, which reads
    ``__spec__``, and when requests reads ``__version__``.
    """

    _running = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for optional ones
            raise AttributeError(name)
        with _lock:
            if type(self) is _Deferred and not self._running:
                self._running = True
                try:
                    self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                finally:
                    del self._running
                self.__class__ = ModuleType  # type: ignore[assignment]
        return ModuleType.__getattribute__(self, name)


def defer(name: str, *, version_in: str = "") -> None:
    """Run the code of the module or package *name* only when an attribute of it is used.

    Does nothing if the module has been imported or does not exist. This affects the whole process,
    so only the program uses it, not other programs that import tinkex.

    :param version_in: submodule with a ``__version__`` to set at once.
    """
    from importlib import import_module
    from importlib.util import find_spec, module_from_spec

    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    module.__class__ = _Deferred
    sys.modules[name] = module
    if version_in:
        try:
            version = import_module(f"{name}.{version_in}").__version__
        except (ImportError, AttributeError):  # this release has it elsewhere
            del sys.modules[name]
            return
        vars(module)["__version__"] = version
    if spec.parent and spec.parent != name:
        # As the import system does after an import.
        setattr(sys.modules[spec.parent], name.rpartition(".")[2], module)
