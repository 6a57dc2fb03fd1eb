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

PROMPT = [500, 600, 700]


def main(base_model: str) -> dict[str, Any]:
    service = tinker.ServiceClient()
    rest = service.create_rest_client()
    found: dict[str, Any] = {
        "models": [m.model_name for m in service.get_server_capabilities().supported_models]
    }
    training = service.create_lora_training_client(base_model=base_model, rank=8, seed=7)
    found["info"] = _info(training.get_info())
    found["run"] = training.get_info().model_id
    found["sampler_path"] = training.save_weights_for_sampler(name="final").result().path
    found["state_path"] = training.save_state(name="state").result().path
    found["clash"] = _failure(lambda: training.save_state(name="state").result())
    found["training"] = [
        _failure(lambda: training.optim_step(types.AdamParams()).result()),
        _failure(lambda: training.forward_backward([_datum()], "cross_entropy").result()),
        _failure(lambda: training.forward([_datum()], "cross_entropy").result()),
    ]
    _sample(service, training, base_model, found)
    _look_and_change(rest, found)
    again = service.create_training_client_from_state(found["state_path"])
    found["loaded"] = _info(again.get_info())
    rest.delete_checkpoint_from_tinker_path(found["sampler_path"]).result()
    found["after_delete"] = _paths(rest.list_user_checkpoints().result())
    return found


def _sample(service: Any, training: Any, base_model: str, found: dict[str, Any]) -> None:
    prompt = types.ModelInput.from_ints(PROMPT)
    params = types.SamplingParams(max_tokens=6, seed=3, stop=["never"])
    base = service.create_sampling_client(base_model=base_model)
    tuned = service.create_sampling_client(model_path=found["sampler_path"])
    found["base_samples"], found["tuned_samples"] = (
        [
            {"tokens": s.tokens, "logprobs": s.logprobs, "stop_reason": s.stop_reason}
            for s in client.sample(prompt=prompt, num_samples=2, sampling_params=params)
            .result()
            .sequences
        ]
        for client in (base, tuned)
    )
    found["prompt_logprobs"] = base.compute_logprobs(prompt).result()
    _score_and_stop(base, prompt, found)
    unnamed = training.save_weights_and_get_sampling_client()
    found["unnamed_samples"] = [
        s.tokens
        for s in unnamed.sample(prompt=prompt, num_samples=1, sampling_params=params)
        .result()
        .sequences
    ]


def _score_and_stop(base: Any, prompt: Any, found: dict[str, Any]) -> None:
    def sample(**options: Any) -> Any:
        more = {name: options.pop(name) for name in list(options) if "prompt_logprobs" in name}
        params = types.SamplingParams(seed=3, temperature=0.0, **options)
        request = {"prompt": prompt, "num_samples": 1, "sampling_params": params}
        return base.sample(**request, **more).result()

    scored = sample(max_tokens=1, include_prompt_logprobs=True, topk_prompt_logprobs=2)
    found["scored"] = list(scored.prompt_logprobs)
    found["topk"] = list(scored.topk_prompt_logprobs)
    whole = list(sample(max_tokens=12).sequences[0].tokens)
    found["greedy"] = whole
    stopped = sample(max_tokens=12, stop=[whole[5]]).sequences[0]
    found["stopped"] = [list(stopped.tokens), stopped.stop_reason]
    params = types.SamplingParams(max_tokens=4)
    waiting = [
        base.sample(prompt=prompt, num_samples=1, sampling_params=params) for _ in range(100)
    ]
    found["at_once"] = sum(len(future.result().sequences) for future in waiting)
    found["too_long"] = _failure(
        lambda: base.sample(
            prompt=types.ModelInput.from_ints([500] * 2000),
            num_samples=1,
            sampling_params=params,
        ).result()
    )


def _datum() -> Any:
    def of(data: list[Any], dtype: Any) -> Any:
        return types.TensorData(data=data, dtype=dtype, shape=[len(data)])

    return types.Datum(
        model_input=types.ModelInput.from_ints(PROMPT),
        loss_fn_inputs={
            "target_tokens": of([*PROMPT[1:], 1], "int64"),
            "weights": of([1.0] * len(PROMPT), "float32"),
        },
    )


def _look_and_change(rest: Any, found: dict[str, Any]) -> None:
    path = found["sampler_path"]
    found["runs"] = [
        run.training_run_id for run in rest.list_training_runs().result().training_runs
    ]
    found["listed"] = _paths(rest.list_user_checkpoints().result())
    found["listed_of_run"] = _paths(rest.list_checkpoints(found["run"]).result())
    found["run_rank"] = rest.get_training_run(found["run"]).result().lora_rank
    found["weights_info"] = json.loads(
        rest.get_weights_info_by_tinker_path(path).result().model_dump_json()
    )
    found["public"] = [
        _after(rest, path, rest.publish_checkpoint_from_tinker_path, "public"),
        _after(rest, path, rest.unpublish_checkpoint_from_tinker_path, "public"),
    ]
    rest.set_checkpoint_ttl_from_tinker_path(path, 7200).result()
    found["expires"] = _field(rest, path, "expires_at") is not None
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result()
    found["expires_removed"] = _field(rest, path, "expires_at") is None


def _after(rest: Any, path: str, change: Any, name: str) -> Any:
    change(path).result()
    return _field(rest, path, name)


def _field(rest: Any, path: str, name: str) -> Any:
    listed = rest.list_user_checkpoints().result().checkpoints
    return getattr(next(item for item in listed if item.tinker_path == path), name)


def _paths(response: Any) -> list[str]:
    return sorted(item.tinker_path for item in response.checkpoints)


def _info(info: Any) -> dict[str, Any]:
    return {
        "model_name": info.model_data.model_name,
        "is_lora": info.is_lora,
        "lora_rank": info.lora_rank,
    }


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
