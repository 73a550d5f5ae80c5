"""`--criterion chunked_label_smoothed_cross_entropy`: the stock translation loss in a fraction of its memory."""

from dataclasses import dataclass
from typing import Any, Dict, Tuple

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor

from ..compat import Refusal
from ..modules.vocabulary_loss import vocabulary_loss
from ._router_losses import RouterLosses, RouterLossOptions
from ._vocabulary import ChunkedLoss, check_label_smoothing, hidden_states, projection, tokens_that_count


@dataclass
class ChunkedLabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig, RouterLossOptions):
    """Stock options and the weights of the router losses."""


class LabelSmoothedInChunks(ChunkedLoss, LabelSmoothedCrossEntropyCriterion):
    """The stock criterion, from hidden states instead of logits; without router losses."""

    def forward_chunked(self, model: Any, sample: Dict[str, Any]) -> Tuple[Tensor, Any, Dict[str, Any]]:
        """Loss in nats, sample size, logging output."""
        x_BTD = hidden_states(model, sample["net_input"])
        target_BT = model.get_targets(sample, None)
        x_BTD, target_BT = x_BTD[:, self.ignore_prefix_size :], target_BT[:, self.ignore_prefix_size :]
        x_ND, target_N = tokens_that_count(x_BTD, target_BT, self.padding_idx)
        x_ND, weight_VD, bias_V = projection(model, x_ND)
        found = vocabulary_loss(
            x_ND, weight_VD, target_N, bias_V=bias_V, smoothing=self.eps, count_correct=self.report_accuracy
        )
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        log = {
            "loss": found.loss.detach(),
            "nll_loss": found.nll,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        if found.correct is not None:
            log.update(n_correct=int(found.correct), total=len(target_N))
        return found.loss, sample_size, log


@register_criterion("chunked_label_smoothed_cross_entropy", dataclass=ChunkedLabelSmoothedCrossEntropyConfig)
class ChunkedLabelSmoothedCrossEntropy(RouterLosses, LabelSmoothedInChunks):
    """Label-smoothed cross-entropy with the same numbers as fairseq's, for models with or without experts.

    Projection and loss are computed together, some hundred tokens at a time (`modules.vocabulary_loss`); padding is
    left out. Works for stock models too, where their decoder ends in a plain `output_projection`. Where a model's
    output layer cannot be left out, a warning says why, and the loss is computed as fairseq does.
    """

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
        check_label_smoothing(label_smoothing)
        if ignore_prefix_size < 0:
            raise Refusal(f"--ignore-prefix-size {ignore_prefix_size} must be at least 0")
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.set_router_weights(moe_balance_weight, moe_cluster_weight)
