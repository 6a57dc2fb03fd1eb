"""``python -m tinkex`` and the ``tinkex`` console script.

Nothing heavy is imported here: ``--version`` is answered before cliff is, and every other import
happens inside ``try``, so that Ctrl-C and a closed pipe end quietly from the first moment on.
"""

from __future__ import annotations

import gc
import sys
import warnings

TYPE_CHECKING = False  # that of typing, which takes longer to import than this program to answer
if TYPE_CHECKING:
    from typing import Any


def start() -> None:
    """Run the program as the console script does: the process ends here.

    What exit functions there are run, and then the process ends without taking the interpreter
    apart object by object, which takes longer than a listing's request (mypy ends so, too).
    """
    import os

    code = main()
    try:
        _wait_for_others(code)
        if "atexit" in sys.modules:
            import atexit

            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        _wait_for_others(code)  # one of those that Python does not wait for may have begun another
    except (KeyboardInterrupt, OSError):
        pass  # the program's result has been written, and its exit code is known
    os._exit(code)


def _wait_for_others(code: int) -> None:
    """Exit as Python does, and so wait, if a thread that is no daemon is still at work."""
    threading: Any = sys.modules.get("threading")
    if threading and any(
        not thread.daemon and thread is not threading.main_thread()
        for thread in threading.enumerate()
    ):
        sys.exit(code)


def main() -> int:
    """Run the program and return its exit code."""
    try:
        if sys.stdout is not None and _asks_version_only(sys.argv[1:]):
            from tinkex.version import line

            return _flushed(0, line() + "\n")
        # Imports make objects by the ten thousand and drop none: look for garbage less often.
        gc.set_threshold(100_000, 20, 20)
        # The program tells it in words of its own, once, and also with --quiet.
        warnings.filterwarnings("ignore", message="Unverified HTTPS request")
        from tinkex.cli import startup

        startup.before_cliff()
        from tinkex.cli.program import main as run_program

        return _flushed(run_program())
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _flushed(141)


def _asks_version_only(words: list[str]) -> bool:
    """Tell whether the version line is wanted and no setting can ask for another format."""
    import os

    if words == ["--version"]:
        return True
    ours = any(name.startswith("TINKEX_") and name != "TINKEX_LOCAL_HOME" for name in os.environ)
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return words == ["version"] and not ours and not os.path.exists(f"{config}/tinkex/config.yaml")


def _flushed(code: int, text: str = "") -> int:
    """Write *text* and what is buffered: a full disk or a closed pipe shows in the exit code."""
    import os

    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError as error:
        # Python would complain again when it closes the stream at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return 141
        if not code:  # else the failure has been told
            sys.stderr.write(f"Output failed: {error.strerror}.\n")
        return 1
    # The last collection at exit would walk every object of every imported module (11–14 ms).
    gc.freeze()
    return code


if __name__ == "__main__":
    start()
