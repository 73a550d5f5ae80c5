"""`--criterion masked_lm_with_moe`: the stock masked-LM loss plus the router losses."""

from dataclasses import dataclass
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.criterions.masked_lm import MaskedLmConfig, MaskedLmLoss

from ._router_losses import RouterLosses, RouterLossOptions


@dataclass
class MaskedLMWithMoEConfig(MaskedLmConfig, RouterLossOptions):
    """Stock options and the weights of the router losses."""


@register_criterion("masked_lm_with_moe", dataclass=MaskedLMWithMoEConfig)
class MaskedLMWithMoE(RouterLosses, MaskedLmLoss):
    """Stock masked-LM loss for models with or without mixture-of-experts layers."""

    def __init__(self, cfg: MaskedLMWithMoEConfig, task: Any):
        super().__init__(cfg, task)
        self.set_router_weights(cfg.moe_balance_weight, cfg.moe_cluster_weight)
