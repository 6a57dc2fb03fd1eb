#!/usr/bin/env bash
# A checkpoint, and its metadata in a file.
set -eu
tinkex checkpoint \
  --base-model "$MODEL" \
  --rank 32 \
  --output ./checkpoint.json \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
