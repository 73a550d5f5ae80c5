"""`--criterion relation_distillation`: a student's relations are to be its teacher's (MiniLM, MiniLMv2)."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from ..compat import Refusal
from ..modules.relation_loss import relation_loss
from ._router_losses import RouterLosses, RouterLossOptions

# B examples
_PARTS = "qkv"
RELATIONS = tuple(f"{i}-{j}" for i in _PARTS for j in _PARTS)


@dataclass
class RelationDistillationConfig(RouterLossOptions, FairseqDataclass):
    """Options of the criterion."""

    relations: str = field(
        default="q-q,k-k,v-v",
        metadata={
            "help": "what is compared, softmax(A_i A_j^T): any of the nine pairs of q, k and v; q-q,k-k,v-v is "
            "MiniLMv2, q-k,v-v with --relation-heads 0 is MiniLM"
        },
    )
    relation_heads: int = field(
        default=48,
        metadata={
            "help": "heads into which the whole width of both models is split (MiniLMv2: 48 for base teachers, 64 for "
            "large ones); 0: the attention heads, which must be as many in both (MiniLM)"
        },
    )


class _SumOfRelations(FairseqCriterion):
    """Losses of all relations, per text."""

    def __init__(self, cfg: RelationDistillationConfig, task: Any):
        super().__init__(task)
        self.relations = _chosen(cfg.relations)
        if cfg.relation_heads < 0:
            raise Refusal(f"--relation-heads {cfg.relation_heads} must be at least 1, or 0 for the attention heads")
        if not hasattr(task, "begin_distillation"):
            raise Refusal("--criterion relation_distillation needs --task relation_distillation")
        compared = {part for pair in self.relations for part in pair}
        given = task.begin_distillation(sorted(compared), minilm=not cfg.relation_heads)
        self.teacher, self.layer = given.teacher, given.layer
        self.heads = _heads(cfg.relation_heads, given)

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Loss in nats, number of texts, logging output: the loss of a text is the sum of its relations' (Section 3.1
        of both papers).
        """
        net_input = sample["net_input"]
        found = model(**net_input, projections_of=self.layer)[1]
        student = found["projections"]
        teacher = self.teacher.projections(net_input["src_tokens"], net_input["segments"])
        log: Dict[str, Any] = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"]}
        losses = []
        for i, j in self.relations:
            parts = [getattr(of, part) for of in (teacher, student) for part in (i, j)]
            losses.append(relation_loss(*parts, heads=self.heads, padding_BT=found["padding"]).sum())
            log[f"{i}{j}_loss"] = losses[-1].detach()
        loss = torch.stack(losses).sum()
        log.update(loss=loss.detach(), sample_size=sample["nsentences"])
        return loss, sample["nsentences"], log

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Bits per text: of all relations together, and of each under its own name."""
        texts = sum(log["sample_size"] for log in logging_outputs)
        if not texts:
            return
        for key in logging_outputs[0]:
            if key.endswith("loss"):
                bits = utils.item(sum(log[key] for log in logging_outputs)) / texts / math.log(2)
                metrics.log_scalar(key, bits, texts, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


@register_criterion("relation_distillation", dataclass=RelationDistillationConfig)
class RelationDistillation(RouterLosses, _SumOfRelations):
    """Loss of `--task relation_distillation`: KL(teacher's relation || student's), streamed, for each relation.

    Students with mixture-of-experts layers add their router losses. The teacher is a plain object: nothing of it is in
    the criterion's state.
    """

    def __init__(self, cfg: RelationDistillationConfig, task: Any):
        super().__init__(cfg, task)
        self.set_router_weights(cfg.moe_balance_weight, cfg.moe_cluster_weight)


def _chosen(text: str) -> List[Tuple[str, str]]:
    """`q-q,v-v` as pairs.

    Raises:
        Refusal: none, another, or one twice.
    """
    words = text.split(",")
    if len(set(words)) < len(words) or any(word not in RELATIONS for word in words):
        raise Refusal(f"--relations {text}: give some of {', '.join(RELATIONS)}, each once, with commas between them")
    return [(word[0], word[2]) for word in words]


def _heads(wanted: int, given: Any) -> int:
    """Relation heads that both models can be split into.

    Raises:
        Refusal: they cannot.
    """
    student, teacher = given.encoder, given.teacher.encoder
    if not wanted:
        ours, theirs = student.attention_heads, teacher.attention_heads
        if ours != theirs:
            raise Refusal(f"--relation-heads 0 compares attention heads, and the student has {ours}, the teacher "
                          f"{theirs}: give a number of relation heads")  # fmt: skip
        return ours
    for name, width in (("student", student.projection_width), ("teacher", teacher.projection_width)):
        if width % wanted:
            raise Refusal(f"--relation-heads {wanted} does not divide the {name}'s width {width}")
    return wanted
