"""`--criterion sentence_prediction_with_moe`: the stock loss of classifiers and regressions plus the router losses."""

from dataclasses import dataclass
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.criterions.sentence_prediction import SentencePredictionConfig, SentencePredictionCriterion

from ._router_losses import RouterLosses, RouterLossOptions


@dataclass
class SentencePredictionWithMoEConfig(SentencePredictionConfig, RouterLossOptions):
    """Stock options and the weights of the router losses."""


@register_criterion("sentence_prediction_with_moe", dataclass=SentencePredictionWithMoEConfig)
class SentencePredictionWithMoE(RouterLosses, SentencePredictionCriterion):
    """The stock numbers; experts in the model are trained evenly (X-MoE, arXiv 2204.09179, Section 4.1)."""

    def __init__(self, cfg: SentencePredictionWithMoEConfig, task: Any):
        super().__init__(cfg, task)
        self.set_router_weights(cfg.moe_balance_weight, cfg.moe_cluster_weight)
