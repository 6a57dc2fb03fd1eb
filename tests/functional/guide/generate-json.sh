#!/usr/bin/env bash
# The whole response.
set -eu
tinkex run \
  --base-model "$MODEL" \
  --prompt "Hello" \
  --max-tokens 5 \
  --json \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
