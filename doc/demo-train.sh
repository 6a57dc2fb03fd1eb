#!/usr/bin/env bash
# Fine-tunes the small model of the local service on the licence of this project: no account, no network.
# Each command is printed before its output; `make demo-train` installs what is needed and runs this.
set -euo pipefail

licence=$(cd "$(dirname "$0")/.." && pwd)/LICENSE
work=$(mktemp -d "${TMPDIR:-/tmp}/tinkex-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
cp "$licence" LICENSE
# Everything stays in the temporary directory, and no configuration of yours is read.
export TINKEX_LOCAL_HOME="$work/service" XDG_CONFIG_HOME="$work/config" XDG_CACHE_HOME="$work/cache"
export HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore

cat > paragraphs.py <<'END'
import json, pathlib

for paragraph in pathlib.Path("LICENSE").read_text().split("\n\n"):
    print(json.dumps({"text": " ".join(paragraph.split())}))
END

# A program that uses the adapter with transformers and PEFT.
cat > in_peft.py <<'END'
import sys

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, logging

logging.disable_progress_bar()
base, prompt, *adapter = sys.argv[1:]
tokenizer = Tokenizer.from_file(f"{base}/tokenizer.json")
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
for directory in adapter:
    model = PeftModel.from_pretrained(model, directory)
ids = torch.tensor([tokenizer.encode(prompt).ids])
written = model.generate(input_ids=ids, max_new_tokens=40, do_sample=False)
print(tokenizer.decode(written[0, ids.shape[1] :].tolist()))
END

# Print a command, then run it.
say() {
    printf '\n$ %s\n' "$1"
    eval "$1"
}

say 'export TINKEX_PROFILE=local'
say 'tinkex local model list'
say 'python paragraphs.py > licence.jsonl; wc licence.jsonl'
model=tinkex/baker-street-2M
prompt='"You may add"'
sampling="--max-tokens 40 --seed 7 --temperature 0.5"
say "tinkex run --base-model $model --prompt $prompt $sampling"
say "tinkex train sft licence.jsonl --base-model $model --epochs 10 --batch-size 8 --learning-rate 3e-3 --name licence --output training"
say 'checkpoint=$(tinkex checkpoint list -f value -c tinker_path | grep sampler_weights/licence)'
say "tinkex run --model-path \"\$checkpoint\" --prompt $prompt $sampling"
say "tinkex score licence.jsonl --base-model $model --model-path \"\$checkpoint\" -f table -c model,nll,best"
say "echo 'What may I add?' | tinkex chat \"\$checkpoint\" $sampling"
say "echo $prompt > prompts.txt"
say "tinkex compare prompts.txt --base-model $model --model-path \"\$checkpoint\" $sampling --html compared.html"
grep -q '</mark>' compared.html || { echo "no text differs in the comparison" >&2; exit 1; }
say 'tinkex checkpoint download "$checkpoint" --output adapter'
# The most likely tokens do not depend on random numbers, so both programs write the same text.
say "tinkex run --model-path \"\$checkpoint\" --prompt $prompt --max-tokens 40 --temperature 0 | tee sampled.txt"
say 'base=$(python -c "from tinkex_torch.engine import BUILT_IN; print(BUILT_IN[\"tinkex/baker-street-2M\"])")'
say "python in_peft.py \"\$base\" $prompt adapter | tee peft.txt"
say 'tinkex checkpoint inspect adapter'
say 'tinkex checkpoint export adapter --to peft --base "$base" --output exported'
say "python in_peft.py \"\$base\" $prompt exported | tee exported.txt"
say 'tinkex checkpoint export adapter --to merged --base "$base" --output merged'
say "python in_peft.py merged $prompt | tee merged.txt"
for text in peft exported merged; do
    [[ $(cat sampled.txt) == *"$(cat $text.txt)"* ]] || { echo "$text.txt and sampled.txt differ" >&2; exit 1; }
done
