"""The loss functions of the protocol, computed from the log-probabilities of the targets.

Each is a sum over tokens and examples, never a mean, so that the result does not depend on how a
client splits its data into requests. Definitions: the documentation of the Tinker API, "Losses".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

Inputs = Mapping[str, Tensor]
Config = Mapping[str, float]


def _cross_entropy(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    return -logprobs * inputs["weights"]


def _importance_sampling(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    return -_ratio(logprobs, inputs) * inputs["advantages"]


def _ppo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    ratio = _ratio(logprobs, inputs)
    clipped = _clip(ratio, config) * inputs["advantages"]
    return -(ratio * inputs["advantages"]).minimum(clipped)


def _cispo(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    weight = _clip(_ratio(logprobs.detach(), inputs), config)
    return -weight * logprobs * inputs["advantages"]


def _dro(logprobs: Tensor, inputs: Inputs, config: Config) -> Tensor:
    distance = (logprobs - inputs["logprobs"]).square()
    return 0.5 * config["beta"] * distance - logprobs * inputs["advantages"]


def _ratio(logprobs: Tensor, inputs: Inputs) -> Tensor:
    # Prompt tokens have no advantage and may have any log-probability; 0 times inf would be NaN.
    ignored = inputs["advantages"] == 0
    return (logprobs - inputs["logprobs"]).masked_fill(ignored, 0.0).exp()


def _clip(ratio: Tensor, config: Config) -> Tensor:
    return ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])


#: Loss function by name. Each returns the loss of every token from the log-probabilities of the
#: targets, the inputs of the same shape, and the settings.
LOSSES: Mapping[str, Callable[[Tensor, Inputs, Config], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "importance_sampling": _importance_sampling,
    "ppo": _ppo,
    "cispo": _cispo,
    "dro": _dro,
}
