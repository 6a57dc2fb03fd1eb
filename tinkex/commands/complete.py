"""Completion for bash, zsh and fish: the scripts, and the completions they request."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from tinkex.commands.base import Command
from tinkex.files import xdg_directory

SHELLS = ("bash", "zsh", "fish")
#: What the user must do after --install.
_NEXT = {
    "bash": "The bash-completion package loads it in new shells.",
    "zsh": "In ~/.zshrc, before compinit: fpath=({directory} $fpath)",
    "fish": "New shells load it.",
}


class Complete(Command):
    """Print or install a completion script for a shell."""

    examples = (
        "tinkex complete --shell bash --install",
        'bash: eval "$(tinkex complete --shell bash)"   (in ~/.bashrc)',
        'zsh:  eval "$(tinkex complete --shell zsh)"    (in ~/.zshrc, after compinit)',
        "fish: tinkex complete --shell fish | source     (in config.fish)",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--shell", choices=SHELLS, default="bash", help="shell (default: bash)")
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--install",
            action="store_true",
            help="write the script to the file where the shell looks for it",
        )
        what.add_argument(
            "--line",
            metavar="<text>",
            help="print the completions of this command line (used by the completion scripts)",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if parsed_args.line is not None:
            self.app.stdout.write(self._answer(parsed_args.line))
        elif parsed_args.install:
            self._install(parsed_args.shell)
        else:
            self.app.stdout.write(_SCRIPTS[parsed_args.shell])
        return 0

    def _answer(self, line: str) -> str:
        """Return the completions at the end of *line*.

        The first line is ``files``, ``directories`` or ``words``. Each further line is a word,
        followed by a tab and a note if the word has one.
        """
        from tinkex.cli import completion
        from tinkex.cli.repl import unfinished

        typed = unfinished(line)
        words = typed.words
        while words and re.match(r"\w+=", words[0]):  # environment variables
            words = words[1:]
        if not words or typed.after:
            return "files\n"
        offer = completion.offer(self.app, words[1:], typed.current)
        values = [f"{value}\t{note}" if note else value for value, note in offer.values]
        return "\n".join([offer.files or "words", *values, ""])

    def _install(self, shell: str) -> None:
        from tinkex.files import write_atomically

        path, script = _path(shell), _SCRIPTS[shell]
        try:
            is_there = path.read_text(encoding="utf-8") == script
        except (OSError, UnicodeDecodeError):
            is_there = False
        if not is_there:
            write_atomically(str(path), script)
        self.app.stdout.write(f"{path}\n")
        self.status("Already installed." if is_there else "Installed.")
        self.status(_NEXT[shell].format(directory=path.parent))


def _path(shell: str) -> Path:
    """Return the file where *shell* looks for the user's completion of tinkex."""
    data = xdg_directory("data")
    if shell == "bash":
        base = os.environ.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion"
        return Path(base) / "completions" / "tinkex"
    if shell == "zsh":
        return data / "zsh" / "site-functions" / "_tinkex"
    return xdg_directory("config") / "fish" / "completions" / "tinkex.fish"


# bash splits words at ':', '=' and '@' as well, and replaces the last piece only: $2.
_BASH = r"""# tinkex completion for bash
_tinkex() {
    local line="${COMP_LINE:0:${COMP_POINT:-0}}" word kind="" kept how=-f
    kept="${line%"$2"}"
    kept="${kept##*[[:space:]]}"
    COMPREPLY=()
    compopt -o nosort 2>/dev/null
    while IFS= read -r word; do
        if [[ -z "$kind" ]]; then kind="$word"; continue; fi
        word="${word%%$'\t'*}"
        COMPREPLY+=("${word#"$kept"}")
    done < <("${1/#\~/$HOME}" complete --shell bash --line "$line" 2>/dev/null)
    [[ "$kind" == files || "$kind" == directories ]] || return 0
    [[ "$kind" == files ]] || how=-d
    while IFS= read -r word; do
        compopt -o filenames 2>/dev/null
        COMPREPLY+=("$word")
    done < <(compgen $how -- "$2")
}
complete -F _tinkex tinkex
"""

_ZSH = r"""#compdef tinkex
# tinkex completion for zsh
_tinkex() {
    local -a answer values shown
    local kind word line="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX"
    answer=("${(@f)$(${~words[1]} complete --shell zsh --line "$line" 2>/dev/null)}")
    kind="$answer[1]"
    for word in "${(@)answer[2,-1]}"; do
        [[ -n "$word" ]] || continue
        values+=("${word%%$'\t'*}")
        shown+=("${word/$'\t'/  -- }")
    done
    (( $#values )) && compadd -V tinkex -l -d shown -a values
    [[ "$PREFIX" != --*=* ]] || compset -P '*='
    case "$kind" in
        files) _files ;;
        directories) _files -/ ;;
    esac
}
if [[ "$funcstack[1]" == _tinkex ]]; then
    _tinkex "$@"
else
    compdef _tinkex tinkex
fi
"""

_FISH = r"""# tinkex completion for fish
function __tinkex_complete
    set -l line (commandline -cp | string collect)
    set -l program (string split -f 1 ' ' -- (string trim -l -- $line))
    type -q -- $program; or set program tinkex
    set -l answer ($program complete --shell fish --line $line 2>/dev/null)
    set -l paths
    if contains -- "$answer[1]" files directories
        # What fish offers after a program that it has no completion for.
        set paths (complete -C "__tinkex_unknown "(commandline -ct))
        test $answer[1] = files; or set paths (string match '*/' -- $paths)
    end
    printf '%s\n' $answer[2..] $paths
end
complete -c tinkex -f -k -a '(__tinkex_complete)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
