"""Checkpoints of expert-parallel training: one per rank with that rank's experts <-> one with all experts.

Everything but the experts is the same in all of them. Stacked expert parameters, their moving averages and what the
optimiser keeps for them are joined, or divided, along dimension 0. What else a checkpoint says about the number of
ranks is brought in line: the options, and the place in the training data, which counts batches of one rank.
"""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

Checkpoint = Dict[str, Any]  # fairseq's: model, cfg, extra_state, optimizer_history, last_optimizer_state, ...
RECORD = "expert_shard"  # in extra_state: what `Shard` holds
SIZE = "moe_expert_parallel_size"  # the model's option
EXPERTS = ".experts.sublayers."  # part of the name of every stacked parameter


class Shard(NamedTuple):
    """What a checkpoint of a mixture-of-experts model says about itself."""

    rank: int  # it holds the experts [rank E / ranks, (rank + 1) E / ranks)
    ranks: int
    workers: int  # that shared the batches: the world size
    optimizer_parameters: List[str]  # names in the optimiser's order; empty where its state is not one per parameter


def read_record(checkpoint: Checkpoint) -> Shard:
    """Which experts a checkpoint holds.

    Raises:
        ValueError: it does not say: no mixture of experts, or written without this package.
    """
    record = (checkpoint.get("extra_state") or {}).get(RECORD)
    if record is None:
        raise ValueError("is no checkpoint of a mixture-of-experts model trained with this package")
    return Shard(**record)


def merge_checkpoints(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """One checkpoint with all experts from those of all ranks, in any order.

    Args:
        checkpoints: of one update, each rank's once. They are not changed.

    Raises:
        ValueError: ranks are missing or doubled, the checkpoints do not belong together, or the optimiser keeps
            something that cannot be joined.
    """
    ordered = sorted(checkpoints, key=lambda checkpoint: read_record(checkpoint).rank)
    shards = [read_record(checkpoint) for checkpoint in ordered]
    given, ranks = [shard.rank for shard in shards], shards[0].ranks
    if given != list(range(ranks)):
        raise ValueError(f"the experts are spread over ranks 0 to {ranks - 1}; given were those of ranks {given}")
    updates = [checkpoint["optimizer_history"][-1]["num_updates"] for checkpoint in ordered]
    if len(set(updates)) > 1:
        raise ValueError(f"they are of different updates: {', '.join(map(str, updates))}")
    _check_shared([checkpoint["model"] for checkpoint in ordered])

    def join(name: str, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)) if EXPERTS in name else tensors[0]

    return _rebuild(ordered, shards[0], Shard(0, 1, 1, shards[0].optimizer_parameters), join)


def split_checkpoint(checkpoint: Checkpoint, rank: int, ranks: int) -> Checkpoint:
    """The checkpoint of one rank out of `ranks`, from one with all experts, which is not changed.

    Raises:
        ValueError: the checkpoint holds only a part of the experts, they cannot be spread evenly, or the optimiser
            keeps something that cannot be divided.
    """
    shard = read_record(checkpoint)
    if shard.ranks != 1:
        raise ValueError(f"holds the experts of rank {shard.rank} out of {shard.ranks} only")
    for name, tensor in checkpoint["model"].items():
        if EXPERTS in name and len(tensor) % ranks:
            raise ValueError(f"{len(tensor)} experts ({name}) cannot be spread evenly over {ranks} ranks")

    def part(name: str, tensors: Sequence[Tensor]) -> Tensor:
        # a clone, because saving a slice would write all of what it is a slice of
        return tensors[0].chunk(ranks)[rank].clone() if EXPERTS in name else tensors[0]

    return _rebuild([checkpoint], shard, Shard(rank, ranks, ranks, shard.optimizer_parameters), part)


Combine = Callable[[str, Sequence[Tensor]], Tensor]  # (parameter name, its tensor in every checkpoint) -> new tensor


def _rebuild(checkpoints: Sequence[Checkpoint], old: Shard, new: Shard, combine: Combine) -> Checkpoint:
    """A checkpoint whose tensors are combined from those of `checkpoints`, whose other entries are the first one's."""
    first = checkpoints[0]
    extra = {**first["extra_state"], RECORD: new._asdict()}
    for key in ("ema", "ema_fp32_params"):  # the moving averages of --store-ema
        if key in extra:
            extra[key] = _combined([checkpoint["extra_state"][key] for checkpoint in checkpoints], combine)
    place = extra.get("train_iterator")
    if place and "iterations_in_epoch" in place:
        batches = place["iterations_in_epoch"] * old.workers  # of all ranks; a few may come again, none is left out
        extra["train_iterator"] = {**place, "iterations_in_epoch": batches // new.workers}
    result = {**first, "extra_state": extra, "cfg": _with_ranks(first["cfg"], new)}
    result["model"] = _combined([checkpoint["model"] for checkpoint in checkpoints], combine)
    if first.get("last_optimizer_state") is not None:
        states = [checkpoint["last_optimizer_state"] for checkpoint in checkpoints]
        result["last_optimizer_state"] = _optimizer(checkpoints, states, old, combine)
    return result


def _combined(state_dicts: Sequence[Mapping[str, Tensor]], combine: Combine) -> Dict[str, Tensor]:
    return {name: combine(name, [state_dict[name] for state_dict in state_dicts]) for name in state_dicts[0]}


def _optimizer(
    checkpoints: Sequence[Checkpoint], states: Sequence[Dict[str, Any]], shard: Shard, combine: Combine
) -> Dict[str, Any]:
    """torch's state dict of an optimiser: number of a parameter -> name of a quantity -> tensor or number."""
    names = shard.optimizer_parameters
    if not names or "state" not in states[0]:
        raise ValueError(
            "their optimiser state cannot be told apart by parameter (as with --fp16 without --fp16-no-flatten-grads)"
        )
    result = {}
    for number, quantities in states[0]["state"].items():
        name = names[number]
        if EXPERTS in name:
            shape = checkpoints[0]["model"][name].shape
            every = [state["state"][number] for state in states]
            quantities = {key: _quantity(name, key, [one[key] for one in every], shape, combine) for key in quantities}
        result[number] = quantities
    return {**states[0], "state": result}


def _quantity(name: str, key: str, values: List[Any], shape: torch.Size, combine: Combine) -> Any:
    """One quantity of one stacked parameter: of the parameter's shape, or one number for all experts."""
    first = values[0]
    if isinstance(first, Tensor) and first.shape == shape:
        return combine(name, values)
    if not (isinstance(first, Tensor) and first.dim()) and all(value == first for value in values):
        return first
    raise ValueError(f"the optimiser keeps a '{key}' for {name} that belongs to no single expert")


def _with_ranks(cfg: Any, shard: Shard) -> Any:
    """The configuration, a plain dict of sections, as a run on `shard.ranks` ranks would have it."""
    changed: Tuple[Tuple[str, str, int], ...] = (
        ("model", SIZE, shard.ranks),
        ("distributed_training", "distributed_world_size", shard.workers),
    )
    cfg = dict(cfg)
    for section, key, value in changed:
        if isinstance(cfg[section], dict):
            cfg[section] = {**cfg[section], key: value}
        else:  # an argparse.Namespace
            cfg[section] = type(cfg[section])(**{**vars(cfg[section]), key: value})
    return cfg


def _check_shared(models: Sequence[Mapping[str, Tensor]]) -> None:
    """Refuse checkpoints whose shared parameters are plainly those of different trainings."""
    for rank, model in enumerate(models[1:], 1):
        if model.keys() != models[0].keys():
            raise ValueError(f"ranks 0 and {rank} hold parameters of different names")
        for name, tensor in model.items():
            other = models[0][name]
            if tensor.shape != other.shape:
                raise ValueError(f"{name} is {tuple(other.shape)} on rank 0 and {tuple(tensor.shape)} on rank {rank}")
            # Loose: unequal devices may drift apart in the last digits, and the work must not be lost for that.
            if EXPERTS not in name and not torch.allclose(tensor.float(), other.float(), rtol=0.01, atol=0.001):
                raise ValueError(f"{name} differs between ranks 0 and {rank}: they are of different trainings")
