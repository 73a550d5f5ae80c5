"""One rank of an expert-parallel computation, and the same computation on one rank. Run as a program by the tests.

    python -m tests.distributed.expert_jobs RANK RANKS MEETING_FILE RESULT_FILE
"""

import sys
from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Function

from fairseq_plugins.modules.moe.dispatch import Layout
from fairseq_plugins.modules.moe.expert_parallel import Exchange
from fairseq_plugins.modules.moe.experts import Experts
from fairseq_plugins.modules.moe.moe_feed_forward import MoEFeedForward
from fairseq_plugins.modules.moe.router import CosineRouter, LinearRouter
from fairseq_plugins.modules.moe.router_losses import RouterReport
from fairseq_plugins.modules.residual import residual_schemes

DIM, HIDDEN, EXPERTS, MICRO_BATCHES = 6, 10, 8, 2

# name -> router, its arguments, experts per token, sublayers with residuals of their own, clusters, rows in slots
CASES: Dict[str, Tuple[type, Dict[str, Any], int, int, int, bool]] = {
    "linear, top 1": (LinearRouter, {}, 1, 0, 1, False),
    "linear, top 2": (LinearRouter, {}, 2, 0, 1, False),
    "cosine, top 1, deep experts": (CosineRouter, {"gate": "sigmoid"}, 1, 2, 1, False),
    "cosine, top 2, clusters": (CosineRouter, {}, 2, 0, 2, False),
    "linear, top 1, slots": (LinearRouter, {}, 1, 0, 1, True),
    "cosine, top 2, deep experts, slots": (CosineRouter, {}, 2, 2, 2, True),
}


def build(case: str, exchange: Any, total: Any) -> MoEFeedForward:
    """The layer of a case, in float64, as `models/_build_moe.py` puts it together."""
    router, arguments, top_k, sublayers, clusters, slots = CASES[case]
    torch.manual_seed(list(CASES).index(case))
    scheme = residual_schemes("subln", 2, 0).encoder
    experts = Experts(
        DIM,
        HIDDEN,
        EXPERTS,
        activation=torch.tanh,
        scheme=scheme,
        sublayers=max(1, sublayers),
        own_residual=sublayers > 0,
        local=None if exchange is None else exchange.held(EXPERTS),
    )
    if exchange is not None:
        exchange.own(experts)
    layer = MoEFeedForward(
        router(DIM, EXPERTS, top_k=top_k, **arguments),
        experts,
        EXPERTS,
        own_residual=sublayers > 0,
        capacity_factor=EXPERTS if slots else 0,  # room for all: one rank would drop others than two
        clusters=clusters,
        exchange=exchange,
        sum_over_workers=total,
    ).double()
    layer._max_padding = lambda _: 99.0 if slots else 0.0  # type: ignore[method-assign]
    return layer.train()


def batches_of(rank: int) -> List[Tuple[Tensor, Tensor, Tensor]]:
    """Tokens (1, N, D), padding (1, N), and what a loss makes of the outputs (1, N, D); N differs between ranks."""
    generator = torch.Generator().manual_seed(100 + rank)
    tokens = 9 + 4 * rank
    made = []
    for _ in range(MICRO_BATCHES):
        x, weight = torch.randn(2, 1, tokens, DIM, generator=generator, dtype=torch.float64)
        made.append((x, torch.rand(1, tokens, generator=generator) < 0.2, weight))
    return made


def train(layer: MoEFeedForward, batches: List[Tuple[Tensor, Tensor, Tensor]]) -> Dict[str, Any]:
    """Gradients added up over micro-batches; outputs, losses and the gradients of the tokens of each."""
    outputs, losses, token_gradients = [], [], []
    for x, padding, weight in batches:
        x = x.clone().requires_grad_()
        y, report = layer(x, padding)
        routed = RouterReport.unpack(report)
        loss = (y * weight).sum() + 3.0 * routed.balance + 0.01 * routed.cluster
        loss.backward()
        outputs.append(y.detach())
        losses.append(loss.detach())
        token_gradients.append(x.grad)
    return {"outputs": outputs, "losses": losses, "tokens": token_gradients}


def as_trained(layer: nn.Module, ranks: int) -> Dict[str, Tensor]:
    """Gradients as the optimiser gets them: the back-end averages all without mark, the trainer multiplies all by W."""
    for parameter in layer.parameters():
        if not hasattr(parameter, "expert"):
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks
        parameter.grad *= ranks
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


def clipped(layer: nn.Module, max_norm: float) -> Tuple[Tensor, Dict[str, Tensor]]:
    """The norm that fairseq's optimisers get, and the gradients afterwards, in float32: the engine knows no float64."""
    from fairseq import utils

    copies = {}
    for name, parameter in layer.named_parameters():
        copies[name] = nn.Parameter(parameter.detach().float())
        copies[name].grad = parameter.grad.float()
        if hasattr(parameter, "expert"):
            copies[name].expert = True
    norm = utils.clip_grad_norm_(copies.values(), max_norm)
    return norm, {name: parameter.grad for name, parameter in copies.items()}


class Mine(Function):
    """This rank's part of a tensor that is the same on all ranks; the gradient is put together again."""

    @staticmethod
    def forward(ctx, whole, sizes):
        ctx.sizes = sizes
        return whole.split(sizes)[dist.get_rank()].clone()

    @staticmethod
    def backward(ctx, gradient):
        return gathered(gradient, ctx.sizes), None


class Everyones(Function):
    """All ranks' parts, the same on all ranks."""

    @staticmethod
    def forward(ctx, part, sizes):
        ctx.sizes = sizes
        return gathered(part, sizes)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.split(ctx.sizes)[dist.get_rank()].contiguous(), None


def gathered(part: Tensor, sizes: List[int]) -> Tensor:
    """Parts of unequal size, concatenated: the sum of all ranks' paddings."""
    whole = part.new_zeros(sum(sizes), part.size(1))
    whole.split(sizes)[dist.get_rank()].copy_(part)
    dist.all_reduce(whole)
    return whole


def check_gradients(exchange: Exchange, slots: bool) -> bool:
    """`gradcheck` of out and home with something nonlinear between, as one function of the rows of all ranks.

    Every rank computes the function of the same numbers, so that all of them take the same steps of finite differences.
    """
    rank, ranks, experts = dist.get_rank(), dist.get_world_size(), 4
    count_E = torch.randint(0, 3, (experts,), generator=torch.Generator().manual_seed(rank))
    size = 1 + rank % 2
    layout = Layout(count_E.cumsum(0).int(), size if slots else None)
    rows = torch.tensor([experts * size if slots else int(count_E.sum()) + rank])  # with fillers at the end
    sizes = [torch.zeros_like(rows) for _ in range(ranks)]
    dist.all_gather(sizes, rows)
    sizes = [int(size) for size in sizes]

    def function(whole: Tensor) -> Tensor:
        sent, here, ticket = exchange.to_experts(Mine.apply(whole, sizes), layout)
        scale = torch.arange(1, len(sent) + 1, dtype=sent.dtype)[:, None]
        return Everyones.apply(exchange.from_experts((scale * sent).sin(), ticket), sizes)

    whole = torch.randn(sum(sizes), 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return torch.autograd.gradcheck(function, whole.requires_grad_())


def main(rank: int, ranks: int, meeting: str, result: str) -> None:
    """Everything that the tests look at, of one rank."""
    import fairseq_plugins

    fairseq_plugins.register()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    exchange = Exchange(dist.group.WORLD)

    def total(x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    found: Dict[str, Any] = {}
    for case in CASES:
        layer = build(case, exchange, total)
        found[case] = train(layer, batches_of(rank))
        found[case]["parameters"] = as_trained(layer, ranks)
        found[case]["norm"], found[case]["clipped"] = clipped(layer, 0.5)
    found["gradcheck"] = [check_gradients(exchange, slots) for slots in (False, True)]
    torch.save(found, result)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
