"""Training runs: their weights, gradients and optimizer state, in memory or in temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tinkex_local.engines import AdamParams
from tinkex_local.problems import OperationError
from tinkex_torch.adapter import DAMAGE, Adapter, save

#: Maximum bytes of runs in memory; further ones, the least recently used first, are moved to
#: temporary files.
MEMORY = 1 << 30
OPTIMIZER = "optimizer.safetensors"
#: Added to the norm of the gradients before the division, as in torch.nn.utils.clip_grad_norm_.
_CLIP_EPS = 1e-6
#: Prefixes of the names in ``optimizer.safetensors``; the names of torch.optim.AdamW.
_MOMENTS = ("exp_avg.", "exp_avg_sq.")


class TrainingState:
    """The adapter of a run, its gradient, and the state of AdamW.

    :ivar steps: number of optimizer steps.
    :ivar gradient: accumulated since the last step; ``None`` without any.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.first = torch.zeros_like(adapter.vector)
        self.second = torch.zeros_like(adapter.vector)
        self.steps = 0
        self.gradient: Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return 4 * int(self.adapter.vector.nbytes)

    def accumulate(self, gradient: Tensor) -> None:
        """Add *gradient* to the accumulated gradient."""
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def step(self, params: AdamParams) -> dict[str, float]:
        """Apply the gradient with AdamW, as :class:`torch.optim.AdamW` does, and discard it.

        :returns: the metrics of the step.
        :raises OperationError: the gradient is not finite.
        """
        gradient, self.gradient = self.gradient, None
        if gradient is None:
            return {"unclipped_grad_l2:mean": 0.0}
        norm = gradient.norm()
        if not norm.isfinite():
            raise OperationError(
                "the gradients are not finite (NaN or infinity); the step was not applied"
            )
        if params.grad_clip_norm > 0:
            gradient = gradient * (params.grad_clip_norm / (norm + _CLIP_EPS)).clamp(max=1.0)
        beta1, beta2, rate, steps = params.beta1, params.beta2, params.learning_rate, self.steps + 1
        # New vectors, so that nothing has changed if memory is exhausted.
        first = self.first.lerp(gradient, 1 - beta1)
        second = (self.second * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (second.sqrt() / (1 - beta2**steps) ** 0.5).add_(params.eps)
        weights = self.adapter.vector * (1 - rate * params.weight_decay)
        weights.addcdiv_(first, denominator, value=-rate / (1 - beta1**steps))
        self.adapter.vector, self.first, self.second, self.steps = weights, first, second, steps
        return {"unclipped_grad_l2:mean": float(norm)}

    def save(self, directory: Path, *, optimizer: bool) -> None:
        """Write the adapter, and the state of the optimizer if *optimizer*.

        :raises OSError: a file cannot be written.
        """
        self.adapter.write(directory)
        if not optimizer:
            return
        tensors = {
            prefix + name: tensor
            for prefix, vector in zip(_MOMENTS, (self.first, self.second), strict=True)
            for name, tensor in self.adapter.split(vector).items()
        }
        save(directory / OPTIMIZER, tensors | {"step": torch.tensor(self.steps)}, {"format": "pt"})

    def load_optimizer(self, directory: Path) -> None:
        """Read the state that :meth:`save` wrote.

        :raises OperationError: the file is missing, damaged, or of another adapter.
        """
        path, vector = directory / OPTIMIZER, self.adapter.vector
        if not path.exists():
            message = "the checkpoint has no optimizer state; load it without the optimizer"
            raise OperationError(message)
        try:
            tensors = load_file(path, device=str(vector.device))
            first, second = (self.adapter.joined(tensors, prefix) for prefix in _MOMENTS)
            self.steps = int(tensors["step"])
        except DAMAGE as error:
            raise OperationError(f"the optimizer state in {path} is damaged: {error}") from error
        self.first, self.second = first, second

    def write(self, file: IO[bytes]) -> None:
        """Move the vectors to *file*.

        :raises OSError: the file cannot be written; they are still in memory.
        """
        for vector in (self.adapter.vector, self.first, self.second, self.gradient):
            if vector is not None:
                vector.cpu().numpy().tofile(file)
        file.flush()
        self.adapter.vector = self.first = self.second = self.adapter.vector[:0].clone()
        self.gradient = None if self.gradient is None else self.first

    def read(self, file: IO[bytes]) -> None:
        """Move the vectors back to memory.

        :raises OSError: the file cannot be read.
        """
        count = sum(shape.numel() for shape in self.adapter.shapes.values())
        rows = 3 if self.gradient is None else 4
        file.seek(0)
        values = np.fromfile(file, dtype=np.float32, count=rows * count)
        if len(values) != rows * count:
            raise OSError("the file is truncated")
        vectors = torch.from_numpy(values.reshape(rows, count)).to(self.adapter.vector.device)
        self.adapter.vector, self.first, self.second = vectors[:3]
        self.gradient = None if self.gradient is None else vectors[3]


class Runs:
    """The training states of a process by run id.

    :param memory: maximum bytes in memory.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._states: dict[str, TrainingState] = {}  # in memory, in the order of use
        self._moved: dict[str, tuple[TrainingState, IO[bytes]]] = {}

    def __getitem__(self, run_id: str) -> TrainingState:
        """Return the state of a run, after it was moved to memory if necessary.

        :raises OperationError: the run is not loaded, or its temporary file cannot be read.
        """
        if run_id in self._moved:
            state, file = self._moved[run_id]
            try:
                state.read(file)
            except OSError as error:
                raise OperationError(f"cannot read a temporary file: {error}", "server") from error
            file.close()
            del self._moved[run_id]
        else:
            if run_id not in self._states:
                raise OperationError(f"the run {run_id} is not loaded", "server")
            state = self._states.pop(run_id)
        self._states[run_id] = state
        self._make_room()
        return state

    def __setitem__(self, run_id: str, state: TrainingState) -> None:
        self.drop(run_id)
        self._states[run_id] = state
        self._make_room()

    def drop(self, run_id: str) -> None:
        """Forget a run; an unknown one is ignored."""
        self._states.pop(run_id, None)
        if run_id in self._moved:
            self._moved.pop(run_id)[1].close()

    def _make_room(self) -> None:
        while len(self._states) > 1 and sum(s.size for s in self._states.values()) > self._memory:
            run_id = next(iter(self._states))
            # The file has no name, so that nothing remains after a killed process.
            file = tempfile.TemporaryFile()  # noqa: SIM115 - open until it is read
            try:
                self._states[run_id].write(file)
            except OSError:  # such as a full disk: more memory is better than a lost run
                file.close()
                return
            self._moved[run_id] = self._states.pop(run_id), file
