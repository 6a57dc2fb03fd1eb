#!/usr/bin/env bash
# Success and failure in a script.
if tinkex run --prompt "Test" --base-model "$MODEL" --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"; then
  echo "Success!"
else
  echo "Failed with exit code: $?"
  exit 1
fi
