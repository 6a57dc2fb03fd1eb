"""Saving the adapter of a run as a checkpoint, and loading one back."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tinkex_local.problems import OperationError, bad_request
from tinkex_local.state import checkpoints, operations, paths, runs, sampling, sessions
from tinkex_local.state.models import ModelFacts
from tinkex_local.state.paths import TinkerPath
from tinkex_local.state.service import Service
from tinkex_local.wire import bodies

_Action = Callable[[Path], dict[str, Any]]


def save(service: Service, body: bodies.SaveWeights) -> dict[str, Any]:
    """Save a run as a training checkpoint.

    :raises Problem: there is no such run, or the sequence number does not fit.
    """
    path = TinkerPath(body.model_id, paths.TRAINING, body.path or _unnamed())
    return _save_named(service, "save_weights", body, path, overwrite=body.overwrite)


def save_external(service: Service, body: bodies.SaveWeightsExternal) -> dict[str, Any]:
    """Save a run as files to be fetched from signed addresses.

    :raises Problem: encryption is asked for, or as for :func:`save`.
    """
    if body.age_encryption_recipients:
        raise bad_request("This service does not encrypt exports")
    path = TinkerPath(body.model_id, paths.EXTERNAL, body.path)
    return _save_named(service, "save_weights_external", body, path)


def save_for_sampler(service: Service, body: bodies.SaveWeightsForSampler) -> dict[str, Any]:
    """Save a run for sampling: under a name, or straight into a sampling session.

    :raises Problem: neither or both are asked for, or as for :func:`save`.
    """
    if (body.path is None) == (body.sampling_session_seq_id is None):
        raise bad_request("Give either path or sampling_session_seq_id")
    kind = "save_weights_for_sampler"
    if body.path is not None:
        path = TinkerPath(body.model_id, paths.SAMPLER, body.path)
        return _save_named(service, kind, body, path)
    row = runs.usable(service, body.model_id)
    path = TinkerPath(body.model_id, paths.SAMPLER, _unnamed())

    def action(staged: Path) -> dict[str, Any]:
        number = body.sampling_session_seq_id or 0
        sampling.require_free(service, row["session_id"], number)
        identifier, size = checkpoints.adopt(
            service,
            staged,
            path,
            ttl=body.ttl_seconds,
            user_metadata=body.user_metadata,
            listed=False,
        )
        sampler = sampling.insert_sampler(
            service,
            row["session_id"],
            number,
            body.digest(),
            base_model=row["base_model"],
            checkpoint_id=identifier,
        )
        return {"path": None, "sampling_session_id": sampler, "size_bytes": size}

    return _perform(service, kind, body, row, action)


def load(service: Service, body: bodies.LoadWeights) -> dict[str, Any]:
    """Load a training checkpoint into a run, or into a new run of a session.

    :raises Problem: the checkpoint or the run is not there, or they do not fit.
    """
    path = paths.parse(body.path)
    if path.kind != paths.TRAINING:
        raise bad_request(f"{path} is not a training checkpoint: only …/{paths.TRAINING}/… loads")
    if body.model_id is not None and body.session_id is None and body.model_seq_id is None:
        return _load_into(service, body, path)
    if body.model_id is None and body.session_id is not None and body.model_seq_id is not None:
        return _create_from(service, body, path)
    raise bad_request("Give either model_id and seq_id, or session_id and model_seq_id")


def _load_into(service: Service, body: bodies.LoadWeights, path: TinkerPath) -> dict[str, Any]:
    model_id = body.model_id or ""
    row = runs.usable(service, model_id)
    before = operations.earlier(service, runs.scope_of(model_id), body.seq_id, body)
    if before is not None:
        return {"request_id": before, "model_id": model_id}
    source, spec = runs.spec_of(_source(service, body, path)), runs.spec_of(row)
    if (source.base_model, source.rank, source.target_modules) != (
        spec.base_model,
        spec.rank,
        spec.target_modules,
    ):
        raise bad_request(
            f"{path} does not fit: base model, rank and trained modules must be those of "
            f"the model {model_id}"
        )

    replaced: list[str] = []

    def action(staged: Path) -> dict[str, Any]:
        identifier, _ = checkpoints.take(service, staged)
        # Asked here: another load may have come between.
        replaced.extend(filter(None, [runs.find(service, model_id)["weights"]]))
        service.store.write("UPDATE runs SET weights = ? WHERE id = ?", identifier, model_id)
        return {"path": str(path), "model_id": model_id}

    answer = _perform(service, "load_weights", body, row, action, write=copier(service, path))
    checkpoints.discard(service, replaced)
    return answer


def _create_from(service: Service, body: bodies.LoadWeights, path: TinkerPath) -> dict[str, Any]:
    session_id, number = body.session_id or "", body.model_seq_id or 0
    scope, run_id = runs.models_of(session_id), runs.run_id_of(session_id, number)
    before = operations.earlier(service, scope, number, body)
    if before is not None:
        return {"request_id": before, "model_id": run_id}
    sessions.require_open(service, session_id)
    spec = runs.spec_of(_source(service, body, path))

    def action(staged: Path) -> dict[str, Any]:
        sessions.require_open(service, session_id)
        identifier, _ = checkpoints.take(service, staged)
        runs.insert(service, run_id, session_id, spec, body.user_metadata, weights=identifier)
        return {"path": str(path), "model_id": run_id}

    with_files = WithFiles(service, copier(service, path), action)
    try:
        request_id = operations.perform(
            service, "load_weights", scope, number, body, with_files.action
        )
    finally:
        with_files.clean()
    return {"request_id": request_id, "model_id": run_id}


def _source(service: Service, body: bodies.LoadWeights, path: TinkerPath) -> sqlite3.Row:
    checkpoints.find(service, path)
    source = runs.find(service, path.run_id)
    if body.base_model not in (None, source["base_model"]):
        raise bad_request(f"{path} belongs to {source['base_model']}, not to {body.base_model}")
    return source


def copier(service: Service, path: TinkerPath) -> Callable[[Path], None]:
    identifier = checkpoints.find(service, path)["id"]
    return partial(_copy, checkpoints.directory_of(service, identifier))


def _copy(source: Path, target: Path) -> None:
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)


_NamedSave = bodies.SaveWeights | bodies.SaveWeightsForSampler | bodies.SaveWeightsExternal


def _save_named(
    service: Service, kind: str, body: _NamedSave, path: TinkerPath, *, overwrite: bool = False
) -> dict[str, Any]:
    row = runs.usable(service, body.model_id)
    replaced: list[str] = []

    def action(staged: Path) -> dict[str, Any]:
        replaced.extend(checkpoints.make_room(service, path, overwrite=overwrite))
        _, size = checkpoints.adopt(
            service, staged, path, ttl=body.ttl_seconds, user_metadata=body.user_metadata
        )
        return {"path": str(path), "size_bytes": size}

    answer = _perform(service, kind, body, row, action)
    checkpoints.discard(service, replaced)
    return answer


class WithFiles:
    """Files written before a transaction, and what is to be done with them inside it."""

    def __init__(self, service: Service, write: Callable[[Path], None], action: _Action) -> None:
        self._action = action
        self._staged: Path | None = None
        self._failure: OperationError | None = None
        try:
            self._staged = checkpoints.stage(service, write)
        except OperationError as error:
            self._failure = error

    def action(self) -> dict[str, Any]:
        if self._staged is None:
            assert self._failure is not None
            raise self._failure
        return self._action(self._staged)

    def clean(self) -> None:
        """Remove the files if nobody took them."""
        if self._staged is not None:
            shutil.rmtree(self._staged, ignore_errors=True)


def _perform(
    service: Service,
    kind: str,
    body: _NamedSave | bodies.LoadWeights,
    row: sqlite3.Row,
    action: _Action,
    *,
    write: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    scope = runs.scope_of(row["id"])
    before = operations.earlier(service, scope, body.seq_id, body)
    if before is not None:
        return {"request_id": before, "model_id": row["id"]}
    operations.require_order(service, scope, body.seq_id)
    began = service.clock()  # writing the files is the most of it
    with_files = WithFiles(service, write or _writer(service, row), action)

    def adopt() -> dict[str, Any]:
        runs.usable(service, row["id"])  # a reset may have come while the files were written
        return with_files.action()

    try:
        request_id = operations.perform(
            service,
            kind,
            scope,
            body.seq_id,
            body,
            adopt,
            ordered=True,
            began=began,
        )
    finally:
        with_files.clean()
    service.store.write("UPDATE runs SET last_request = ? WHERE id = ?", service.clock(), row["id"])
    return {"request_id": request_id, "model_id": row["id"]}


def _writer(service: Service, row: sqlite3.Row) -> Callable[[Path], None]:
    """Return what writes the present adapter of a run into a directory."""
    if row["weights"] is None:
        facts = service.facts(row["base_model"])
        return lambda target: write(target, runs.spec_of(row), facts)
    return partial(_copy, checkpoints.directory_of(service, row["weights"]))


def _unnamed() -> str:
    return f"unnamed-{uuid.uuid4().hex[:12]}"


CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
#: Fixed, as the hosted service has it: the strength of an adapter does not change with its rank.
ALPHA = 32

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
UNEMBED = ("lm_head",)
#: Architectures whose modules have these names; others fuse or rename them.
ARCHITECTURES = frozenset(
    {"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"}
)


@dataclass(frozen=True)
class AdapterSpec:
    """Everything that determines a fresh adapter.

    :ivar rank: of the two factors.
    :ivar seed: of the random numbers in the first factor.
    """

    base_model: str
    rank: int
    seed: int
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True

    @property
    def target_modules(self) -> list[str]:
        """Names of the adapted modules, sorted."""
        chosen: tuple[str, ...] = ()
        chosen += ATTENTION if self.train_attn else ()
        chosen += MLP if self.train_mlp else ()
        chosen += UNEMBED if self.train_unembed else ()
        return sorted(chosen)


def check(spec: AdapterSpec, facts: ModelFacts) -> None:
    """Check that an adapter of *spec* can be made for the model.

    :raises OperationError: it cannot; the message says why.
    """
    if not spec.target_modules:
        raise OperationError("lora_config trains nothing: attn, mlp and unembed are all false")
    if facts.model_type not in ARCHITECTURES:
        raise OperationError(
            f"adapters for models of type {facts.model_type!r} are not known to this service"
        )
    if spec.train_mlp and facts.intermediate is None:
        raise OperationError(
            f"the MLP width of {spec.base_model} is not known: put the model's config.json "
            "into its directory, or set train_mlp to false"
        )


def shapes(spec: AdapterSpec, facts: ModelFacts) -> Iterator[tuple[str, int, int]]:
    """Yield ``(module, inputs, outputs)`` of every adapted module, in PEFT's spelling."""
    hidden, wide = facts.hidden, facts.intermediate or 0
    queries, keys = facts.heads * facts.head_size, facts.key_value_heads * facts.head_size
    sizes = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }
    chosen = set(spec.target_modules)
    for layer in range(facts.layers):
        for module, (inputs, outputs) in sizes.items():
            if module.partition(".")[2] in chosen:
                yield f"base_model.model.model.layers.{layer}.{module}", inputs, outputs
    if "lm_head" in chosen:
        yield "base_model.model.lm_head", hidden, facts.vocabulary


def write(directory: Path, spec: AdapterSpec, facts: ModelFacts) -> None:
    """Write a fresh adapter into *directory*: A random from the seed, B zero.

    :raises OSError: the files cannot be written.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    random = np.random.default_rng(spec.seed % 2**64)
    tensors = {}
    for module, inputs, outputs in shapes(spec, facts):
        # PEFT's own initialisation: kaiming-uniform with a = sqrt(5).
        bound = 1 / math.sqrt(inputs)
        first = random.uniform(-bound, bound, (spec.rank, inputs))
        tensors[f"{module}.lora_A.weight"] = first.astype(np.float32)
        tensors[f"{module}.lora_B.weight"] = np.zeros((outputs, spec.rank), np.float32)
    try:
        save_file(tensors, directory / TENSORS, metadata={"format": "pt"})
    except SafetensorError as error:  # it wraps what the system said
        raise OSError(str(error)) from error
    config = json.dumps(_config(spec), indent=2, sort_keys=True) + "\n"
    (directory / CONFIG).write_text(config, encoding="utf-8")


def is_identity(directory: Path) -> bool:
    """Tell whether the adapter changes nothing: every second factor is zero.

    :raises OSError: the adapter cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / TENSORS, framework="numpy") as file:
            names = [name for name in file.keys() if ".lora_B." in name]  # noqa: SIM118
            return not any(file.get_tensor(name).any() for name in names)
    except SafetensorError as error:
        raise OSError(f"{directory / TENSORS} is damaged: {error}") from error


def _config(spec: AdapterSpec) -> dict[str, object]:
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": spec.base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": spec.rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": spec.target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
