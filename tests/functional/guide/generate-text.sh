#!/usr/bin/env bash
# One continuation as text.
set -eu
tinkex run \
  --base-model "$MODEL" \
  --prompt "The capital of France is" \
  --max-tokens 10 \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
