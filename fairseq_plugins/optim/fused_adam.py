"""`--optimizer fused_adam`: torch's own fused AdamW under fairseq's flags, on CPU and GPU."""

from dataclasses import dataclass, field
from typing import Any, List

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam
from omegaconf import II

from ..compat import Refusal


@dataclass
class FusedAdamConfig(FairseqDataclass):
    """The flags of `--optimizer adam` that mean something here."""

    adam_betas: Any = field(default=(0.9, 0.999), metadata={"help": "betas for Adam optimizer"})
    adam_eps: float = field(default=1e-8, metadata={"help": "epsilon for Adam optimizer"})
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay, as in AdamW"})
    lr: List[float] = II("optimization.lr")


class _AdamW(torch.optim.AdamW):
    """Says to the engine what it may do: each number is updated by itself, so one flat parameter does as well."""

    supports_flat_params = True


@register_optimizer("fused_adam", dataclass=FusedAdamConfig)
class FusedAdam(FairseqAdam):
    """AdamW in one pass over each parameter instead of a dozen.

    The same update as `--optimizer adam` but for eps, which torch adds after the correction of the second moment and
    fairseq before it. Checkpoints of the one do not continue under the other, as between any two optimisers.
    """

    def __init__(self, cfg: FusedAdamConfig, params: Any):
        FairseqOptimizer.__init__(self, cfg)
        try:
            self._optimizer = _AdamW(params, fused=True, **self.optimizer_config)
        except (ValueError, TypeError) as error:  # betas, eps or a decay out of range: torch says which
            raise Refusal(f"--optimizer fused_adam cannot start: {error}") from None

    @property
    def supports_memory_efficient_fp16(self) -> bool:
        """Asked by `--memory-efficient-fp16` and `-bf16`, which leave weights and moments in half precision.

        Raises:
            Refusal: always; torch's moments would be as coarse as the weights.
        """
        raise Refusal(
            "--optimizer fused_adam needs float32 weights: with --memory-efficient-fp16 or --memory-efficient-bf16 "
            "give --optimizer adam"
        )
