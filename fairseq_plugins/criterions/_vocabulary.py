"""From a network to the loss over its vocabulary without ever holding all logits."""

import logging
from typing import Any, Dict, Optional, Tuple

from torch import Tensor, nn

from ..compat import Refusal
from ..modules.packing import pack, real_tokens

logger = logging.getLogger(__name__)

# B batch, T length, N tokens that count, D model dim, V vocabulary
Projection = Tuple[Tensor, Tensor, Optional[Tensor]]


class ChunkedLoss:
    """Lets a criterion compute from hidden states where its model allows that, and as it always did where not."""

    _told = False

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, Any, Dict[str, Any]]:
        """Loss, sample size, logging output: fairseq's contract."""
        reason = why_not(model)
        if reason and not self._told:
            self._told = True
            logger.warning(f"all logits are computed at once, because {reason}")
        if reason or not reduce:  # a loss per token is as large as the batch, and nobody trains with it
            return super().forward(model, sample, reduce)  # type: ignore[misc]
        return self.forward_chunked(model, sample)

    def forward_chunked(self, model: Any, sample: Dict[str, Any]) -> Tuple[Tensor, Any, Dict[str, Any]]:
        """The same from hidden states."""
        raise NotImplementedError


def check_label_smoothing(share: float) -> None:
    """See that --label-smoothing is a share.

    Raises:
        Refusal: it is none.
    """
    if not 0 <= share < 1:
        raise Refusal(f"--label-smoothing {share:g} must be at least 0 and below 1")


def why_not(model: Any) -> Optional[str]:
    """Why `model` cannot be used without its output layer; None if it can."""
    part = getattr(model, "decoder", None) or model.encoder
    if not hasattr(part, "before_logits") and not isinstance(getattr(part, "output_projection", None), nn.Linear):
        return f"{type(part).__name__} has no plain output layer"
    return why_not_apart(model)


def why_not_apart(model: Any) -> Optional[str]:
    """Why no layer of `model` can be used outside its forward pass; None if one can."""
    wrapper = getattr(model, "module", None)  # of distributed training
    if getattr(wrapper, "find_unused_parameters", False):
        return "--find-unused-parameters would take the output layer for unused"
    if type(wrapper).__name__ == "FullyShardedDataParallel":
        return "--ddp-backend fully_sharded has the output layer's weights only inside the model"
    return None


def hidden_states(model: Any, net_input: Dict[str, Any]) -> Tensor:
    """What `model` computes before its output layer, (B, T, D)."""
    return model(**net_input, features_only=True)[0]


def tokens_that_count(x_BTD: Tensor, target_BT: Tensor, padding_idx: int) -> Tuple[Tensor, Tensor]:
    """Rows of `x_BTD` (N, D) and targets (N,) that are not padding."""
    packed, target_N = real_tokens(target_BT.eq(padding_idx)), target_BT.reshape(-1)
    if len(packed.rows_N) == len(target_N):
        return x_BTD.reshape(-1, x_BTD.size(-1)), target_N
    return pack(x_BTD, packed), target_N.index_select(0, packed.rows_N)


def projection(model: Any, x_ND: Tensor) -> Projection:
    """The last linear layer of `model`: its input from hidden states `x_ND`, weight (V, D), and bias (V,) or None.

    Models of this package say it themselves (`before_logits`); of others `decoder.output_projection` is used.
    """
    part = getattr(model, "decoder", None) or model.encoder
    if hasattr(part, "before_logits"):
        return part.before_logits(x_ND)
    return x_ND, part.output_projection.weight, part.output_projection.bias
