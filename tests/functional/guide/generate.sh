#!/usr/bin/env bash
# Two continuations of a prompt.
set -eu
tinkex run \
  --base-model "$MODEL" \
  --prompt "Hello there" \
  --max-tokens 64 \
  --temperature 0.7 \
  --num-samples 2 \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
