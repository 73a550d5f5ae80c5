"""Options of task-specific expert pruning: one mixin, one flag per axis."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..modules.moe.pruning import SCORES, VARIANTS


@dataclass
class MoEPruningOptions(FairseqDataclass):
    """How a fine-tuning gets from many experts to one. Threshold and windows are unverified: not read in the paper."""

    moe_prune: ChoiceEnum(("none", *VARIANTS)) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "drop experts while fine-tuning: eager (those below a threshold after every window), staged (a "
            "fixed number after every window), two-pass (only record scores; with --moe-prune-from keep the best alone)"
        },
    )
    moe_prune_updates: int = field(
        default=0,
        metadata={"help": "eager, staged: updates of the whole fine-tuning; one expert is left after half of them"},
    )
    moe_prune_windows: int = field(
        default=4, metadata={"help": "equal windows in the first half, each ends with a decision"}
    )
    moe_prune_threshold: float = field(
        default=0.1,
        metadata={"help": "eager: an expert leaves if its share of the score is below this / number of living experts"},
    )
    moe_prune_score: ChoiceEnum(SCORES) = field(  # type: ignore[valid-type]
        default="alpha", metadata={"help": "alpha: sum of the gate values of an expert's tokens; hit: their number"}
    )
    moe_prune_gate_one: bool = field(
        default=False,
        metadata={
            "help": "use the last expert unweighted in the second half: makes it a dense one under a sigmoid gate too"
        },
    )
    moe_prune_from: Optional[str] = field(
        default=None,
        metadata={"help": "two-pass: the last checkpoint of the first pass, whose scores say which expert stays"},
    )
