"""The norm without mean and bias, as in mT5."""

from typing import Any, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

# D width


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467, Section 4).

    torch's own on a GPU and in half precision. On a CPU torch has no kernel for it and takes three times a layer norm;
    a gradient written out takes half of that.

    Args:
        dim: width D.
        eps: added to the mean square; mT5's by default.
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """The shape of `x`, (..., D), and its type."""
        assert self.eps is not None
        weight = self.weight.to(x.dtype)  # under autocast they differ, and torch's fused kernel wants them equal
        if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
            return _Normed.apply(x, weight, self.eps)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class _Normed(Function):
    """With r = 1 / rms and n = x r: dx = r (g w - n mean(g n w)), dw = sum(g n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r = norm.square_().div_(x.size(-1)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors
        normed = x * r
        product_ND = (gradient * normed).flatten(0, -2)
        mean = torch.mv(product_ND, weight).view_as(r) / x.size(-1)
        return (gradient * weight).sub_(normed.mul_(mean)).mul_(r), product_ND.sum(0), None
