"""The experts: stacked weights, pure computation on rows that are sorted by expert."""

from typing import Callable, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..residual import ResidualScheme
from .dispatch import Layout
from .grouped_linear import grouped_linear

# R rows, D model dim, H hidden dim, E experts


class Experts(nn.Module):
    """E feed-forwards, or E stacks of feed-forward sublayers that keep a residual stream of their own (BASE, X-MoE).

    Parameters are stacked, dimension 0 is the expert. Each expert is drawn from a seed of its own, made of one draw
    from torch's generator and its global number: ranks that hold different experts agree with one that holds all.

    Args:
        dim: model dimension D.
        hidden_dim: H.
        experts: number of experts E in the model.
        activation: elementwise function.
        scheme: residual scheme of the stack; its gain and inner norm reach every expert.
        sublayers: feed-forward sublayers per expert.
        own_residual: every sublayer has its norm and skip connection inside the expert.
        dropout: on the output of a sublayer, in training, where it has its own residual.
        activation_dropout: after the activation, in training.
        local: the range of global numbers that this module holds; None holds all.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        experts: int,
        *,
        activation: Callable[[Tensor], Tensor],
        scheme: ResidualScheme,
        sublayers: int = 1,
        own_residual: bool = False,
        dropout: float = 0.0,
        activation_dropout: float = 0.0,
        local: Optional[range] = None,
    ):
        super().__init__()
        local = range(experts) if local is None else local
        self.sublayers = nn.ModuleList(
            ExpertSublayer(
                dim,
                hidden_dim,
                len(local),
                activation=activation,
                scheme=scheme,
                own_residual=own_residual,
                dropout=dropout,
                activation_dropout=activation_dropout,
            )
            for _ in range(sublayers)
        )
        seed = int(torch.randint(2**62, (), device="cpu"))  # equal on every worker
        for row, number in enumerate(local):
            generator = torch.Generator().manual_seed(seed + number)
            for sublayer in self.sublayers:
                assert isinstance(sublayer, ExpertSublayer)
                sublayer.draw_expert(row, scheme.gain, generator)

    def forward(self, x_RD: Tensor, layout: Layout) -> Tensor:
        """What every expert makes of its rows, (R, D)."""
        for sublayer in self.sublayers:
            x_RD = sublayer(x_RD, layout)
        return x_RD


class ExpertSublayer(nn.Module):
    """One feed-forward of every expert; see `Experts`."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        experts: int,
        *,
        activation: Callable[[Tensor], Tensor],
        scheme: ResidualScheme,
        own_residual: bool,
        dropout: float,
        activation_dropout: float,
    ):
        super().__init__()
        self.activation = activation
        self.scheme = scheme
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)
        self.fc1_weight = nn.Parameter(torch.zeros(experts, hidden_dim, dim))
        self.fc1_bias = nn.Parameter(torch.zeros(experts, hidden_dim))
        self.fc2_weight = nn.Parameter(torch.zeros(experts, dim, hidden_dim))
        self.fc2_bias = nn.Parameter(torch.zeros(experts, dim))
        self.inner_norm = StackedLayerNorm(experts, hidden_dim) if scheme.inner_norm else None
        self.norm = StackedLayerNorm(experts, dim) if own_residual else None

    @torch.no_grad()
    def draw_expert(self, row: int, gain: float, generator: torch.Generator) -> None:
        """Start one expert as a dense feed-forward starts: Xavier's normal with `gain`, biases 0."""
        for weight_EOI in (self.fc1_weight, self.fc2_weight):
            if not weight_EOI.is_meta:  # a model built for its shapes alone
                weight_OI = torch.empty(weight_EOI.shape[1:], dtype=weight_EOI.dtype)
                nn.init.xavier_normal_(weight_OI, gain=gain, generator=generator)
                weight_EOI[row].copy_(weight_OI)

    def forward(self, x_RD: Tensor, layout: Layout) -> Tensor:
        """(R, D) to (R, D), with the expert's own residual where it has one."""
        norm = self.norm
        if norm is None:
            return self.transform(x_RD, layout)
        branch = lambda x_RD: (self.transform(x_RD, layout), None)  # noqa: E731
        return self.scheme.connect(x_RD, branch, lambda x_RD: norm(x_RD, layout), self.dropout)[0]

    def transform(self, x_RD: Tensor, layout: Layout) -> Tensor:
        """fc2(activation(fc1(x))) of every row's expert."""
        relu = self.activation is F.relu
        hidden_RH = grouped_linear(x_RD, self.fc1_weight, self.fc1_bias, layout, relu=relu)
        if not relu:
            hidden_RH = self.activation(hidden_RH)
        hidden_RH = self.activation_dropout(hidden_RH)
        if self.inner_norm is not None:
            hidden_RH = self.inner_norm(hidden_RH, layout)
        return grouped_linear(hidden_RH, self.fc2_weight, self.fc2_bias, layout)


class StackedLayerNorm(nn.Module):
    """A layer norm with a scale and a shift for each expert."""

    def __init__(self, experts: int, dim: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(experts, dim))
        self.bias = nn.Parameter(torch.zeros(experts, dim))

    def forward(self, x_RD: Tensor, layout: Layout) -> Tensor:
        """Normalise every row, (R, D), and scale and shift it as its expert says."""
        normed = F.layer_norm(x_RD, x_RD.shape[-1:], eps=self.eps)
        expert_R = layout.expert_of(torch.arange(len(x_RD), device=x_RD.device))
        return torch.addcmul(self.bias[expert_R], normed, self.weight[expert_R])
