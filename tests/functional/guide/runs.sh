#!/usr/bin/env bash
# Training runs.
set -eu
tinkex run list --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
tinkex run list --limit 10 --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
echo "--"
tinkex run info "$RUN" --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
