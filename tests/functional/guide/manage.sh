#!/usr/bin/env bash
# Everything that can be done with one checkpoint.
set -eu
tinkex checkpoint info "$CHECKPOINT" --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
tinkex checkpoint publish "$CHECKPOINT" --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
tinkex checkpoint unpublish "$CHECKPOINT" --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
tinkex checkpoint download "$CHECKPOINT" \
  --output ./models/checkpoint-001 \
  --force \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
tinkex checkpoint delete "$CHECKPOINT" --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
