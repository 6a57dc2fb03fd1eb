#!/usr/bin/env bash
# Three completions in one request.
set -eu
tinkex run \
  --base-model "$MODEL" \
  --prompt "Once upon a time" \
  --max-tokens 50 \
  --num-samples 3 \
  --temperature 0.9 \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
