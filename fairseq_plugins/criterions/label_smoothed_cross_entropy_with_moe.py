"""`--criterion label_smoothed_cross_entropy_with_moe`: the translation loss plus the router losses."""

from fairseq.criterions import register_criterion

from .chunked_label_smoothed_cross_entropy import (
    ChunkedLabelSmoothedCrossEntropy,
    ChunkedLabelSmoothedCrossEntropyConfig,
)


@register_criterion("label_smoothed_cross_entropy_with_moe", dataclass=ChunkedLabelSmoothedCrossEntropyConfig)
class LabelSmoothedCrossEntropyWithMoE(ChunkedLabelSmoothedCrossEntropy):
    """`chunked_label_smoothed_cross_entropy`, which has the router losses too, under the name that says so."""
