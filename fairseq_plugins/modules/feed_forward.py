"""The dense position-wise feed-forward."""

from typing import Callable, Optional, Tuple

from torch import Tensor, nn

from .linear import xavier_linear

# B batch, T length, D model dim


class FeedForward(nn.Module):
    """fc2(activation(fc1(x))) (Vaswani et al. 2017, Section 3.3), with Sub-LN's norm before fc2 where given.

    With `gated`, fc2(activation(fc1(x)) * fc_gate(x)) (Shazeer 2020, arXiv 2002.05202, equation 5), as in mT5; there
    dropout and norm come after the product.

    The contract of every feed-forward slot: `forward(x_BTD, padding_BT) -> (y_BTD, auxiliary loss or None)`, and where
    there is such a loss, `observe(loss)`, which the stack calls once per training pass, outside recomputation.

    Args:
        dim: model dimension D.
        hidden_dim: width between the two projections.
        activation: elementwise function.
        dropout: on the activation, in training.
        gain: Xavier gain of fc1, fc2 and fc_gate.
        inner_norm: norm over `hidden_dim` before fc2 (Magneto, Section 3.1), or None.
        gated: multiply the activation by a third projection.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        activation: Callable[[Tensor], Tensor],
        dropout: float = 0.0,
        gain: float = 1.0,
        inner_norm: Optional[nn.Module] = None,
        gated: bool = False,
    ):
        super().__init__()
        self.activation = activation
        self.activation_dropout = nn.Dropout(dropout)
        self.fc1 = xavier_linear(dim, hidden_dim, gain=gain)
        self.fc2 = xavier_linear(hidden_dim, dim, gain=gain)
        self.fc_gate = xavier_linear(dim, hidden_dim, gain=gain) if gated else None
        self.inner_norm = inner_norm

    def forward(self, x_BTD: Tensor, padding_BT: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        """Returns (B, T, D) and None: a dense feed-forward has no loss of its own, and padding costs it nothing."""
        hidden = self.activation(self.fc1(x_BTD))
        if self.fc_gate is not None:
            hidden = hidden * self.fc_gate(x_BTD)
        hidden = self.activation_dropout(hidden)
        if self.inner_norm is not None:
            hidden = self.inner_norm(hidden)
        return self.fc2(hidden), None
