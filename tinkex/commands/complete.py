"""Completion scripts for shells."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tinkex import plugins
from tinkex.commands.base import Command
from tinkex.exceptions import PluginError

SHELLS = ("bash", "zsh", "fish")


class Complete(Command):
    """Print a completion script for a shell: commands, and the options of each."""

    examples = (
        'bash: eval "$(tinkex complete --shell bash)"   (in ~/.bashrc)',
        'zsh:  eval "$(tinkex complete --shell zsh)"    (in ~/.zshrc, after compinit)',
        "fish: tinkex complete --shell fish | source     (in config.fish)",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--shell", choices=SHELLS, default="bash", help="shell (default: bash)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        options = self._options_of_commands()
        script = {"bash": self._bash, "zsh": self._zsh, "fish": _fish}[parsed_args.shell]
        self.app.stdout.write(script(options))
        return 0

    def _bash(self, options: Mapping[str, list[str]]) -> str:
        # Before the command only global options stand, so theirs are the values to skip there.
        return _bash(options, self.app.parser.options_with_values())  # type: ignore[attr-defined]

    def _zsh(self, options: Mapping[str, list[str]]) -> str:
        return (
            "# tinkex completion for zsh, by its emulation of bash's\n"
            "autoload -U +X bashcompinit && bashcompinit\n" + self._bash(options)
        )

    def _options_of_commands(self) -> Mapping[str, list[str]]:
        """Return command name → its options; ``''`` is the program itself."""
        found = {"": self.app.parser.option_strings()}  # type: ignore[attr-defined]
        for name, entry in sorted(self.app.command_manager.commands.items()):
            try:
                command = entry.load()(self.app, self.app_args, name)
                found[name] = command.get_parser(name).option_strings()
            except PluginError as error:
                owner = plugins.distribution_of(entry.entry_point)
                self.app.warn(f"no completion for '{name}' of {owner}: {error}")
        return found


def _words_after(options: Mapping[str, list[str]]) -> Mapping[str, list[str]]:
    """Return command words so far → words that may come next."""
    after: dict[str, list[str]] = {name: [] for name in options}
    for name in options:
        words = name.split()
        for depth, word in enumerate(words):
            before = " ".join(words[:depth])
            if word not in after.setdefault(before, []):
                after[before].append(word)
    return {
        before: [*words, *[o for o in options.get(before, []) if o.startswith("--")]]
        for before, words in after.items()
    }


def _bash(options: Mapping[str, list[str]], with_values: list[str]) -> str:
    cases = "\n".join(
        f'        "{before}") words="{" ".join(words)}" ;;'
        for before, words in _words_after(options).items()
    )
    known = " ".join(f'"{name}"' for name in _words_after(options) if name)
    return f"""\
# tinkex completion for bash
_tinkex() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" command="" candidate word words name skip=""
    local -a known=({known})
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [[ -n "$skip" ]]; then skip=""; continue; fi
        case "$word" in {"|".join(with_values)}) skip=1; continue ;; esac
        candidate="${{command:+$command }}$word"
        for name in "${{known[@]}}"; do
            [[ "$name" == "$candidate" ]] && command="$candidate" && break
        done
    done
    case "$command" in
{cases}
        *) words="" ;;
    esac
    COMPREPLY=( $(compgen -W "$words" -- "$cur") )
    [[ ${{#COMPREPLY[@]}} -eq 0 ]] && COMPREPLY=( $(compgen -f -- "$cur") )
}}
complete -F _tinkex tinkex
"""


def _fish(options: Mapping[str, list[str]]) -> str:
    lines = ["# tinkex completion for fish", "complete -c tinkex -f"]
    for before, words in _words_after(options).items():
        if before:
            seen = "; and ".join(f"__fish_seen_subcommand_from {w}" for w in before.split())
        else:
            seen = "__fish_use_subcommand"
        below = [word for word in words if not word.startswith("-")]
        if below:
            lines.append(f"complete -c tinkex -n '{seen}' -a '{' '.join(below)}'")
        lines += [
            f"complete -c tinkex -n '{seen}' -l {word[2:]}"
            for word in words
            if word.startswith("--")
        ]
    return "\n".join(lines) + "\n"
