"""The MoE feed-forward: router, dispatch and experts in the place of a dense feed-forward."""

from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor, nn

from .clusters import cluster_variance, surviving_experts
from .dispatch import combine, dispatch, gather_tokens
from .experts import Experts
from .grouped_linear import grouped_product_is_native
from .pruning import LayerPruning
from .router import CosineRouter, Routing
from .router_losses import RouterReport, balance_loss, load_entropy

# B batch, T length, N = B * T tokens, D model dim, E experts, K chosen experts, A living experts
OVERFLOWS = ("zero", "input")


class MoEFeedForward(nn.Module):
    """A sparse feed-forward (Switch, arXiv 2101.03961; X-MoE, arXiv 2204.09179; MoEC, arXiv 2207.09094).

    The contract is that of every feed-forward slot; the auxiliary loss is a packed `RouterReport`. Only this class
    knows router, dispatch and experts together. Padding is never routed: it gets 0, or with `own_residual` its input.

    Args:
        router: module from tokens (N, D) and living experts to `Routing`.
        experts: module from rows (R, D) and their layout to (R, D).
        count: number of experts E in the model.
        own_residual: returns x + sum_k g_k (E_k(x) - x) instead of sum_k g_k E_k(x); for experts that have a residual
            stream of their own.
        capacity_factor: slots per expert over mean choices per expert in training; 0 = dropless.
        eval_capacity_factor: the same in evaluation.
        overflow: what a token gets whose choices were all dropped: `zero` or its `input`. With `own_residual` both
            leave the token as it is.
        clusters: number of contiguous expert clusters; 1 = none.
        cluster_variance_type: 0, 1 or 2, see `cluster_variance`.
        variance_tokens: reference number of tokens T of the variance term, E * T * Var(mean probability); 0 takes the
            number of tokens of one worker's batch, as the released code does.
        cluster_dropout: share of every cluster that is out of training for a while.
        cluster_dropout_interval: number of updates after which another share is drawn.
        seed: of those draws; equal on all workers.
        exchange: moves rows to the workers that hold their experts and back; None where all experts are here.
        sum_over_workers: adds a tensor up over the workers that train together; None on one.
        pruning: a `LayerPruning`, which scores the experts and lets them go; None keeps them all.
    """

    alive: Tensor
    surviving: Tensor

    def __init__(
        self,
        router: nn.Module,
        experts: Experts,
        count: int,
        *,
        own_residual: bool = False,
        capacity_factor: float = 0.0,
        eval_capacity_factor: float = 0.0,
        overflow: str = "zero",
        clusters: int = 1,
        cluster_variance_type: int = 1,
        variance_tokens: float = 4096.0,
        cluster_dropout: float = 0.0,
        cluster_dropout_interval: int = 1,
        seed: int = 0,
        exchange: Any = None,
        sum_over_workers: Optional[Callable[[Tensor], Tensor]] = None,
        pruning: Optional[LayerPruning] = None,
    ):
        super().__init__()
        self.router = router
        self.experts = experts
        self.count = count
        self.own_residual = own_residual
        self.capacity_factor = capacity_factor
        self.eval_capacity_factor = eval_capacity_factor
        self.overflow = overflow
        self.clusters = clusters
        self.cluster_variance_type = cluster_variance_type
        self.variance_tokens = variance_tokens
        self.cluster_dropout = cluster_dropout
        self.cluster_dropout_interval = cluster_dropout_interval
        self.seed = seed
        self.exchange = exchange
        self.sum_over_workers = sum_over_workers
        self.pruning = pruning
        self.gate_one = False  # set by expert pruning: the last expert is used unweighted
        self.register_buffer("alive", torch.ones(count, dtype=torch.bool))  # False for experts that were pruned
        self.register_buffer("surviving", torch.ones(count, dtype=torch.bool), persistent=False)
        self._living_A: Optional[Tensor] = None  # numbers of the experts that training may use; None = all
        self._living = self._alive = count  # how many training and evaluation may use
        self._updates = self._drawn = -1
        self.register_load_state_dict_post_hook(lambda module, _: module._after_loading())

    def forward(self, x_BTD: Tensor, padding_BT: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Returns (B, T, D) and a packed `RouterReport`."""
        x_ND = x_BTD.reshape(-1, x_BTD.size(-1))
        routed_N = x_ND.new_ones(len(x_ND), dtype=torch.bool) if padding_BT is None else ~padding_BT.reshape(-1)
        if self.training and self.pruning is not None and self.pruning.decide(self.alive):
            self._refresh()
        alive_E = self.alive & self.surviving if self.training else self.alive
        routing = self.router(x_ND, alive_E)
        if self.gate_one:
            # in the graph still: data-parallel training misses gradients of what was left out
            routing = routing._replace(weight_NK=1 + 0 * routing.weight_NK)
        living_NK = routed_N[:, None] & alive_E[routing.expert_NK]
        factor = self.capacity_factor if self.training else self.eval_capacity_factor
        where, load_E = dispatch(
            routing.expert_NK, living_NK, self.count, capacity_factor=factor, max_padding=self._max_padding(x_ND)
        )
        y_ND = self._compute(x_ND, routing, where)
        dropped_NK = living_NK & (where.row_NK == len(where.token_R))
        if self.own_residual:
            y_ND = x_ND + y_ND
        elif self.overflow == "input":
            lost_N = routed_N & ~(living_NK & ~dropped_NK).any(dim=1)
            y_ND = torch.where(lost_N[:, None], x_ND.to(y_ND.dtype), y_ND)
        report = self._report(routing, routed_N, living_NK, dropped_NK, load_E)
        return y_ND.view(x_BTD.shape), report.pack()

    def observe(self, report: Tensor) -> None:
        """Called once per training pass with the packed report, outside recomputation; expert pruning counts here."""
        if self.pruning is not None:
            whole = RouterReport.unpack(report)
            self.pruning.observe(whole.load_E, whole.gate_sum_E)

    def set_num_updates(self, updates: int) -> None:
        """fairseq says how many updates are done, before every forward in training: what follows an update is here."""
        if updates == self._updates:
            return
        self._updates = updates
        if isinstance(self.router, CosineRouter) and self.router.expert_embedding.requires_grad:
            self.router.project_embeddings()
        if self.cluster_dropout:
            draw = updates // self.cluster_dropout_interval
            if draw != self._drawn:
                self._drawn = draw
                seed = self.seed + 1_000_003 * draw
                self.surviving.copy_(surviving_experts(self.count, self.clusters, self.cluster_dropout, seed))
                self._refresh()

    def _after_loading(self) -> None:
        # fairseq says the number before it loads, too: what follows an update must follow again
        self._updates = self._drawn = -1
        self._refresh()

    def _refresh(self) -> None:
        """Note the living experts' numbers; they change seldom, and asking the device each time would stop it."""
        self.gate_one = self.pruning is not None and bool(self.pruning.gate_is_one)
        if not (self.alive & self.surviving).any():  # an earlier training pruned all that cluster dropout leaves here
            self.surviving.fill_(True)
        living_A = (self.alive & self.surviving).nonzero().view(-1)
        self._living_A = None if len(living_A) == self.count else living_A
        self._living, self._alive = len(living_A), int(self.alive.sum())

    def _max_padding(self, x_ND: Tensor) -> float:
        """Equal blocks of rows where shapes must be known beforehand (GPU) or many products mean barriers (threads)."""
        if x_ND.device.type == "cuda":
            return 1.3 if grouped_product_is_native(x_ND) else 2.0
        # Rows on the CPU decide by their own load, which workers that exchange rows may not: they must do the same.
        return 1.3 if torch.get_num_threads() > 1 and self.exchange is None else 0.0

    def _compute(self, x_ND: Tensor, routing: Routing, where: Any) -> Tensor:
        rows_RD = gather_tokens(x_ND, where)
        if self.exchange is None:
            out_RD = self.experts(rows_RD, where.layout)
        else:
            sent_RD, layout, ticket = self.exchange.to_experts(rows_RD, where.layout)
            out_RD = self.exchange.from_experts(self.experts(sent_RD, layout), ticket)
        return combine(out_RD - rows_RD if self.own_residual else out_RD, routing.weight_NK, where)

    def _report(
        self, routing: Routing, routed_N: Tensor, living_NK: Tensor, dropped_NK: Tensor, load_E: Tensor
    ) -> RouterReport:
        weight_N1 = routed_N[:, None].to(routing.probs_NE.dtype)
        prob_sum_E = (routing.probs_NE * weight_N1).sum(dim=0)
        first_E = torch.zeros_like(prob_sum_E).scatter_add_(0, routing.expert_NK[:, 0], weight_N1[:, 0])
        here = weight_N1.sum()
        tokens, all_sum_E, all_load_E, workers = here, prob_sum_E, load_E, here.new_ones(())
        sum_over_workers = self.sum_over_workers if self.training else None
        if sum_over_workers is not None:
            counts = torch.stack([here, torch.ones_like(here)])
            parts = torch.cat([first_E, prob_sum_E.detach(), load_E.to(first_E.dtype), counts])
            first_E, total_sum_E, all_load_E, counts = sum_over_workers(parts).split([self.count] * 3 + [2])
            tokens, workers = counts.unbind()
            all_sum_E = prob_sum_E + (total_sum_E - prob_sum_E.detach())  # only our own part has a gradient
        tokens = tokens.clamp(min=1)
        living_A = self._living_A if self.training or not self.cluster_dropout else None
        living = self._living if self.training else self._alive
        balance = balance_loss(first_E / tokens, prob_sum_E / tokens, living)
        cluster = prob_sum_E.new_zeros(())
        if self.clusters > 1:
            mean_A = all_sum_E / tokens if living_A is None else (all_sum_E / tokens)[living_A]
            spread = cluster_variance(mean_A, self.clusters, self.cluster_variance_type)
            cluster = living * (self.variance_tokens or tokens / workers) * spread
            if sum_over_workers is not None:  # each has the gradient of its tokens and reports its share of the value
                cluster = cluster + (here / tokens - 1) * cluster.detach()
        with torch.no_grad():
            gates_NK = routing.weight_NK * living_NK
            gate_sum_E = torch.zeros_like(prob_sum_E).scatter_add_(
                0, routing.expert_NK.reshape(-1), gates_NK.reshape(-1).to(prob_sum_E.dtype)
            )
            router = self.router
            temperature = router.effective_temperature() if isinstance(router, CosineRouter) else torch.ones_like(here)
            return RouterReport(
                balance=balance,
                cluster=cluster,
                dropped=dropped_NK.sum() / load_E.sum().clamp(min=1),
                load_max=all_load_E.max() * living / all_load_E.sum().clamp(min=1),
                load_entropy=load_entropy(all_load_E),
                gate=gates_NK[:, 0].sum() / here.clamp(min=1),
                temperature=temperature,
                load_E=load_E,
                gate_sum_E=gate_sum_E,
            )
