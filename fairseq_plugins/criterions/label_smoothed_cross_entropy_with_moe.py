"""`--criterion label_smoothed_cross_entropy_with_moe`: the stock translation loss plus the router losses."""

from dataclasses import dataclass
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)

from ._router_losses import RouterLosses, RouterLossOptions


@dataclass
class LabelSmoothedCrossEntropyWithMoEConfig(LabelSmoothedCrossEntropyCriterionConfig, RouterLossOptions):
    """Stock options and the weights of the router losses."""


@register_criterion("label_smoothed_cross_entropy_with_moe", dataclass=LabelSmoothedCrossEntropyWithMoEConfig)
class LabelSmoothedCrossEntropyWithMoE(RouterLosses, LabelSmoothedCrossEntropyCriterion):
    """Stock label-smoothed cross-entropy for models with or without mixture-of-experts layers."""

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
        moe_balance_weight: float = 0.01,
        moe_cluster_weight: float = 0.01,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.set_router_weights(moe_balance_weight, moe_cluster_weight)
