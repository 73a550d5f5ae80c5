"""From a network to the loss over its vocabulary without ever holding all logits."""

from typing import Any, Dict, Optional, Tuple

from torch import Tensor, nn

from ..compat import Refusal

# B batch, T length, N tokens that count, D model dim, V vocabulary
Projection = Tuple[Tensor, Tensor, Optional[Tensor]]


def hidden_states(model: Any, net_input: Dict[str, Any]) -> Tensor:
    """What `model` computes before its output layer, (B, T, D).

    Raises:
        Refusal: the model cannot be asked for it.
    """
    try:
        return model(**net_input, features_only=True)[0]
    except TypeError as error:
        if "features_only" not in str(error):
            raise
        raise _refusal(model) from None


def tokens_that_count(x_BTD: Tensor, target_BT: Tensor, padding_idx: int) -> Tuple[Tensor, Tensor]:
    """Rows of `x_BTD` (N, D) and targets (N,) that are not padding."""
    x, target = x_BTD.reshape(-1, x_BTD.size(-1)), target_BT.reshape(-1)
    rows_N = target.ne(padding_idx).nonzero().view(-1)
    if len(rows_N) == len(target):
        return x, target
    return x.index_select(0, rows_N), target.index_select(0, rows_N)


def projection(model: Any, x_ND: Tensor) -> Projection:
    """The last linear layer of `model`: its input from hidden states `x_ND`, weight (V, D), and bias (V,) or None.

    Models of this package say it themselves (`before_logits`); of others a plain `decoder.output_projection` is used.

    Raises:
        Refusal: there is neither.
    """
    part = getattr(model, "decoder", None) or model.encoder
    if hasattr(part, "before_logits"):
        return part.before_logits(x_ND)
    linear = getattr(part, "output_projection", None)
    if isinstance(linear, nn.Linear):
        return x_ND, linear.weight, linear.bias
    raise _refusal(model)


def _refusal(model: Any) -> Refusal:
    return Refusal(
        f"this --criterion needs a model that can leave out its output layer, which {type(model).__name__} cannot; use "
        "an --arch of this package, or the stock criterion"
    )
