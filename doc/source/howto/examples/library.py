"""Create an adapter, sample from it, and download its files with the library."""

from pathlib import Path

from tinkex.api import SamplingParams, ServiceClient, load_tokenizer
from tinkex.settings import resolve

MODEL = "Qwen/Qwen3-8B"

with ServiceClient(resolve()) as client:
    with client.create_lora_training_client(MODEL, rank=8, seed=1) as training:
        saved = training.save_weights_for_sampler("from-python")
    print("saved", saved.path)

    with client.create_sampling_client(model_path=saved.path) as sampling:
        prompt = load_tokenizer(sampling.base_model).encode("Once upon a time")
        response = sampling.sample(prompt, SamplingParams(max_tokens=4))
    print(len(response.sequences[0].tokens), "tokens")

    files = client.checkpoints.download(saved.path, Path("adapter")).files
    print("fetched", ", ".join(sorted(name for name, _ in files)))
    client.checkpoints.delete(saved.path)
