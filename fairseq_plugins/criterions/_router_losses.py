"""The mixin that lets any criterion train models with mixture-of-experts layers."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor
from torch import distributed as dist

from ..compat import Refusal
from ..modules.moe.router_losses import SCALARS


@dataclass
class RouterLossOptions(FairseqDataclass):
    """Weights of the router losses."""

    moe_balance_weight: float = field(
        default=0.01, metadata={"help": "weight of each router's balance loss, per unit of the sample size"}
    )
    moe_cluster_weight: float = field(
        default=0.01, metadata={"help": "weight of each router's variance term (MoEC), per unit of the sample size"}
    )


class RouterLosses:
    """Adds the router losses of a model to the loss of the criterion that follows in the inheritance order.

    loss + sample size * sum over MoE layers of (balance weight * balance + cluster weight * variance), as the public
    code of Switch-style models in fairseq has it. The criterion's own numbers in the log stay what they were; those of
    the routers have names of their own. With several workers each layer reports its worker's share of a loss over all
    tokens, so the sample size is that of all workers.
    """

    consumes_router_losses = True
    moe_balance_weight: float
    moe_cluster_weight: float

    def set_router_weights(self, balance: float, cluster: float) -> None:
        """Keep the weights.

        Raises:
            Refusal: a weight that is negative or not finite, named by its flag.
        """
        for flag, value in (("--moe-balance-weight", balance), ("--moe-cluster-weight", cluster)):
            if not 0 <= value < math.inf:
                raise Refusal(f"{flag} {value} must not be negative{'' if value < 0 else ', and finite'}")
        self.moe_balance_weight, self.moe_cluster_weight = balance, cluster

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, Any, Dict[str, Any]]:
        """Loss, sample size, logging output: fairseq's contract."""
        seen = _Recorder(model)
        loss, sample_size, log = super().forward(seen, sample, reduce)  # type: ignore[misc]
        losses = seen.auxiliary()
        if losses:
            reports = torch.stack([vector[: len(SCALARS)] for vector in losses])
            sums = dict(zip(SCALARS, reports.sum(dim=0).unbind(), strict=True))
            weighted = self.moe_balance_weight * sums["balance"] + self.moe_cluster_weight * sums["cluster"]
            workers = _workers()
            loss = loss + weighted * _total(sample_size, workers, reports.device)
            log["moe_layers"] = len(losses)
            log.update({f"moe_{name}": value.detach() for name, value in sums.items()})
            for part in ("balance", "cluster"):
                log[f"moe_{part}"] = log[f"moe_{part}"] * workers
        return loss, sample_size, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """The criterion's own numbers, and means over MoE layers of what their routers report."""
        super().reduce_metrics(logging_outputs)  # type: ignore[misc]
        layers = sum(log.get("moe_layers", 0) for log in logging_outputs)
        if layers:
            for name in SCALARS:
                total = sum(log.get(f"moe_{name}", 0) for log in logging_outputs)
                metrics.log_scalar(f"moe_{name}", total / layers, layers, round=4)


class _Recorder:
    """A model that remembers what it returned: stock criterions keep the network's output to themselves."""

    def __init__(self, model: Any):
        self._model = model
        self._outputs: List[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._model(*args, **kwargs)
        self._outputs.append(output)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def auxiliary(self) -> List[Tensor]:
        """The router reports of all forward passes."""
        reports: List[Tensor] = []
        for output in self._outputs:
            extra = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            losses = extra.get("auxiliary") if isinstance(extra, dict) else None
            if losses:
                reports += losses.consume()
        return reports


def _workers() -> int:
    """Processes that share one loss: all of a training, none but this one outside it."""
    together = dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()
    return dist.get_world_size() if together else 1


def _total(sample_size: Any, workers: int, device: torch.device) -> Tensor:
    size = torch.as_tensor(sample_size, device=device).float()
    if workers > 1:
        size = size.clone()
        dist.all_reduce(size)
    return size
