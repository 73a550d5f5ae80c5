"""Options of mixture-of-experts layers: one mixin, one flag per axis."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..modules.moe.moe_feed_forward import OVERFLOWS
from ..modules.moe.router import GATES

SIDES = ("both", "encoder", "decoder")
ROUTERS = ("linear", "cosine")


@dataclass
class MoEOptions(FairseqDataclass):
    """Where experts stand, how tokens find them, and what keeps them apart. Loss weights belong to the criterion."""

    moe_experts: int = field(default=0, metadata={"help": "experts per mixture-of-experts layer; 0 = dense model"})
    moe_freq: int = field(
        default=0, metadata={"help": "every n-th layer has experts in the place of its feed-forward; 0 = none has"}
    )
    moe_insert_after: int = field(
        default=0, metadata={"help": "insert one layer of experts after this many layers, as X-MoE does; 0 = none"}
    )
    moe_side: ChoiceEnum(SIDES) = field(  # type: ignore[valid-type]
        default="both", metadata={"help": "stacks that have experts"}
    )
    moe_expert_sublayers: int = field(
        default=1,
        metadata={"help": "feed-forward sublayers per expert; several, or an inserted layer, have their own residual"},
    )
    moe_top_k: int = field(default=1, metadata={"help": "experts per token, 1 or 2"})
    moe_capacity_factor: float = field(
        default=2.0,
        metadata={"help": "in training: slots per expert over mean choices per expert; 0 = no limit (dropless)"},
    )
    moe_eval_capacity_factor: float = field(
        default=0.0, metadata={"help": "the same in validation and generation; 0 = no limit (dropless)"}
    )
    moe_overflow: ChoiceEnum(OVERFLOWS) = field(  # type: ignore[valid-type]
        default="zero", metadata={"help": "output of the experts for a token without a free slot: zero or its input"}
    )
    moe_router: ChoiceEnum(ROUTERS) = field(  # type: ignore[valid-type]
        default="cosine", metadata={"help": "linear (Switch, GShard) or cosine on a hypersphere (X-MoE)"}
    )
    moe_gate: ChoiceEnum(GATES) = field(  # type: ignore[valid-type]
        default="softmax",
        metadata={"help": "weight of an expert's output: softmax over experts or sigmoid of its score"},
    )
    moe_routing_dim: Optional[int] = field(
        default=None, metadata={"help": "dimension of the cosine router (default: half the number of experts)"}
    )
    moe_temperature: Optional[float] = field(
        default=None,
        metadata={"help": "start of the cosine router's temperature (default: 0.3 for softmax, 0.07 for sigmoid)"},
    )
    moe_clusters: int = field(default=1, metadata={"help": "contiguous clusters of experts (MoEC); 1 = none"})
    moe_cluster_variance: int = field(
        default=1,
        metadata={"help": "variance of routing: 0 over all experts, 1 inside clusters, 2 inside / exp(gap between)"},
    )
    moe_variance_tokens: float = field(
        default=4096,
        metadata={"help": "T of E * T * Var(mean probability), the variance term; 0 = tokens of a worker's batch"}
    )
    moe_cluster_dropout: float = field(
        default=0.0, metadata={"help": "share of every cluster's experts that is left out for a while, in training"}
    )
    moe_cluster_dropout_interval: int = field(
        default=16, metadata={"help": "updates after which other experts are left out"}
    )
    moe_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability on sublayers inside experts that have their own residual"}
    )
    freeze_moe: bool = field(
        default=False,
        metadata={"help": "routers and experts do not learn (X-MoE's fine-tuning); the balance loss acts on"},
    )
    moe_expert_parallel_size: int = field(
        default=1, metadata={"help": "workers over which the experts are spread: 1 or the world size"}
    )
