"""Expert parallelism: rows travel to the workers that hold their experts, and back (GShard, arXiv 2006.16668)."""

from typing import Any, List, NamedTuple, Tuple, Union

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .dispatch import Layout

# R rows, D model dim, E experts, W workers, L = E / W experts per worker, S slots per expert


class SlotsTicket(NamedTuple):
    """How rows in slots travelled: every pair of workers swaps the same number of rows, known beforehand."""

    group: Any  # process group
    experts: int  # E
    slots: int  # per expert, here
    agreed: int  # per expert, the most that any worker has; the others fill up with zeros

    def out(self, rows_RD: Tensor) -> Tensor:
        """Rows of all experts here -> rows from all workers for the experts here, expert by expert."""
        dim = rows_RD.size(1)
        rows_ESD = rows_RD.view(self.experts, self.slots, dim)
        if self.agreed > self.slots:
            rows_ESD = nn.functional.pad(rows_ESD, (0, 0, 0, self.agreed - self.slots))
        received_WLSD = self._swap(rows_ESD).view(*self._grid(), self.agreed, dim)
        return received_WLSD.transpose(0, 1).reshape(-1, dim)

    def home(self, rows_RD: Tensor) -> Tensor:
        """The way back: the inverse of `out`, and as every row goes to one place its transpose too."""
        (workers, local), dim = self._grid(), rows_RD.size(1)
        rows_LWSD = rows_RD.view(local, workers, self.agreed, dim)
        received_ESD = self._swap(rows_LWSD.transpose(0, 1)).view(self.experts, self.agreed, dim)
        return received_ESD[:, : self.slots].reshape(-1, dim)

    def _grid(self) -> Tuple[int, int]:
        workers = dist.get_world_size(self.group)
        return workers, self.experts // workers

    def _swap(self, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        received = torch.empty_like(rows)
        dist.all_to_all_single(received, rows, group=self.group)
        return received


class CompactTicket(NamedTuple):
    """How rows without gaps travelled: each pair of workers swaps as many as the routing says."""

    group: Any  # process group
    rows: int  # R here, trailing fillers included
    sent: List[int]  # rows to each worker
    received: List[int]  # rows from each worker
    order_R: Tensor  # received rows in the order of the experts here
    place_R: Tensor  # the inverse of order_R

    def out(self, rows_RD: Tensor) -> Tensor:
        """Rows of all experts here -> rows from all workers for the experts here, expert by expert."""
        return self._swap(rows_RD[: sum(self.sent)], self.sent, self.received).index_select(0, self.order_R)

    def home(self, rows_RD: Tensor) -> Tensor:
        """The way back: the inverse of `out`, and as every row goes to one place its transpose too; fillers get 0."""
        rows_RD = self._swap(rows_RD.index_select(0, self.place_R), self.received, self.sent)
        return nn.functional.pad(rows_RD, (0, 0, 0, self.rows - len(rows_RD)))

    def _swap(self, rows_RD: Tensor, to: List[int], come: List[int]) -> Tensor:
        received_RD = rows_RD.new_empty(sum(come), rows_RD.size(1))
        dist.all_to_all_single(received_RD, rows_RD.contiguous(), come, to, group=self.group)
        return received_RD


Ticket = Union[SlotsTicket, CompactTicket]


class Exchange:
    """The step between dispatch and experts when worker w of W holds the experts [w E/W, (w+1) E/W).

    All workers must call it equally often and in the same order, in the forward pass and so in the backward pass.

    Args:
        group: process group of the W workers; rows travel in it.
        host_group: a group of the same workers that exchanges CPU tensors (gloo). With it workers agree on the number
            of slots without stopping a GPU; None uses `group`.
    """

    def __init__(self, group: Any, host_group: Any = None):
        self.group = group
        self.host_group = host_group
        self.workers = dist.get_world_size(group)
        self.worker = dist.get_rank(group)

    def __deepcopy__(self, memo: Any) -> "Exchange":
        """A copied model (moving average) uses the same process group, which cannot be copied."""
        return self

    def held(self, experts: int) -> range:
        """Global numbers of the experts that this worker holds.

        Raises:
            ValueError: the experts cannot be spread evenly.
        """
        if experts % self.workers:
            raise ValueError(f"{experts} experts cannot be spread evenly over {self.workers} workers")
        local = experts // self.workers
        return range(self.worker * local, (self.worker + 1) * local)

    def own(self, experts: nn.Module) -> None:
        """Mark parameters as this worker's own, and scale their gradients as data-parallel training expects.

        `expert = True` is fairseq's mark: the legacy back-end does not average such gradients. They are sums over the
        tokens of all workers already, where an averaged gradient is the sum divided by W; training multiplies by W
        afterwards. The hook divides what each backward pass adds, so accumulated gradients are divided once.
        """
        for parameter in experts.parameters():
            parameter.expert = True  # type: ignore[attr-defined]
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient / self.workers)

    def to_experts(self, rows_RD: Tensor, layout: Layout) -> Tuple[Tensor, Layout, Ticket]:
        """Send every row to the worker that holds its expert.

        Args:
            rows_RD: rows of this worker, laid out over all E experts.
            layout: in slots, nothing is read back from the device if there is a `host_group`; without slots the
                numbers of rows are read back once.

        Returns:
            the rows received, laid out over the E/W experts here, their layout, and the ticket for the way back.
        """
        ticket: Ticket
        if layout.slots is None:
            ticket, here = self._count(rows_RD, layout)
        else:
            experts = len(layout.ends_E)
            ticket = SlotsTicket(self.group, experts, layout.slots, self._most(layout.slots, rows_RD.device))
            held = self.workers * ticket.agreed  # fillers of other workers lie between the rows: all count as rows
            ends_L = held * torch.arange(1, len(self.held(experts)) + 1, device=rows_RD.device)
            here = Layout(ends_L.int(), held)
        return _Move.apply(rows_RD, ticket, True), here, ticket

    def from_experts(self, rows_RD: Tensor, ticket: Ticket) -> Tensor:
        """Send the results back: row i of the result is what became of row i given to `to_experts`."""
        return _Move.apply(rows_RD, ticket, False)

    def _most(self, slots: int, device: torch.device) -> int:
        """The largest number of slots of any worker: batches of different sizes have different numbers."""
        most = torch.tensor([slots], device=device if self.host_group is None else "cpu")
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.group if self.host_group is None else self.host_group)
        return int(most)

    def _count(self, rows_RD: Tensor, layout: Layout) -> Tuple[CompactTicket, Layout]:
        experts = len(layout.ends_E)
        local = len(self.held(experts))
        sent_E = layout.ends_E.diff(prepend=layout.ends_E.new_zeros(1)).long()
        received_E = torch.empty_like(sent_E)  # from worker 0 for all experts here, from worker 1, ...
        dist.all_to_all_single(received_E, sent_E, group=self.group)
        sums = torch.stack([sent_E, received_E]).view(2, self.workers, local).sum(dim=2)
        sent, received = sums.tolist()  # the one time that the host waits for the device
        expert_R = torch.arange(local, device=rows_RD.device).repeat(self.workers)
        expert_R = expert_R.repeat_interleave(received_E, output_size=sum(received))
        order_R = expert_R.argsort(stable=True)
        place_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
        ends_L = received_E.view(self.workers, local).sum(dim=0).cumsum(0)
        return CompactTicket(self.group, len(rows_RD), sent, received, order_R, place_R), Layout(ends_L.int())


class _Move(Function):
    """Rows out, gradients home; or rows home, gradients out."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, ticket: Ticket, outward: bool) -> Tensor:
        ctx.ticket, ctx.outward = ticket, outward
        return ticket.out(rows_RD) if outward else ticket.home(rows_RD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> Tuple[Tensor, None, None]:
        return (ctx.ticket.home(grad_RD) if ctx.outward else ctx.ticket.out(grad_RD)), None, None
