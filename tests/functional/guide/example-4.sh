#!/usr/bin/env bash
# Token ids for exactly the prompt that is meant.
API_KEY="$TINKER_API_KEY"
cat >tokens.json <<TOKENS
{
  "tokens": [1, 450, 1783, 315, 1324, 374]
}
TOKENS

tinkex run \
  --base-model "$MODEL" \
  --prompt-file tokens.json \
  --max-tokens 50 \
  --temperature 0.7 \
  --json \
  --output output.json \
  --api-key "$API_KEY" --base-url "$BASE_URL"

echo "Generated text from token IDs:"
cat output.json | jq .
