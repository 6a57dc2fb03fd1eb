"""Completion for the shells of the system: the scripts, and the answers they ask for."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from tinkex.cli import completion, lines
from tinkex.commands.base import Command
from tinkex.files import user_path

SHELLS = ("bash", "zsh", "fish")


class Complete(Command):
    """Print or install a completion script for a shell."""

    examples = (
        "tinkex complete --shell bash --install",
        'bash: eval "$(tinkex complete --shell bash)"   (in ~/.bashrc)',
        'zsh:  eval "$(tinkex complete --shell zsh)"    (in ~/.zshrc, after compinit)',
        "fish: tinkex complete --shell fish | source     (in config.fish)",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--shell", choices=SHELLS, default="bash", help="shell (default: bash)")
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--install",
            action="store_true",
            help="write the script to the place where the shell looks for it",
        )
        what.add_argument(
            "--line",
            metavar="<text>",
            help="print what may stand at the end of this command line; the scripts ask so",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if parsed_args.line is not None:
            self.app.stdout.write(answer(self, parsed_args.line))
        elif parsed_args.install:
            self._install(parsed_args.shell)
        else:
            self.app.stdout.write(_SCRIPTS[parsed_args.shell])
        return 0

    def _install(self, shell: str) -> None:
        from tinkex.files import write_atomically

        path = place(shell)
        script = _SCRIPTS[shell]
        try:
            there = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            there = None
        if there != script:
            write_atomically(str(path), script)
        self.app.stdout.write(f"{path}\n")
        self.status("Installed." if there != script else "It was there already.")
        self.status(_THEN[shell].format(directory=path.parent))


def answer(command: Command, line: str) -> str:
    """Return what may stand at the end of *line*: ``files``, ``directories`` or ``words``, then
    a word on each line, with a tab and a note where there is one."""
    unfinished = lines.unfinished(line)
    words = unfinished.words
    while words and re.match(r"\w+=", words[0]):  # settings of the environment
        words = words[1:]
    if not words or unfinished.after:
        return "files\n"
    app: Any = command.app
    offer = completion.offer(app, words[1:], unfinished.current)
    told = [f"{value}\t{note}" if note else value for value, note in offer.values]
    return "\n".join([offer.files or "words", *told, ""])


def place(shell: str) -> Path:
    """Return the path where *shell* looks for a user's completion of tinkex.

    :raises LocalError: there is no home directory.
    """
    environ = os.environ
    data = Path(environ.get("XDG_DATA_HOME") or user_path("~/.local/share"))
    if shell == "bash":
        base = environ.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion"
        return Path(base) / "completions" / "tinkex"
    if shell == "zsh":
        return data / "zsh" / "site-functions" / "_tinkex"
    config = Path(environ.get("XDG_CONFIG_HOME") or user_path("~/.config"))
    return config / "fish" / "completions" / "tinkex.fish"


#: What remains to be done after --install.
_THEN = {
    "bash": "The package bash-completion loads it in new shells.",
    "zsh": "In ~/.zshrc, before compinit: fpath=({directory} $fpath)",
    "fish": "New shells load it.",
}

# bash cuts words at ':', '=' and '@', and wants no more than the last piece back.
_BASH = r"""# tinkex completion for bash
_tinkex() {
    local line="${COMP_LINE:0:${COMP_POINT:-0}}" word kind="" whole kept="" breaks
    [[ -n "$line" ]] || line="${COMP_WORDS[*]:0:COMP_CWORD+1}"
    whole="${line##*[[:space:]]}"
    breaks="${COMP_WORDBREAKS//[^:=@]/}"
    [[ -z "$breaks" || "$whole" != *[$breaks]* ]] || kept="${whole%"${whole##*[$breaks]}"}"
    COMPREPLY=()
    while IFS= read -r word; do
        if [[ -z "$kind" ]]; then kind="$word"; continue; fi
        word="${word%%$'\t'*}"
        COMPREPLY+=("${word#"$kept"}")
    done < <("${COMP_WORDS[0]/#\~/$HOME}" complete --shell bash --line "$line" 2>/dev/null)
    [[ "$kind" == files || "$kind" == directories ]] || return 0
    local how=-f
    [[ "$kind" == files ]] || how=-d
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(compgen $how -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -F _tinkex tinkex
"""

_ZSH = r"""#compdef tinkex
# tinkex completion for zsh
_tinkex() {
    local -a answer values shown
    local kind word line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    answer=("${(@f)$(${~words[1]} complete --shell zsh --line "$line" 2>/dev/null)}")
    kind="$answer[1]"
    for word in "${(@)answer[2,-1]}"; do
        [[ -n "$word" ]] || continue
        values+=("${word%%$'\t'*}")
        shown+=("${word/$'\t'/  -- }")
    done
    (( $#values )) && compadd -l -d shown -a values
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
    printf '%s\n' $answer[2..]
    switch "$answer[1]"
        case files
            __fish_complete_path (commandline -ct)
        case directories
            __fish_complete_directories (commandline -ct) ''
    end
end
complete -c tinkex -f -a '(__tinkex_complete)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
