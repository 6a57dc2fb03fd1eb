#!/usr/bin/env bash
# The main job from beginning to end, on the embedded local service: no account, no network.
# Each command is printed before its output; `make demo` installs what is needed and runs this.
set -euo pipefail

work=$(mktemp -d "${TMPDIR:-/tmp}/tinkex-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
# Everything stays in the temporary directory, and no configuration of yours is read.
export TINKEX_LOCAL_HOME="$work/service" XDG_CONFIG_HOME="$work/config" XDG_CACHE_HOME="$work/cache"

# Print a command as one types it, then run it.
say() {
    printf '\n$ %s\n' "$1"
    eval "$1"
}

say 'export TINKEX_PROFILE=local'
say 'tinkex version'
say 'tinkex checkpoint --base-model tinkex/baker-street-2M --rank 8 --name first --output checkpoint.json'
say 'cat checkpoint.json'
say 'tinkex checkpoint list -f table'
say 'tinkex checkpoint list -f json'
say 'checkpoint=$(tinkex checkpoint list -f value -c tinker_path)'
say 'tinkex checkpoint info "$checkpoint"'
prompt='"The door opened, and"'
sampling="--max-tokens 40 --temperature 0.8 --num-samples 2"
say "tinkex run --base-model tinkex/baker-street-2M --prompt $prompt $sampling"
say "tinkex run --model-path \"\$checkpoint\" --prompt $prompt $sampling"
say 'tinkex checkpoint publish "$checkpoint"'
say 'tinkex checkpoint download "$checkpoint" --output adapter'
say 'ls -l adapter'
say 'tinkex checkpoint delete --yes "$checkpoint"'
say 'tinkex checkpoint list -f json'
