#!/usr/bin/env bash
# The response goes straight into another program.
set -euo pipefail
tinkex run --base-model "$MODEL" --prompt "Hello" --max-tokens 6 --json \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL" | jq '.sequences[0].tokens'
