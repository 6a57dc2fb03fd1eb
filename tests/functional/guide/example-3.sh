#!/usr/bin/env bash
# List, look closer, download.
API_KEY="$TINKER_API_KEY"

echo "=== Your Checkpoints ==="
tinkex checkpoint list --limit 20 --api-key "$API_KEY" --base-url "$BASE_URL"

CHECKPOINT_PATH="$CHECKPOINT"
echo ""
echo "=== Checkpoint Info ==="
tinkex checkpoint info "$CHECKPOINT_PATH" --api-key "$API_KEY" --base-url "$BASE_URL"

echo ""
echo "=== Downloading Checkpoint ==="
tinkex checkpoint download "$CHECKPOINT_PATH" \
  --output ./models/checkpoint-001 \
  --force \
  --api-key "$API_KEY" --base-url "$BASE_URL"

echo ""
echo "Checkpoint saved to ./models/checkpoint-001"
