#!/usr/bin/env bash
# A large prompt from a file, with the shell and without.
set -eu
for i in {1..60}; do echo "It was a dark and stormy night, and the lamp went out."; done >large_prompt.txt
tinkex run --prompt "$(head -3 large_prompt.txt)" --max-tokens 4 --base-model "$MODEL" \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
head -40 large_prompt.txt >prompt.txt
tinkex run --prompt-file prompt.txt --max-tokens 4 --base-model "$MODEL" \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
