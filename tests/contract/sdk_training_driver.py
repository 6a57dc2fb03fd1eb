"""Trains on a Tinker server with the official SDK; run by its interpreter, prints one JSON object.

Only the SDK, PyTorch (for custom losses) and the standard library may be imported here.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")  # the SDK deprecates its older spellings, which work everywhere

import tinker  # noqa: E402
import torch  # noqa: E402
from tinker import types  # noqa: E402

#: Prompt and completion of the lesson, as tokens.
PROMPT, ANSWER = [500, 600, 700], [801, 802, 803, 804]
ADAM = types.AdamParams(learning_rate=5e-3, eps=1e-8)


def main(base_model: str) -> dict[str, Any]:
    service = tinker.ServiceClient()
    (model,) = service.get_server_capabilities().supported_models
    training = service.create_lora_training_client(base_model=base_model, rank=8, seed=7)
    found: dict[str, Any] = {"trainable": model.trainable}
    found["supervised"] = _supervised(training)
    sampler = training.save_weights_and_get_sampling_client()
    state = training.save_state(name="state").result().path
    # The state is saved, so both continue from the same weights, moments and number of steps.
    found["continued"] = _losses(training, 3)
    resumed = service.create_training_client_from_state_with_optimizer(state)
    found["resumed"] = _losses(resumed, 3)
    found["fresh optimizer"] = _losses(service.create_training_client_from_state(state), 3)
    found["sampled"] = _greedy(sampler)
    found["base"] = _greedy(service.create_sampling_client(base_model=base_model))
    found["scored"] = sampler.compute_logprobs(_ints(PROMPT + ANSWER)).result()[len(PROMPT) :]
    found["top"] = _top(sampler)
    found["reinforced"] = _reinforced(service, base_model)
    found["custom"] = _custom(service, base_model)
    found["chunks"] = _chunks(service, base_model)
    found["refused"] = _refused(training)
    return found


def _ints(tokens: list[int]) -> Any:
    return types.ModelInput.from_ints(tokens)


def _datum(answer: list[int] = ANSWER, **inputs: Any) -> Any:
    tokens = PROMPT + answer
    before = [0.0] * (len(PROMPT) - 1)
    weights = {"weights": before + [1.0] * len(answer)}
    padded = {name: before + list(values) for name, values in inputs.items()} or weights
    return types.Datum(
        model_input=_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], **padded},
    )


def _supervised(training: Any) -> dict[str, Any]:
    losses = _losses(training, 12)
    forward = training.forward([_datum()], "cross_entropy").result()
    logprobs = forward.loss_fn_outputs[0]["logprobs"]
    return {
        "losses": losses,
        "type": forward.loss_fn_output_type,
        "shape": logprobs.shape,
        "sum": -sum(logprobs.data[len(PROMPT) - 1 :]),
        "forward": forward.metrics["loss:sum"],
    }


def _losses(training: Any, steps: int) -> list[float]:
    """Train; both requests of a step are in flight together, and a step ahead is submitted."""
    futures = []
    for _ in range(steps):
        losses = training.forward_backward([_datum()], "cross_entropy")
        futures.append((losses, training.optim_step(ADAM)))
    done = [(losses.result(), step.result()) for losses, step in futures]
    return [losses.metrics["loss:sum"] for losses, _ in done]


def _greedy(sampler: Any) -> list[int]:
    params = types.SamplingParams(max_tokens=len(ANSWER), temperature=0.0)
    result = sampler.sample(prompt=_ints(PROMPT), num_samples=1, sampling_params=params).result()
    return list(result.sequences[0].tokens)


def _top(sampler: Any) -> list[Any]:
    params = types.SamplingParams(max_tokens=3, temperature=0.0)
    result = sampler.sample(
        prompt=_ints(PROMPT), num_samples=1, sampling_params=params, topk_sample_logprobs=2
    ).result()
    (sequence,) = result.sequences
    rows = zip(sequence.tokens, sequence.logprobs, sequence.topk_logprobs, strict=True)
    return [[token, logprob, row] for token, logprob, row in rows]


def _reinforced(service: Any, base_model: str) -> list[float]:
    """Reward one token among samples; return how likely it becomes, iteration by iteration."""
    training = service.create_lora_training_client(base_model=base_model, rank=8, seed=9)
    likely = []
    for iteration in range(4):
        sampler = training.save_weights_and_get_sampling_client()
        scored = sampler.compute_logprobs(_ints([*PROMPT, ANSWER[0]])).result()
        likely.append(scored[-1])
        params = types.SamplingParams(max_tokens=1, seed=iteration, top_k=40)
        result = sampler.sample(prompt=_ints(PROMPT), num_samples=8, sampling_params=params)
        samples = [(list(s.tokens), list(s.logprobs)) for s in result.result().sequences]
        samples.append(([ANSWER[0]], [scored[-1]]))  # explored once by force
        data = [
            _datum(tokens, logprobs=logprobs, advantages=[5.0 if tokens == ANSWER[:1] else -0.1])
            for tokens, logprobs in samples
        ]
        training.forward_backward(data, "importance_sampling").result()
        training.optim_step(ADAM).result()
    return likely


def _custom(service: Any, base_model: str) -> dict[str, Any]:
    """Train with a loss computed here; it is the cross-entropy, so both must agree."""
    training = service.create_lora_training_client(base_model=base_model, rank=8, seed=7)

    def loss(data: Any, logprobs: Any) -> Any:
        weights = [torch.tensor(datum.loss_fn_inputs["weights"].data) for datum in data]
        pairs = zip(weights, logprobs, strict=True)
        total = -sum((weight * row).sum() for weight, row in pairs)
        return total, {"mine": float(total)}

    losses = []
    for _ in range(3):
        future = training.forward_backward_custom([_datum()], loss)
        step = training.optim_step(ADAM)
        losses.append(future.result().metrics["mine"])
        step.result()
    return {"losses": losses}


def _chunks(service: Any, base_model: str) -> list[float]:
    """Train on one example per request, the first of which the SDK sends last."""
    clients = []
    for length in (1, 1024):
        training = service.create_lora_training_client(base_model=base_model, rank=8, seed=7)
        training.holder._client_config = training.holder._client_config.model_copy(
            update={"fwdbwd_max_chunk_len": length}
        )
        futures = [training.forward_backward([_datum()] * 5, "cross_entropy")]
        futures.append(training.optim_step(ADAM))
        futures.append(training.forward([_datum()], "cross_entropy"))
        clients.append([future.result().metrics for future in futures])
    return [[metrics[0]["loss:sum"], metrics[2]["loss:sum"]] for metrics in clients]


def _refused(training: Any) -> list[str | None]:
    """Return the errors of invalid requests; the client can continue after them."""
    wrong = _datum()
    wrong.loss_fn_inputs["target_tokens"] = types.TensorData(
        data=[10**6] * 6, dtype="int64", shape=[6]
    )
    cases = [([_datum()], "gspo"), ([wrong], "cross_entropy")]
    errors = []
    for data, loss in cases:
        try:
            training.forward_backward(data, loss).result()
        except tinker.TinkerError as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
