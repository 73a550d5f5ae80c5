"""Auxiliary losses on their way from a model to a criterion, and what happens if no criterion takes them."""

from typing import Iterable, List

from fairseq import criterions
from torch import Tensor

from ..compat import Refusal


class AuxiliaryLosses(List[Tensor]):
    """The packed router reports of one forward pass, one per MoE layer.

    A criterion says `consume()`. If it did not, the backward pass stops the training before the first update: a router
    without its balance loss soon sends everything to one expert, and nothing would show it.
    """

    def __init__(self, losses: Iterable[Tensor] = ()):
        super().__init__(losses)
        self.consumed = False

    def consume(self) -> List[Tensor]:
        """The losses; from now on they count as used."""
        self.consumed = True
        return list(self)

    def guard(self, x: Tensor) -> Tensor:
        """`x`, whose gradient asks for the losses to have been consumed.

        Raises:
            Refusal: in the backward pass, one sentence that names the criterions that do.
        """
        if self and x.requires_grad and any(loss.requires_grad for loss in self):
            x.register_hook(self._check)
        return x

    def _check(self, gradient: Tensor) -> None:
        if not self.consumed:
            able = sorted(
                name
                for name, criterion in criterions.CRITERION_REGISTRY.items()
                if getattr(criterion, "consumes_router_losses", False)
            )
            raise Refusal(
                "this model has mixture-of-experts layers and the --criterion ignores their router losses; use one of "
                f"{', '.join(able)}"
            )
