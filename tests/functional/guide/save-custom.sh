#!/usr/bin/env bash
# A checkpoint with a LoRA configuration of its own; the directory of the file is not there yet.
set -eu
tinkex checkpoint \
  --base-model "$MODEL" \
  --rank 64 \
  --seed 42 \
  --train-mlp \
  --train-attn \
  --output checkpoints/lora-64.json \
  --api-key "$TINKER_API_KEY" --base-url "$BASE_URL"
