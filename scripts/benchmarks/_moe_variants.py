"""What the MoE benchmark measures: the dense limit, this package, torchscale 0.3.0, and the bare memory traffic.

All are given the same routing: the router's scores are an input, and each variant's own code goes on from there. Only
the classes that measure this package import it, because torchscale lives in an environment of its own.
"""

import math
import sys
import types
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from _turns import Variant
from torch import Tensor, nn
from torch.nn import functional as F

# N tokens, D model dim, H hidden dim, E experts, K chosen experts, B batch, T length
BALANCE_WEIGHT = 0.01
LENGTH = 64  # of the sentences that the tokens come in
REPOSITORY = Path(__file__).resolve().parents[2]


class Case(NamedTuple):
    """One line of the table."""

    tokens: int
    experts: int
    top_k: int = 1
    load: float = 1.0  # choices of the busiest expert over the mean
    capacity_factor: float = 1.0  # 0 = dropless
    training: bool = True  # forward and backward; False: evaluation
    threads: int = 1
    dim: int = 512
    hidden_dim: int = 2048


def assignment(case: Case) -> Tensor:
    """Which experts every token chooses, (N, K) long: loads rise evenly from (2 - load) to load times the mean."""
    choices = case.tokens * case.top_k
    share_E = torch.linspace(2 - case.load, case.load, case.experts, dtype=torch.float64)
    ends_E = (share_E.cumsum(0) / share_E.sum() * choices).round().long()
    expert_C = torch.searchsorted(ends_E, torch.arange(choices), right=True)
    generator = torch.Generator().manual_seed(1)
    expert_NK = expert_C.view(case.top_k, case.tokens).t()[torch.randperm(case.tokens, generator=generator)]
    turned_N = torch.rand(case.tokens, generator=generator) < 0.5
    return torch.where(turned_N[:, None], expert_NK.flip(1), expert_NK)


def kept(expert_NK: Tensor, case: Case) -> Tensor:
    """Which choices have room, (N, K) bool, token by token: first choices of all tokens go before second ones."""
    tokens, choices = expert_NK.shape
    limit = math.ceil(case.capacity_factor * tokens * choices / case.experts) or tokens * choices
    taken, kept_NK = [0] * case.experts, torch.zeros(tokens, choices, dtype=torch.bool)
    for choice in range(choices):
        for token, expert in enumerate(expert_NK[:, choice].tolist()):
            kept_NK[token, choice] = taken[expert] < limit
            taken[expert] += 1
    return kept_NK


class Inputs:
    """What every variant of a case is given: tokens, the router's scores, the gradient of the output, weights."""

    def __init__(self, case: Case):
        self.case = case
        generator = torch.Generator().manual_seed(2)
        self.expert_NK = assignment(case)
        scores = 0.1 * torch.randn(case.tokens, case.experts, generator=generator)
        best = 1.0 + torch.arange(case.top_k, 0, -1).float().expand_as(self.expert_NK)
        self.score_NE = scores.scatter(1, self.expert_NK, best)
        shape = (case.tokens // LENGTH, LENGTH, case.dim) if case.tokens % LENGTH == 0 else (1, case.tokens, case.dim)
        self.x_BTD = on_grid(torch.randn(shape, generator=generator), 8)
        self.grad_BTD = torch.randn(shape, generator=generator)
        self.x_BTD.requires_grad_(case.training)
        self.score_NE.requires_grad_(case.training)

    @torch.no_grad()
    def fill(self, expert: int, fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor) -> None:
        """One expert's weights, the same in every process."""
        generator = torch.Generator().manual_seed(3 + expert)
        for weight in (fc1_weight, fc2_weight):
            weight.copy_(on_grid(torch.randn(weight.shape, generator=generator) * weight.size(1) ** -0.5, 256))
        for bias in (fc1_bias, fc2_bias):
            bias.copy_(on_grid(torch.randn(bias.shape, generator=generator) * 0.1, 256))


def on_grid(x: Tensor, steps: int) -> Tensor:
    """Rounded to 1/steps. Sums of products of such numbers are exact in float32, whatever their order: no ReLU of one
    variant is open where another's is shut, and what remains of a difference is an error."""
    return (x * steps).round() / steps


class GivenScores(nn.Module):
    """Stands where a router has its projection."""

    def __init__(self, inputs: Inputs):
        super().__init__()
        self.inputs = inputs

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.inputs.score_NE


class Layer(Variant):
    """A feed-forward under test: `run` computes (y, auxiliary loss or None)."""

    def __init__(self, case: Case):
        torch.set_num_threads(case.threads)
        self.case = case
        self.inputs = Inputs(case)

    def run(self) -> Tuple[Tensor, Optional[Tensor]]:
        raise NotImplementedError

    def parameters(self) -> List[nn.Parameter]:
        raise NotImplementedError

    def step(self) -> Tensor:
        """Forward and backward, or one evaluation; gradients start as None, as fairseq leaves them after an update."""
        self.release()
        if not self.case.training:
            with torch.no_grad():
                return self.run()[0]
        y, loss = self.run()
        outputs = [(y, self.inputs.grad_BTD.view(y.shape).to(y.dtype))]
        if loss is not None:
            outputs.append((loss, torch.full_like(loss, BALANCE_WEIGHT)))
        torch.autograd.backward(*zip(*outputs, strict=True))
        return y.detach()

    def release(self) -> None:
        """Forget all gradients."""
        for parameter in (self.inputs.x_BTD, self.inputs.score_NE, *self.parameters()):
            parameter.grad = None

    def save(self, path: str) -> None:
        """Output and gradients of one step, as a file. Weight gradients (E, O, I) as their product with one vector."""
        torch.save({"output": self.step().reshape(-1, self.case.dim), **self.gradients()}, path)

    def gradients(self) -> Dict[str, Tensor]:
        """By name: of the input, the scores, and every expert's weights."""
        if not self.case.training:
            return {}
        return {
            "input gradient": self.inputs.x_BTD.grad.view(-1, self.case.dim),
            "score gradient": self.inputs.score_NE.grad,
            **{f"{name} gradient": seen(grad) for name, grad in self.weight_gradients().items()},
        }

    def weight_gradients(self) -> Dict[str, Tensor]:
        raise NotImplementedError


def seen(grad: Tensor) -> Tensor:
    """A stack of matrices (E, O, I) times a fixed vector; anything smaller as it is."""
    return grad if grad.dim() < 3 else grad @ torch.linspace(-1, 1, grad.size(2)).to(grad)


class Dense(Layer):
    """One dense feed-forward on as many tokens as experts have choices: the limit."""

    def __init__(self, case: Case):
        rows = int(kept(assignment(case), case).sum())
        super().__init__(case._replace(tokens=rows, experts=1, top_k=1, load=1.0, capacity_factor=0.0))
        sys.path.insert(0, str(REPOSITORY))
        from fairseq_plugins.modules.feed_forward import FeedForward

        self.module = FeedForward(case.dim, case.hidden_dim, activation=F.relu).train(case.training)
        fc1, fc2 = self.module.fc1, self.module.fc2
        self.inputs.fill(0, fc1.weight, fc1.bias, fc2.weight, fc2.bias)

    def run(self) -> Tuple[Tensor, Optional[Tensor]]:
        return self.module(self.inputs.x_BTD)

    def parameters(self) -> List[nn.Parameter]:
        return list(self.module.parameters())


class Ours(Layer):
    """This package's MoE feed-forward.

    Args:
        case: what to compute.
        path: of `grouped_linear`; None leaves the choice to the layer.
    """

    def __init__(self, case: Case, path: Optional[str] = None):
        super().__init__(case)
        sys.path.insert(0, str(REPOSITORY))
        from fairseq_plugins.modules.moe import experts, grouped_linear, moe_feed_forward, router
        from fairseq_plugins.modules.residual import ResidualScheme

        class GivenRouter(GivenScores):
            def forward(self, x_ND: Tensor, alive_E: Optional[Tensor] = None) -> Any:
                return router.route(self.inputs.score_NE, self.inputs.score_NE, alive_E, case.top_k, "softmax")

        scheme = ResidualScheme(norm_first=True)
        stacked = experts.Experts(case.dim, case.hidden_dim, case.experts, activation=F.relu, scheme=scheme)
        self.module = moe_feed_forward.MoEFeedForward(
            GivenRouter(self.inputs), stacked, case.experts, capacity_factor=case.capacity_factor
        ).train(case.training)
        if path is not None:
            self.module._max_padding = lambda x_ND: math.inf if path == "bmm" else 0.0
            grouped_linear.choose_path = lambda x_RI, layout: path
        for expert in range(case.experts):
            self.inputs.fill(expert, *(parameter[expert] for parameter in self.parameters()))

    def run(self) -> Tuple[Tensor, Optional[Tensor]]:
        y_BTD, report = self.module(self.inputs.x_BTD)
        return y_BTD, report[:1]  # the balance loss

    def parameters(self) -> List[nn.Parameter]:
        sublayer = self.module.experts.sublayers[0]
        return [sublayer.fc1_weight, sublayer.fc1_bias, sublayer.fc2_weight, sublayer.fc2_bias]

    def weight_gradients(self) -> Dict[str, Tensor]:
        return dict(zip(WEIGHTS, (parameter.grad for parameter in self.parameters()), strict=True))


WEIGHTS = ("fc1 weight", "fc1 bias", "fc2 weight", "fc2 bias")


class Torchscale(Layer):
    """torchscale 0.3.0's MoE layer, with its own capacity in evaluation (a quarter of the tokens for every expert).

    On a CPU it needs a process group although it is alone, and `torch.histc` to take whole numbers. Its top-2 gate
    draws the second expert by default; here it takes the second best and renormalises before it drops, as its X-MoE.
    """

    def __init__(self, case: Case):
        super().__init__(case)
        histc = torch.histc
        torch.histc = lambda x, **bins: histc(x.float(), **bins)
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        from torchscale.component.feedforward_network import FeedForwardNetwork
        from torchscale.component.xmoe.moe_layer import MOELayer
        from torchscale.component.xmoe.routing import Top1Gate, Top2Gate

        if case.top_k == 1:
            gate = Top1Gate(case.dim, case.experts, capacity_factor=case.capacity_factor)
        else:
            gate = Top2Gate(
                case.dim, case.experts, second_expert_policy="all", normalize_gate_prob_before_dropping=True
            )
        gate.wg = GivenScores(self.inputs)
        experts = nn.ModuleList(
            FeedForwardNetwork(case.dim, case.hidden_dim, "relu", 0.0, 0.0, 1e-5) for _ in range(case.experts)
        )
        for number, expert in enumerate(experts):
            self.inputs.fill(number, expert.fc1.weight, expert.fc1.bias, expert.fc2.weight, expert.fc2.bias)
        options = types.SimpleNamespace(moe_expert_count=case.experts)
        self.module = MOELayer(gate, experts, options).train(case.training)

    def run(self) -> Tuple[Tensor, Optional[Tensor]]:
        return self.module(self.inputs.x_BTD)

    def parameters(self) -> List[nn.Parameter]:
        return list(self.module.experts.parameters())

    def weight_gradients(self) -> Dict[str, Tensor]:
        parts = [[p.grad for p in expert.parameters()] for expert in self.module.experts]
        return {name: torch.stack(grads) for name, grads in zip(WEIGHTS, zip(*parts, strict=True), strict=True)}


class Traffic(Variant):
    """No arithmetic: read all expert weights twice and write gradients of their size once, into memory that is new.

    Forward and the input's gradient read every weight, the weight's gradient is written: no layer can avoid that.

    Args:
        case: what would be computed.
        pages: `large`, as this package asks for them, or `small`, as memory usually comes.
    """

    def __init__(self, case: Case, pages: str):
        torch.set_num_threads(case.threads)
        sys.path.insert(0, str(REPOSITORY))
        from fairseq_plugins.modules.large_pages import new_empty

        self.new = new_empty if pages == "large" else torch.Tensor.new_empty
        shape = (case.experts, case.hidden_dim, case.dim)
        self.weights = [torch.ones(shape), torch.ones(shape)]

    def step(self) -> None:
        """Results are freed at once."""
        for weight in self.weights:
            weight.sum()
            weight.sum()
            self.new(weight, *weight.shape).fill_(1.0)


class Reference(Layer):
    """The definition, in float64: capacity token by token, every expert by itself; nothing sorted, nothing stacked."""

    def __init__(self, case: Case):
        super().__init__(case)
        D, H = case.dim, case.hidden_dim
        shapes = [(H, D), (H,), (D, H), (D,)]
        self.experts = [[torch.empty(shape) for shape in shapes] for _ in range(case.experts)]
        for number, expert in enumerate(self.experts):
            self.inputs.fill(number, *expert)
        self.experts = [[w.double().requires_grad_(case.training) for w in expert] for expert in self.experts]

    def run(self) -> Tuple[Tensor, Optional[Tensor]]:
        case, inputs = self.case, self.inputs
        x_ND = inputs.x_BTD.double().view(-1, case.dim)
        probs_NE = inputs.score_NE.double().softmax(dim=1)
        gate_NK = probs_NE.gather(1, inputs.expert_NK)
        if case.top_k > 1:
            gate_NK = gate_NK / gate_NK.sum(dim=1, keepdim=True)
        kept_NK = kept(inputs.expert_NK, case)
        y_ND = torch.zeros_like(x_ND)
        for number, (fc1_weight, fc1_bias, fc2_weight, fc2_bias) in enumerate(self.experts):
            token, choice = (kept_NK & (inputs.expert_NK == number)).nonzero(as_tuple=True)
            hidden = F.relu(F.linear(x_ND[token], fc1_weight, fc1_bias))
            out = F.linear(hidden, fc2_weight, fc2_bias)
            y_ND = y_ND.index_add(0, token, gate_NK[token, choice, None] * out)
        share_E = torch.bincount(inputs.expert_NK[:, 0], minlength=case.experts) / case.tokens
        return y_ND, case.experts * (share_E * probs_NE.mean(dim=0)).sum()

    def parameters(self) -> List[Tensor]:
        return [weight for expert in self.experts for weight in expert]

    def weight_gradients(self) -> Dict[str, Tensor]:
        parts = zip(*self.experts, strict=True)
        return {name: torch.stack([w.grad for w in part]) for name, part in zip(WEIGHTS, parts, strict=True)}


def make(variant: str, **case: Any) -> Variant:
    """The variant of that name: a class of this file in small letters, and what else it is given, as in `ours bmm`."""
    name, *more = variant.split()
    classes = {"dense": Dense, "ours": Ours, "reference": Reference, "torchscale": Torchscale, "traffic": Traffic}
    return classes[name](Case(**case), *more)
