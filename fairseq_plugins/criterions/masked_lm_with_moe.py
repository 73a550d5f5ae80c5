"""`--criterion masked_lm_with_moe`: the stock masked-LM loss plus the router losses, in a fraction of its memory."""

from dataclasses import dataclass
from typing import Any, Dict, Tuple

from fairseq.criterions import register_criterion
from fairseq.criterions.masked_lm import MaskedLmConfig, MaskedLmLoss
from torch import Tensor

from ..modules.vocabulary_loss import vocabulary_loss
from ._router_losses import RouterLosses, RouterLossOptions
from ._vocabulary import ChunkedLoss, hidden_states, projection, tokens_that_count


@dataclass
class MaskedLMWithMoEConfig(MaskedLmConfig, RouterLossOptions):
    """Stock options and the weights of the router losses."""


class _Chunked(ChunkedLoss, MaskedLmLoss):
    """The stock criterion, from hidden states instead of logits."""

    def forward_chunked(self, model: Any, sample: Dict[str, Any]) -> Tuple[Tensor, Any, Dict[str, Any]]:
        """Loss in nats, number of masked tokens, logging output."""
        target_BT = model.get_targets(sample, None)
        x_ND, target_N = tokens_that_count(hidden_states(model, sample["net_input"]), target_BT, self.padding_idx)
        x_ND, weight_VD, bias_V = projection(model, x_ND)
        loss = vocabulary_loss(x_ND, weight_VD, target_N, bias_V=bias_V).loss
        log = {
            "loss": loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": target_BT.ne(self.padding_idx).int().sum(),
        }
        return loss, log["sample_size"], log


@register_criterion("masked_lm_with_moe", dataclass=MaskedLMWithMoEConfig)
class MaskedLMWithMoE(RouterLosses, _Chunked):
    """Masked-LM loss with the same numbers as fairseq's, for models with or without mixture-of-experts layers."""

    def __init__(self, cfg: MaskedLMWithMoEConfig, task: Any):
        super().__init__(cfg, task)
        self.set_router_weights(cfg.moe_balance_weight, cfg.moe_cluster_weight)
