#!/usr/bin/env bash
# A prompt from a file: text, an array of token ids, and an object with one.
set -eu
echo "Write a haiku about coding" >prompt.txt
tinkex run --base-model "$MODEL" --prompt-file prompt.txt --max-tokens 50 \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"

echo '[1, 2, 3, 4, 5]' >tokens.json
tinkex run --base-model "$MODEL" --prompt-file tokens.json --max-tokens 20 \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"

echo '{"tokens": [1, 2, 3, 4, 5]}' >object.json
tinkex run --base-model "$MODEL" --prompt-file object.json --max-tokens 20 \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
