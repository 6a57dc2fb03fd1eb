#!/usr/bin/env bash
# The result in a file instead of on standard output, as text and as JSON.
set -eu
tinkex run --base-model "$MODEL" --prompt "Generate a story" --max-tokens 200 \
  --output story.txt \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"

tinkex run --base-model "$MODEL" --prompt "Hello world" --max-tokens 50 \
  --json \
  --output response.json \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
