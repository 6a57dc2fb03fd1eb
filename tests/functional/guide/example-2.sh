#!/usr/bin/env bash
# Many prompts, each with its result as JSON.
API_KEY="$TINKER_API_KEY"
mkdir -p prompts outputs
echo "Write a haiku about code" >prompts/haiku.txt
echo "Explain recursion simply" >prompts/recursion.txt
echo "List 5 programming languages" >prompts/languages.txt

for prompt_file in prompts/*.txt; do
  base=$(basename "$prompt_file" .txt)
  echo "Processing: $base"

  tinkex run \
    --base-model "$MODEL" \
    --prompt-file "$prompt_file" \
    --max-tokens 100 \
    --temperature 0.7 \
    --json \
    --output "outputs/${base}.json" \
    --api-key "$API_KEY" --base-url "$BASE_URL"
done

echo "All prompts processed! Results in outputs/"
