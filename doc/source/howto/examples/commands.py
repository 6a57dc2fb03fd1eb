"""Run command lines inside the process and use their typed results."""

import tinkex
from tinkex.exceptions import APIError

page = tinkex.run(["checkpoint", "list", "--limit", "10"]).value
for checkpoint in page:
    print(checkpoint.tinker_path, checkpoint.size_bytes)

words = ["run", "--base-model", "Qwen/Qwen3-8B", "--prompt", "Hello", "--max-tokens", "4"]
(sequence,) = tinkex.run(words).value.sequences
print(f"stopped by {sequence.stop_reason} after {len(sequence.tokens)} tokens")

try:
    tinkex.run(["checkpoint", "info", page[0].tinker_path + "-gone"])
except APIError as error:
    print(f"checkpoint not found (HTTP {error.status}); error category: {error.category}")
