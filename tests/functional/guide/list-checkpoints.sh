#!/usr/bin/env bash
# The first ten, then the next page.
set -eu
tinkex checkpoint list --limit 10 --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
echo "--"
tinkex checkpoint list --limit 10 --offset 10 --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
