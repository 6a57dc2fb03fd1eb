#!/usr/bin/env bash
# Key and address from the environment.
export TINKER_API_KEY
export TINKER_BASE_URL="$BASE_URL"

tinkex run \
  --base-model "$MODEL" \
  --prompt "Hello world" \
  --max-tokens 20

tinkex checkpoint \
  --base-model "$MODEL" \
  --output checkpoint.json
