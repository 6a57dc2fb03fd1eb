#!/usr/bin/env bash
# Save a checkpoint, then generate text.
set -e
API_KEY="$TINKER_API_KEY"

echo "Saving checkpoint..."
tinkex checkpoint \
  --base-model "$MODEL" \
  --rank 32 \
  --output checkpoint.json \
  --api-key "$API_KEY" --base-url "$BASE_URL"

echo "Generating text..."
tinkex run \
  --base-model "$MODEL" \
  --prompt "The meaning of life is" \
  --max-tokens 100 \
  --temperature 0.8 \
  --output generation.txt \
  --api-key "$API_KEY" --base-url "$BASE_URL"

echo "Done! Check checkpoint.json and generation.txt"
