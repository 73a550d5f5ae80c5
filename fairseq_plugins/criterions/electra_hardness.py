"""`--criterion electra_hardness`: ELECTRA (arXiv 2003.10555), focal loss and hardness prediction (arXiv 2106.13715)."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor

from ..compat import Refusal
from ..modules.replacement_sampling import Sample, originals_and_places
from ..modules.vocabulary_loss import vocabulary_loss
from ._router_losses import RouterLosses, RouterLossOptions
from ._vocabulary import why_not_apart

# B batch, T length, N masked tokens, G width of the generator, V vocabulary
FOCUS = {"none": 0.0, "loss": 1.0, "dist": 4.0}  # by --hardness; what the paper used is unverified
WEIGHT = {"none": 0.0, "loss": 5.0, "dist": 1.0}  # likewise
SUMS = (
    "masked tokens generator nll correct discriminator replaced called_replaced found unchanged hardness ratio "
    "ratio_squared"
).split()


@dataclass
class ElectraHardnessConfig(RouterLossOptions, FairseqDataclass):
    """Options of the criterion; `--hardness` itself is the model's."""

    discriminator_weight: float = field(
        default=50.0, metadata={"help": "weight of the discriminator's loss; the generator's has 1"}
    )
    focal_gamma: Optional[float] = field(
        default=None,
        metadata={
            "help": "the generator's loss of a token with probability p counts (1 - p)^GAMMA times; 0: cross-entropy "
            "(default: 0, with --hardness loss 1, with --hardness dist 4)"
        },
    )
    hardness_weight: Optional[float] = field(
        default=None,
        metadata={"help": "weight of hardness prediction's loss (default: 5 with --hardness loss, 1 with dist)"},
    )
    hp_importance_weight: bool = field(
        default=False,
        metadata={"help": "weigh the discriminator's loss of masked tokens by importance, p_G / p_S of what was drawn"},
    )
    importance_clip: float = field(
        default=10.0,
        metadata={"help": "most that p_G / p_S counts, here and in the loss of --hardness dist (0: no limit)"},
    )
    seed: int = II("common.seed")


class _ElectraLosses(FairseqCriterion):
    """L = L_G + 50 L_D + weight * L_HP: means over masked, all, and masked tokens.

    The engine divides a sum by one number, here that of masked tokens. So L_D is the mean of each batch, weighted over
    batches (of an update, of ranks) by their masked tokens; one without any counts for nothing.
    """

    def __init__(self, cfg: ElectraHardnessConfig, task: Any):
        super().__init__(task)
        for name in ("discriminator_weight", "focal_gamma", "hardness_weight", "importance_clip"):
            value = getattr(cfg, name)
            if value is not None and not 0 <= value < math.inf:
                raise Refusal(f"--{name.replace('_', '-')} {value:g} must be a number that is not negative")
        self.cfg = cfg

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Loss in nats times the number of masked tokens, that number, logging output.

        Raises:
            Refusal: a model without a discriminator, or options that do not go together.
        """
        self._check(model)
        kind = model.hardness.kind
        originals_BT, masked_BT = originals_and_places(
            sample["net_input"]["src_tokens"], sample["target"], self.padding_idx, model.allowed_V
        )
        logits_BT, extra = model(
            **sample["net_input"], originals=originals_BT, masked=masked_BT, noise=self._dice(model, sample)
        )
        output, original_N = extra["electra"], originals_BT[masked_BT]
        scores = model.generator_scores(output.generated_NG)
        focus = FOCUS[kind] if self.cfg.focal_gamma is None else self.cfg.focal_gamma
        generator = vocabulary_loss(
            scores.x_ND, scores.weight_VD, original_N, bias_V=scores.bias_V, focus=focus, count_correct=True
        )
        real_BT, replaced_BT = originals_BT.ne(self.padding_idx), output.tokens_BT.ne(originals_BT)
        logits_BT = logits_BT.to(torch.promote_types(logits_BT.dtype, torch.float32))
        each_BT = F.binary_cross_entropy_with_logits(logits_BT, replaced_BT.to(logits_BT), reduction="none")
        ratio_N = output.sample.ratio_N.to(logits_BT)
        clipped_N = ratio_N.clamp(max=self.cfg.importance_clip) if self.cfg.importance_clip else ratio_N
        weighted_BT = each_BT
        if self.cfg.hp_importance_weight:
            weighted_BT = each_BT * torch.ones_like(each_BT).masked_scatter(masked_BT, clipped_N)
        masked, tokens = len(original_N), int(real_BT.sum())
        # A mean over all tokens beside a mean over masked ones, in a sum that is divided by the masked ones
        loss = generator.loss + self.cfg.discriminator_weight * masked / max(1, tokens) * weighted_BT[real_BT].sum()
        hardness = torch.zeros((), device=loss.device)
        if kind != "none":
            hardness = self._hardness(
                model, output.generated_NG, original_N, output.sample, each_BT[masked_BT].detach(), clipped_N
            )
            weight = self.cfg.hardness_weight
            loss = loss + (WEIGHT[kind] if weight is None else weight) * hardness
        called_BT = logits_BT.gt(0) & real_BT
        sums: Dict[str, Any] = dict(
            masked=masked,
            tokens=tokens,
            generator=generator.loss.detach(),
            nll=generator.nll,
            correct=generator.correct,
            discriminator=each_BT[real_BT].sum().detach(),
            replaced=replaced_BT.sum(),
            called_replaced=called_BT.sum(),
            found=(called_BT & replaced_BT).sum(),
            unchanged=masked - replaced_BT.sum(),
            hardness=hardness.detach(),
            ratio=ratio_N.sum(),
            ratio_squared=ratio_N.square().sum(),
        )
        rest = dict(loss=loss.detach(), ntokens=sample["ntokens"], nsentences=sample["nsentences"], sample_size=masked)
        return loss, masked, {**sums, **rest}

    @staticmethod
    def _hardness(
        model: Any, x_NG: Tensor, original_N: Tensor, sample: Sample, loss_N: Tensor, ratio_N: Tensor
    ) -> Tensor:
        """Loss of the hardness head, summed over masked tokens; `loss_N` is the discriminator's there."""
        scores = model.hardness_scores(x_NG)
        if model.hardness.kind == "loss":
            estimate_N = model.hardness.estimate(scores.at(sample.tokens_N), sample.tokens_N.eq(original_N))
            return (loss_N - estimate_N).square().sum()
        bias_V = scores.bias_V.masked_fill(~model.allowed_V, -torch.inf)  # p_S is 0 there
        return vocabulary_loss(
            scores.x_ND, scores.weight_VD, sample.tokens_N, bias_V=bias_V, weight_N=ratio_N * loss_N
        ).loss

    def _dice(self, model: Any, sample: Dict[str, Any]) -> Optional[torch.Generator]:
        """Noise that depends on the seed, the update and the batch: the same after a restart, and on another worker.

        None, torch's own, where a batch does not say which one it is.
        """
        if "id" not in sample:
            return None
        ids = sample["id"].tolist()
        update = model.num_updates if model.training else 0
        entropy = np.random.SeedSequence([self.cfg.seed, update, len(ids), *ids[:1]])
        dice = torch.Generator(device=sample["target"].device)
        return dice.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))

    def _check(self, model: Any) -> None:
        if not hasattr(model, "generator_scores"):
            raise Refusal("--criterion electra_hardness needs --arch electra, or a preset of it")
        reason = why_not_apart(model)
        if reason:
            raise Refusal(f"--arch electra cannot be trained like this, because {reason}")
        if model.hardness.kind == "none":
            for flag, value in (
                ("--hardness-weight", self.cfg.hardness_weight),
                ("--hp-importance-weight", self.cfg.hp_importance_weight),
            ):
                if value:
                    raise Refusal(f"{flag} needs hardness prediction: --hardness loss or dist")

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Cross-entropies in bits (`hardness_loss` of --hardness loss in nats squared), shares in percent.

        `discriminator_loss` is the mean over all tokens without importance weights; `effective_samples` is the
        effective sample size of the importance weights p_G / p_S, without a limit, over the number of masked tokens.
        """
        sums = {name: utils.item(sum(log.get(name, 0) for log in logging_outputs)) for name in SUMS}
        masked, tokens, bit = sums["masked"], sums["tokens"], math.log(2)
        if not masked:
            return
        loss = utils.item(sum(log["loss"] for log in logging_outputs))
        metrics.log_scalar("loss", loss / masked / bit, masked, round=3)
        metrics.log_scalar("generator_loss", sums["generator"] / masked / bit, masked, round=3)
        metrics.log_scalar("generator_nll_loss", sums["nll"] / masked / bit, masked, round=3)
        metrics.log_derived("generator_ppl", lambda meters: utils.get_perplexity(meters["generator_nll_loss"].avg))
        metrics.log_scalar("generator_accuracy", 100 * sums["correct"] / masked, masked, round=2)
        metrics.log_scalar("discriminator_loss", sums["discriminator"] / tokens / bit, tokens, round=4)
        for name, part, whole in (
            ("replaced_precision", "found", "called_replaced"),
            ("replaced_recall", "found", "replaced"),
            ("sampled_original", "unchanged", "masked"),
        ):
            if sums[whole]:
                metrics.log_scalar(name, 100 * sums[part] / sums[whole], sums[whole], round=2)
        metrics.log_scalar("hardness_loss", sums["hardness"] / masked, masked, round=4)
        if sums["ratio_squared"]:
            effective = sums["ratio"] ** 2 / sums["ratio_squared"] / masked
            metrics.log_scalar("effective_samples", 100 * effective, masked, round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


@register_criterion("electra_hardness", dataclass=ElectraHardnessConfig)
class ElectraHardness(RouterLosses, _ElectraLosses):
    """Losses of `--arch electra`. Models with mixture-of-experts layers add their router losses."""

    def __init__(self, cfg: ElectraHardnessConfig, task: Any):
        super().__init__(cfg, task)
        self.set_router_weights(cfg.moe_balance_weight, cfg.moe_cluster_weight)
