"""`--criterion pseudo_masked_lm`: autoencoding and partially autoregressive loss of one pass (UniLMv2, Section 3.3)."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from ..compat import Refusal
from ..modules.vocabulary_loss import vocabulary_loss
from ._objective_weights import parse_weights
from ._router_losses import RouterLosses, RouterLossOptions
from ._vocabulary import hidden_states, projection, tokens_that_count, why_not

# B batch, T text length, Q tokens beside the text, L = T + Q, N masked tokens


@dataclass
class PseudoMaskedLMConfig(RouterLossOptions, FairseqDataclass):
    """Options of the criterion."""

    objective_weights: str = field(
        default="", metadata={"help": "weight of a loss, as ae:1,par:0.5 (1 where not said)"}
    )


class _SumOfLosses(FairseqCriterion):
    """Losses of text and pseudo-masks, per masked token."""

    def __init__(self, cfg: PseudoMaskedLMConfig, task: Any):
        super().__init__(task)
        names = getattr(task, "objective_names", [])
        if not names or not set(names) <= {"ae", "par"}:
            raise Refusal("--criterion pseudo_masked_lm needs --task pseudo_masked_lm")
        self.weights = parse_weights(cfg.objective_weights, task.objective_names)

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Loss in nats, number of masked tokens, logging output.

        Both losses have the same tokens, so the sum over their number is the sum of the two means.
        """
        text = sample["net_input"]["src_tokens"].size(1)
        parts = {"ae": slice(0, text), "par": slice(text, None)}
        log: Dict[str, Any] = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"]}
        loss, masked = torch.zeros((), device=sample["target"].device), 0
        nll_BL = self._from_logits(model, sample) if why_not(model) else None
        x_BLD = hidden_states(model, sample["net_input"]) if nll_BL is None else None
        for name, weight in self.weights.items():
            target_BT = sample["target"][:, parts[name]]
            if nll_BL is not None:
                nll, masked = nll_BL[:, parts[name]].sum(), int(target_BT.ne(self.padding_idx).sum())
            else:
                x_ND, target_N = tokens_that_count(x_BLD[:, parts[name]], target_BT, self.padding_idx)
                x_ND, weight_VD, bias_V = projection(model, x_ND)
                nll, masked = vocabulary_loss(x_ND, weight_VD, target_N, bias_V=bias_V).loss, len(target_N)
            loss = loss + weight * nll
            log[f"{name}_loss"] = nll.detach()
        log.update(loss=loss.detach(), sample_size=masked)
        return loss, masked, log

    def _from_logits(self, model: Any, sample: Dict[str, Any]) -> Tensor:
        """Negative log-likelihood of every target, 0 where there is none, from logits: (B, T + Q)."""
        wanted_BL = sample["target"].ne(self.padding_idx)
        logits_NV = model(**sample["net_input"], masked_tokens=wanted_BL)[0]
        nll_N = F.cross_entropy(logits_NV.float(), sample["target"][wanted_BL], reduction="none")
        return nll_N.new_zeros(wanted_BL.shape).masked_scatter(wanted_BL, nll_N)

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Bits per masked token: of both losses together, of each, and the perplexities of each."""
        masked = sum(log["sample_size"] for log in logging_outputs)
        if not masked:
            return
        for key in ("loss", "ae_loss", "par_loss"):
            if key in logging_outputs[0]:
                bits = utils.item(sum(log[key] for log in logging_outputs)) / masked / math.log(2)
                metrics.log_scalar(key, bits, masked, round=3)
                if key != "loss":
                    name = key.replace("loss", "ppl")
                    metrics.log_derived(name, lambda meters, key=key: utils.get_perplexity(meters[key].avg))

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


@register_criterion("pseudo_masked_lm", dataclass=PseudoMaskedLMConfig)
class PseudoMaskedLM(RouterLosses, _SumOfLosses):
    """Loss of `--task pseudo_masked_lm`: L = L_AE + L_PAR, each the mean over masked tokens.

    Models with mixture-of-experts layers add their router losses.
    """

    def __init__(self, cfg: PseudoMaskedLMConfig, task: Any):
        super().__init__(cfg, task)
        self.set_router_weights(cfg.moe_balance_weight, cfg.moe_cluster_weight)
