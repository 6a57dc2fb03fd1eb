#!/usr/bin/env bash
# More time for long answers, and several processes at once.
set -eu
tinkex run --timeout 300000 --max-tokens 2000 --base-model "$MODEL" --prompt "At length" \
  --output long.txt --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"

for i in {1..4}; do
  tinkex run --prompt "Sample $i" --max-tokens 8 --base-model "$MODEL" --output "sample-$i.txt" \
    --api-key "$TINKER_API_KEY" --base-url "$BASE_URL" &
done
wait
