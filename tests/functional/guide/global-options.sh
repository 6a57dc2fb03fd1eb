#!/usr/bin/env bash
# The options that every command takes.
set -eu
tinkex run \
  --api-key "$TINKER_API_KEY" \
  --base-url "$BASE_URL" \
  --timeout 60000 \
  --base-model "$MODEL" \
  --prompt "Hello"
