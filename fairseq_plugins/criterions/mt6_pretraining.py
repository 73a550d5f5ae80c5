"""`--criterion mt6_pretraining`: the sum of the per-token losses of several objectives (mT6, Section 2.4)."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics

from ._objective_weights import parse_weights
from ._router_losses import RouterLosses, RouterLossOptions
from ._vocabulary import check_label_smoothing
from .chunked_label_smoothed_cross_entropy import LabelSmoothedInChunks

# what logs hold, after the objective's name
LOSS, TOKENS, WEIGHT, CORRECT = "_loss", "_ntokens", "_weight", "_n_correct"


@dataclass
class MT6PretrainingConfig(RouterLossOptions, FairseqDataclass):
    """Options of the criterion."""

    objective_weights: str = field(
        default="",
        metadata={"help": "weight of an objective's mean loss per token, as sc:1,tsc:0.5 (1 where not said)"},
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "of every objective, in [0, 1)"})
    report_accuracy: bool = field(default=False, metadata={"help": "log the share of right tokens of each objective"})


class _SumOfMeans(FairseqCriterion):
    """Each objective's mean loss per token of the batch, weighted and added up."""

    def __init__(self, cfg: MT6PretrainingConfig, task: Any):
        super().__init__(task)
        check_label_smoothing(cfg.label_smoothing)
        self.weights = parse_weights(cfg.objective_weights, task.objective_names)
        self.per_token = LabelSmoothedInChunks(
            task, sentence_avg=False, label_smoothing=cfg.label_smoothing, report_accuracy=cfg.report_accuracy
        )

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Any, int, Dict[str, Any]]:
        """Loss in nats, 1, logging output; several batches (accumulated, or of several workers) are averaged."""
        loss: Any = 0.0
        log = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"], "sample_size": 1, "nbatches": 1}
        for name, weight in self.weights.items():  # of all objectives: workers must agree on what they log
            log.update({name + LOSS: 0.0, name + TOKENS: 0, name + WEIGHT: weight, name + CORRECT: 0})
        for name, part in sample["objectives"].items():
            total, tokens, part_log = self.per_token(model, part)
            loss = loss + self.weights[name] * total / tokens
            log.update({name + LOSS: total.detach(), name + TOKENS: tokens})
            log[name + CORRECT] = part_log.get("n_correct", -1)  # -1: nobody asked
        log["loss"] = torch.as_tensor(loss).detach()
        for name in self.weights:  # tensors and numbers travel apart: a rank without an objective must not differ
            log[name + LOSS] = torch.as_tensor(log[name + LOSS]).to(log["loss"])
        return loss, 1, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Bits per token of each objective by name, and of all of them the weighted sum."""
        sums: Dict[str, Any] = {}
        for log in logging_outputs:
            for key, value in log.items():
                sums[key] = sums.get(key, 0) + value
        weights = {}
        for key in [key for key in sums if key.endswith(TOKENS) and key != "ntokens"]:
            name, tokens = key[: -len(TOKENS)], sums[key]
            if not tokens:
                continue
            weights[name] = float(sums[name + WEIGHT] / sums["nbatches"])
            metrics.log_scalar(name + LOSS, sums[name + LOSS] / tokens / math.log(2), tokens, round=3)
            if sums[name + CORRECT] >= 0:
                metrics.log_scalar(f"{name}_accuracy", 100.0 * sums[name + CORRECT] / tokens, tokens, round=1)
        metrics.log_derived("loss", lambda meters: _weighted_sum(meters, weights))

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


@register_criterion("mt6_pretraining", dataclass=MT6PretrainingConfig)
class MT6Pretraining(RouterLosses, _SumOfMeans):
    """Loss of `--task mt6_pretraining`: L = sum over objectives of weight x mean cross-entropy per token.

    The means are over a batch; with `--update-freq` or several workers the batches' losses are averaged. Models with
    mixture-of-experts layers add their router losses.
    """

    def __init__(self, cfg: MT6PretrainingConfig, task: Any):
        super().__init__(cfg, task)
        self.set_router_weights(cfg.moe_balance_weight, cfg.moe_cluster_weight)


def _weighted_sum(meters: Any, weights: Dict[str, float]) -> float:
    """The loss, from the meters of its parts."""
    return round(sum(weight * float(meters[name + LOSS].avg) for name, weight in weights.items()), 3)
