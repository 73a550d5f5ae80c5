"""Routers: who may compute a token, and with which weight. Linear (Switch, GShard) and cosine (X-MoE)."""

import math
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# N tokens, D model dim, E experts, K chosen experts
GATES = ("softmax", "sigmoid")
INITIAL_TEMPERATURE = {"softmax": 0.3, "sigmoid": 0.07}  # X-MoE (arXiv 2204.09179), Section 4.1
LEAST_TEMPERATURE = 1e-4
EMBEDDING_NORM = 0.1  # X-MoE, version 3: a small norm means a large change of angle per update


class Routing(NamedTuple):
    """What a router decided; all that dispatch and the losses need."""

    expert_NK: Tensor  # long, best first
    weight_NK: Tensor  # float32 gate values; 0 for a choice that is no living expert
    probs_NE: Tensor  # float32, what the balance losses see; keeps its gradient


class LinearRouter(nn.Module):
    """Scores are one linear map of the token (Switch, arXiv 2101.03961, Section 2.1; GShard, arXiv 2006.16668).

    Args:
        dim: model dimension D.
        experts: number of experts E.
        top_k: experts per token K.
        gate: `softmax` over the living experts or `sigmoid` of the chosen score.
    """

    def __init__(self, dim: int, experts: int, *, top_k: int = 1, gate: str = "softmax"):
        super().__init__()
        self.top_k = top_k
        self.gate = gate
        self.projection = nn.Linear(dim, experts, bias=False)
        nn.init.normal_(self.projection.weight, std=dim**-0.5)

    def forward(self, x_ND: Tensor, alive_E: Optional[Tensor] = None) -> Routing:
        """Route tokens (N, D), in any dtype, in float32; only experts that are True in `alive_E` (E,) are chosen."""
        with torch.autocast(x_ND.device.type, enabled=False):
            score_NE = F.linear(exact(x_ND), exact(self.projection.weight))
            return route(score_NE, score_NE, alive_E, self.top_k, self.gate)


class CosineRouter(nn.Module):
    """Scores are cosines in a low-dimensional space (X-MoE, arXiv 2204.09179, Section 3).

    Args:
        dim: model dimension D.
        experts: number of experts E.
        top_k: experts per token K; with more than one, gates are renormalised over the chosen.
        gate: `softmax` or `sigmoid` of score / temperature.
        routing_dim: dimension in which the cosine is taken; E/2 in the paper.
        temperature: start value of the learnable temperature, and the constant one of the balance loss; None takes the
            paper's, 0.3 for softmax and 0.07 for sigmoid.
    """

    def __init__(
        self,
        dim: int,
        experts: int,
        *,
        top_k: int = 1,
        gate: str = "softmax",
        routing_dim: Optional[int] = None,
        temperature: Optional[float] = None,
    ):
        super().__init__()
        self.top_k = top_k
        self.gate = gate
        self.balance_temperature = INITIAL_TEMPERATURE[gate] if temperature is None else temperature
        routing_dim = max(1, experts // 2) if routing_dim is None else routing_dim
        self.projection = nn.Linear(dim, routing_dim, bias=False)
        self.expert_embedding = nn.Parameter(torch.empty(experts, routing_dim))
        self.temperature = nn.Parameter(torch.tensor(self.balance_temperature))
        nn.init.orthogonal_(self.expert_embedding)
        self.expert_embedding.fixed_row_norm = EMBEDDING_NORM  # type: ignore[attr-defined] # for float32 masters
        self.project_embeddings()

    @torch.no_grad()
    def project_embeddings(self) -> None:
        """Bring every expert embedding to norm 0.1, in place: the cosine ignores it, the optimiser's step does not."""
        norms = exact(self.expert_embedding).norm(dim=1, keepdim=True)
        self.expert_embedding.mul_((EMBEDDING_NORM / norms.clamp(min=1e-12)).to(self.expert_embedding.dtype))

    def forward(self, x_ND: Tensor, alive_E: Optional[Tensor] = None) -> Routing:
        """Route tokens (N, D), in any dtype, in float32; only experts that are True in `alive_E` (E,) are chosen."""
        with torch.autocast(x_ND.device.type, enabled=False):
            low_dimensional = F.linear(exact(x_ND), exact(self.projection.weight))
            # eps far below any real norm: the score must not see the length of a token
            cosine_NE = F.linear(
                F.normalize(low_dimensional, dim=1, eps=1e-12), F.normalize(exact(self.expert_embedding), dim=1)
            )
            return route(
                cosine_NE / self.effective_temperature(),
                cosine_NE / self.balance_temperature,
                alive_E,
                self.top_k,
                self.gate,
            )

    def effective_temperature(self) -> Tensor:
        """The size of the parameter, at least 1e-4: below zero it would turn the ranking round.

        Straight through: the gradient stays where the value is held, so that it can be lifted again.
        """
        size = exact(self.temperature).abs()
        return size + (size.clamp(min=LEAST_TEMPERATURE) - size).detach()


def route(logits_NE: Tensor, balance_logits_NE: Tensor, alive_E: Optional[Tensor], top_k: int, gate: str) -> Routing:
    """Choose the `top_k` best living experts by `logits_NE` and weigh them; float32 or float64 throughout."""
    if alive_E is not None:
        logits_NE = logits_NE.masked_fill(~alive_E, -math.inf)
        balance_logits_NE = balance_logits_NE.masked_fill(~alive_E, -math.inf)
    best_NK, expert_NK = logits_NE.topk(top_k, dim=1)
    if gate == "sigmoid":
        weight_NK = best_NK.sigmoid()
    else:
        weight_NK = (best_NK - logits_NE.logsumexp(dim=1, keepdim=True)).exp()
    if top_k > 1:
        weight_NK = weight_NK / weight_NK.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weight_NK.dtype).tiny)
    return Routing(expert_NK, weight_NK, balance_logits_NE.softmax(dim=1))


def exact(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it is: half precision cannot rank close scores."""
    return x if x.dtype == torch.float64 else x.float()
