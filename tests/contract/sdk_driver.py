"""Drives a Tinker server with the official SDK; run by its interpreter, prints one JSON object.

Only the SDK and the standard library may be imported here: tinkex is not installed beside it.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")  # the SDK deprecates its older spellings, which work everywhere

import tinker  # noqa: E402
from tinker import types  # noqa: E402

PROMPT = types.ModelInput.from_ints([500, 600, 700])


def main(base_model: str) -> dict[str, Any]:
    service = tinker.ServiceClient()
    rest = service.create_rest_client()
    training = service.create_lora_training_client(base_model=base_model, rank=8, seed=7)
    sampler_path = training.save_weights_for_sampler(name="final").result().path
    state_path = training.save_state(name="state").result().path
    found: dict[str, Any] = {
        "models": [m.model_name for m in service.get_server_capabilities().supported_models],
        "info": _info(training.get_info()),
        "run": training.get_info().model_id,
        "sampler_path": sampler_path,
        "state_path": state_path,
        "clash": _failure(lambda: training.save_state(name="state").result()),
        "training": [
            _failure(lambda: training.optim_step(types.AdamParams()).result()),
            _failure(lambda: training.forward_backward([_datum()], "cross_entropy").result()),
            _failure(lambda: training.forward([_datum()], "cross_entropy").result()),
        ],
    }
    clients = {
        "base_samples": service.create_sampling_client(base_model=base_model),
        "tuned_samples": service.create_sampling_client(model_path=sampler_path),
        "unnamed_samples": training.save_weights_and_get_sampling_client(),
    }
    for name, client in clients.items():
        drawn = _sample(client, 2, max_tokens=6, seed=3, stop=["never"])
        found[name] = [
            {name: getattr(s, name) for name in ("tokens", "logprobs", "stop_reason")}
            for s in drawn.result().sequences
        ]
    found |= _score_and_stop(clients["base_samples"]) | _look_and_change(rest, found)
    found["loaded"] = _info(service.create_training_client_from_state(state_path).get_info())
    rest.delete_checkpoint_from_tinker_path(sampler_path).result()
    found["after_delete"] = _paths(rest.list_user_checkpoints())
    return found


def _sample(client: Any, count: int = 1, prompt: Any = PROMPT, **params: Any) -> Any:
    scores = {name: params.pop(name) for name in list(params) if "prompt_logprobs" in name}
    wanted = types.SamplingParams(**params)
    return client.sample(prompt=prompt, num_samples=count, sampling_params=wanted, **scores)


def _score_and_stop(base: Any) -> dict[str, Any]:
    greedy = {"seed": 3, "temperature": 0.0}
    scores = {"include_prompt_logprobs": True, "topk_prompt_logprobs": 2}
    scored = _sample(base, max_tokens=1, **greedy, **scores).result()
    whole = list(_sample(base, max_tokens=12, **greedy).result().sequences[0].tokens)
    stopped = _sample(base, max_tokens=12, stop=[whole[5]], **greedy).result().sequences[0]
    waiting = [_sample(base, max_tokens=4) for _ in range(100)]
    long = types.ModelInput.from_ints([500] * 2000)
    return {
        "prompt_logprobs": base.compute_logprobs(PROMPT).result(),
        "scored": list(scored.prompt_logprobs),
        "topk": list(scored.topk_prompt_logprobs),
        "greedy": whole,
        "stopped": [list(stopped.tokens), stopped.stop_reason],
        "at_once": sum(len(future.result().sequences) for future in waiting),
        "too_long": _failure(lambda: _sample(base, prompt=long, max_tokens=4).result()),
    }


def _datum() -> Any:
    inputs = {"target_tokens": ([600, 700, 1], "int64"), "weights": ([1.0] * 3, "float32")}
    return types.Datum(
        model_input=PROMPT,
        loss_fn_inputs={
            name: types.TensorData(data=data, dtype=dtype, shape=[len(data)])
            for name, (data, dtype) in inputs.items()
        },
    )


def _look_and_change(rest: Any, found: dict[str, Any]) -> dict[str, Any]:
    run, path = found["run"], found["sampler_path"]

    def after(change: Any, name: str, *values: Any) -> Any:
        change(path, *values).result()
        listed = rest.list_user_checkpoints().result().checkpoints
        return getattr(next(item for item in listed if item.tinker_path == path), name)

    info = rest.get_weights_info_by_tinker_path(path).result()
    set_ttl = rest.set_checkpoint_ttl_from_tinker_path
    return {
        "runs": [r.training_run_id for r in rest.list_training_runs().result().training_runs],
        "listed": _paths(rest.list_user_checkpoints()),
        "listed_of_run": _paths(rest.list_checkpoints(run)),
        "run_rank": rest.get_training_run(run).result().lora_rank,
        "weights_info": json.loads(info.model_dump_json()),
        "public": [
            after(rest.publish_checkpoint_from_tinker_path, "public"),
            after(rest.unpublish_checkpoint_from_tinker_path, "public"),
        ],
        "expires": [after(set_ttl, "expires_at", ttl) is not None for ttl in (7200, None)],
    }


def _paths(future: Any) -> list[str]:
    return sorted(item.tinker_path for item in future.result().checkpoints)


def _info(info: Any) -> list[Any]:
    return [info.model_data.model_name, info.is_lora, info.lora_rank]


def _failure(action: Any) -> str | None:
    try:
        action()
    except tinker.TinkerError as error:
        return f"{type(error).__name__}: {error}"
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1]), default=_plain))
