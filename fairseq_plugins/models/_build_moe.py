"""From `moe_*` options to built mixture-of-experts feed-forwards; checks them once, in words of the command line."""

import functools
import math
from typing import Any, Callable, Optional

import torch
from fairseq.distributed import utils as distributed_utils
from torch import Tensor, nn
from torch import distributed as dist

from ..compat import Refusal
from ..modules.moe.clusters import VARIANCE_TYPES, survivors_of_cluster
from ..modules.moe.expert_parallel import Exchange
from ..modules.moe.experts import Experts
from ..modules.moe.moe_feed_forward import MoEFeedForward
from ..modules.moe.pruning import LayerPruning
from ..modules.moe.router import CosineRouter, LinearRouter
from ..modules.residual import ResidualScheme


class OptionError(Refusal, ValueError):
    """An option out of range; the message is one sentence that names the flag."""


def moe_at(cfg: Any, side: str, index: int) -> bool:
    """Whether layer `index` (from 0) of this stack has experts in the place of its feed-forward."""
    return _has_experts(cfg, side) and cfg.moe_freq > 0 and (index + 1) % cfg.moe_freq == 0


def moe_inserted_after(cfg: Any, side: str) -> int:
    """The number of layers after which a layer of experts is inserted; 0 for none."""
    return cfg.moe_insert_after if _has_experts(cfg, side) else 0


def moe_feed_forward(
    cfg: Any,
    side: str,
    index: int,
    scheme: ResidualScheme,
    activation: Callable[[Tensor], Tensor],
    *,
    inserted: bool = False,
    pruning: Optional[LayerPruning] = None,
) -> MoEFeedForward:
    """The experts of layer `index` of one stack.

    Raises:
        OptionError: an option out of range, named by its flag.
    """
    dim, hidden, experts = cfg[f"{side}_embed_dim"], cfg[f"{side}_ffn_embed_dim"], cfg.moe_experts
    own_residual = inserted or cfg.moe_expert_sublayers > 1
    router: nn.Module
    if str(cfg.moe_router) == "cosine":
        router = CosineRouter(
            dim,
            experts,
            top_k=cfg.moe_top_k,
            gate=str(cfg.moe_gate),
            routing_dim=cfg.moe_routing_dim,
            temperature=cfg.moe_temperature,
        )
    else:
        router = LinearRouter(dim, experts, top_k=cfg.moe_top_k, gate=str(cfg.moe_gate))
    exchange = expert_exchange(cfg.moe_expert_parallel_size)
    held = Experts(
        dim,
        hidden,
        experts,
        activation=activation,
        scheme=scheme,
        sublayers=cfg.moe_expert_sublayers,
        own_residual=own_residual,
        dropout=cfg.moe_dropout,
        activation_dropout=cfg.activation_dropout,
        local=None if exchange is None else exchange.held(experts),
    )
    if exchange is not None:
        exchange.own(held)
    moe = MoEFeedForward(
        router,
        held,
        experts,
        own_residual=own_residual,
        capacity_factor=cfg.moe_capacity_factor,
        eval_capacity_factor=cfg.moe_eval_capacity_factor,
        overflow=str(cfg.moe_overflow),
        clusters=cfg.moe_clusters,
        cluster_variance_type=cfg.moe_cluster_variance,
        variance_tokens=cfg.moe_variance_tokens,
        cluster_dropout=cfg.moe_cluster_dropout,
        cluster_dropout_interval=cfg.moe_cluster_dropout_interval,
        seed=int(torch.randint(2**31, (), device="cpu")),  # of the training's --seed; equal on all workers
        pruning=pruning,
        exchange=exchange,
        sum_over_workers=sum_over_workers(),
    )
    if cfg.freeze_moe:
        moe.requires_grad_(False)
    return moe


def expert_exchange(ranks: int) -> Optional[Exchange]:
    """What moves rows between `ranks` processes that share the experts; None where each has them all.

    Raises:
        OptionError: the training does not run on that many processes.
    """
    if ranks == 1:
        return None
    group = distributed_utils.get_data_parallel_group()
    processes = 1 if group is None else dist.get_world_size(group)
    if ranks != processes:
        raise OptionError(
            f"--moe-expert-parallel-size {ranks} must be 1 or the number of processes, {processes}; python -m "
            "fairseq_plugins merge-experts makes a checkpoint for 1 of one for more"
        )
    return Exchange(group, _host_group(group))


@functools.lru_cache(maxsize=1)
def _host_group(group: Any) -> Any:
    """A second group for whole numbers that the host needs; None where the first one is on the host."""
    return None if dist.get_backend(group) == "gloo" else dist.new_group(backend="gloo")


def sum_over_workers() -> Optional[Callable[[Tensor], Tensor]]:
    """Adds up, in place, over the processes that train on different data; None on one.

    A function, because a process group cannot be copied and the engine's --store-ema copies the model.
    """
    group = distributed_utils.get_data_parallel_group()
    if group is None or dist.get_world_size(group) == 1:
        return None

    def total(x: Tensor) -> Tensor:
        dist.all_reduce(x, group=group)
        return x

    return total


def check_moe(cfg: Any, sides: "list[str]") -> None:
    """Refuse `moe_*` options out of range.

    Args:
        cfg: options of a model.
        sides: the stacks that the model has.

    Raises:
        OptionError: one sentence that names the flag and its value.
    """
    experts, top_k = cfg.moe_experts, cfg.moe_top_k
    if experts < 0:
        raise OptionError(f"--moe-experts {experts} must not be negative")
    if not experts:
        _refuse_lonely(cfg)
        return
    if cfg.ffn_gate:
        raise OptionError("--ffn-gate and --moe-experts do not go together: experts have no gated feed-forward")
    if str(cfg.norm) != "layer" and (
        str(cfg.residual) == "subln" or cfg.moe_expert_sublayers > 1 or cfg.moe_insert_after
    ):
        raise OptionError(
            f"--norm {cfg.norm} and --moe-experts go together only where experts have no norms of their own, as they "
            "have with --residual subln, --moe-expert-sublayers above 1 and --moe-insert-after"
        )
    if str(cfg.moe_side) not in ("both", *sides):
        raise OptionError(f"--moe-side {cfg.moe_side}: this model has no {cfg.moe_side}")
    if not cfg.moe_freq and not cfg.moe_insert_after:
        raise OptionError(f"--moe-experts {experts} needs --moe-freq or --moe-insert-after to say where they stand")
    for side in sides:
        if str(cfg.moe_side) in ("both", side):
            layers = cfg[f"{side}_layers"]
            for flag, value in (("--moe-freq", cfg.moe_freq), ("--moe-insert-after", cfg.moe_insert_after)):
                if not 0 <= value <= layers:
                    raise OptionError(f"{flag} {value} must be between 0 and --{side}-layers {layers}")
    if top_k not in (1, 2) or top_k > experts:
        raise OptionError(f"--moe-top-k {top_k} must be 1 or 2 and at most --moe-experts {experts}")
    for flag, value in (
        ("--moe-expert-sublayers", cfg.moe_expert_sublayers),
        ("--moe-clusters", cfg.moe_clusters),
        ("--moe-cluster-dropout-interval", cfg.moe_cluster_dropout_interval),
        ("--moe-routing-dim", cfg.moe_routing_dim),
        ("--moe-expert-parallel-size", cfg.moe_expert_parallel_size),
    ):
        _at_least(flag, value, 1)
    for flag, value in (
        ("--moe-capacity-factor", cfg.moe_capacity_factor),
        ("--moe-eval-capacity-factor", cfg.moe_eval_capacity_factor),
        ("--moe-variance-tokens", cfg.moe_variance_tokens),
    ):
        _at_least(flag, value, 0)
        if not value < math.inf:
            raise OptionError(f"{flag} {value} must be a number")
    if cfg.moe_temperature is not None and not cfg.moe_temperature > 0:
        raise OptionError(f"--moe-temperature {cfg.moe_temperature} must be above 0")
    if experts % cfg.moe_clusters:
        raise OptionError(f"--moe-experts {experts} must be a multiple of --moe-clusters {cfg.moe_clusters}")
    if experts % cfg.moe_expert_parallel_size:
        raise OptionError(
            f"--moe-experts {experts} must be a multiple of --moe-expert-parallel-size {cfg.moe_expert_parallel_size}"
        )
    if cfg.moe_cluster_variance not in VARIANCE_TYPES:
        raise OptionError(f"--moe-cluster-variance {cfg.moe_cluster_variance} must be 0, 1 or 2")
    for flag, value in (("--moe-cluster-dropout", cfg.moe_cluster_dropout), ("--moe-dropout", cfg.moe_dropout)):
        if not 0 <= value < 1:
            raise OptionError(f"{flag} {value} must be at least 0 and below 1")
    survivors = cfg.moe_clusters * survivors_of_cluster(experts // cfg.moe_clusters, cfg.moe_cluster_dropout)
    if survivors < top_k:
        raise OptionError(
            f"--moe-cluster-dropout {cfg.moe_cluster_dropout} leaves {survivors} experts, "
            f"fewer than --moe-top-k {top_k}"
        )


def _refuse_lonely(cfg: Any) -> None:
    dense = {"moe_freq": 0, "moe_insert_after": 0, "freeze_moe": False, "moe_expert_parallel_size": 1}
    for name, value in dense.items():
        if cfg[name] != value:
            raise OptionError(f"--{name.replace('_', '-')} needs --moe-experts above 0")


def _at_least(flag: str, value: Optional[float], least: int) -> None:
    if value is not None and value < least:
        raise OptionError(f"{flag} {value} must be at least {least}")


def _has_experts(cfg: Any, side: str) -> bool:
    return cfg.moe_experts > 0 and str(cfg.moe_side) in ("both", side)
