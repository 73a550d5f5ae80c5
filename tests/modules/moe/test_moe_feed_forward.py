import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from fairseq_plugins.modules.feed_forward import FeedForward
from fairseq_plugins.modules.moe.experts import Experts
from fairseq_plugins.modules.moe.moe_feed_forward import MoEFeedForward
from fairseq_plugins.modules.moe.router import CosineRouter, LinearRouter, Routing
from fairseq_plugins.modules.moe.router_losses import RouterReport
from fairseq_plugins.modules.residual import residual_schemes
from tests.modules.moe.reference import moe_output

PADDING = torch.tensor([[False] * 5, [False, False, False, True, True], [False] * 5])


def build(experts=4, residual="post", own_residual=False, top_k=1, **options):
    torch.manual_seed(3)
    return MoEFeedForward(
        CosineRouter(8, experts, top_k=top_k),
        Experts(
            8,
            12,
            experts,
            activation=F.gelu,
            scheme=residual_schemes(residual, 3, 0).encoder,
            sublayers=2 if own_residual else 1,
            own_residual=own_residual,
        ),
        experts,
        own_residual=own_residual,
        **options,
    ).double()


class FixedRouter(torch.nn.Module):
    """Sends tokens where it is told, with gate 1."""

    def __init__(self, expert_N, experts):
        super().__init__()
        self.expert_N, self.experts = torch.tensor(expert_N), experts

    def forward(self, x_ND, alive_E=None):
        probs_NE = F.one_hot(self.expert_N, self.experts).to(x_ND.dtype)
        return Routing(self.expert_N[:, None], torch.ones(len(x_ND), 1, dtype=x_ND.dtype), probs_NE)


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("capacity_factor", [0, 0.7])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("residual, own", [("post", False), ("subln", False), ("deepnorm", True), ("subln", True)])
def test_output_loss_and_gradients_equal_the_reference(residual, own, top_k, capacity_factor, slots, monkeypatch):
    moe = build(residual=residual, own_residual=own, top_k=top_k, capacity_factor=capacity_factor).train()
    monkeypatch.setattr(moe, "_max_padding", lambda _: 9.0 if slots else 0.0)
    for parameter in moe.parameters():  # biases and norms must matter
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    x_BTD = torch.randn(3, 5, 8, dtype=torch.double, requires_grad=True)
    weights = torch.randn_like(x_BTD)
    y_BTD, report = moe(x_BTD, PADDING)
    balance = RouterReport.unpack(report).balance
    inputs = [x_BTD, *moe.parameters()]
    gradients = torch.autograd.grad((y_BTD * weights).sum() + balance, inputs)

    x_ND, routed_N = x_BTD.reshape(-1, 8), ~PADDING.view(-1)
    routing = moe.router(x_ND, moe.alive)
    y_ND = moe_output(moe, routing, x_ND, routed_N, capacity_factor)
    share = torch.bincount(routing.expert_NK[routed_N, 0], minlength=4).double() / 13
    expected_balance = 4 * (share * routing.probs_NE[routed_N].mean(dim=0)).sum()
    assert_close(y_BTD.view(-1, 8), y_ND)
    assert_close(balance, expected_balance)
    expected = torch.autograd.grad((y_ND * weights.view(-1, 8)).sum() + expected_balance, inputs)
    for got, wanted in zip(gradients, expected, strict=True):
        assert_close(got, wanted)


def test_gradcheck():
    moe = build(top_k=2, capacity_factor=0.8).train()
    x_BTD = torch.randn(1, 5, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: moe(x)[0], (x_BTD,))


@pytest.mark.parametrize("residual", ["post", "deepnorm", "subln"])
def test_one_expert_with_gate_one_is_the_dense_feed_forward(residual):
    scheme = residual_schemes(residual, 3, 0).encoder
    norm = torch.nn.LayerNorm(12) if scheme.inner_norm else None
    dense = FeedForward(8, 12, activation=F.gelu, gain=scheme.gain, inner_norm=norm).double()
    moe = build(experts=1, residual=residual)  # the softmax gate of a lone expert is 1
    sublayer = moe.experts.sublayers[0]
    with torch.no_grad():
        for name in ("fc1", "fc2"):
            getattr(sublayer, f"{name}_weight")[0] = getattr(dense, name).weight
            getattr(sublayer, f"{name}_bias")[0] = getattr(dense, name).bias.uniform_()
    x_BTD = torch.randn(2, 3, 8, dtype=torch.double)
    assert_close(moe(x_BTD)[0], dense(x_BTD)[0])


def test_capacity_without_effect_drops_nothing():
    moe = build(capacity_factor=4.0, top_k=1).train()  # 4 experts: even one that gets everything has room
    dropless = build(capacity_factor=0, top_k=1).train()
    x_BTD = torch.randn(3, 5, 8, dtype=torch.double)
    (y, report), (expected, _) = moe(x_BTD, PADDING), dropless(x_BTD, PADDING)
    assert torch.equal(y, expected)
    assert RouterReport.unpack(report).dropped == 0


def test_overflow_gets_zero_or_the_input_and_padding_gets_nothing():
    x_BTD = torch.randn(1, 5, 8, dtype=torch.double)
    padding = torch.tensor([[False, False, False, False, True]])
    for overflow in ("zero", "input"):
        moe = build(experts=2, capacity_factor=1.0, overflow=overflow).train()
        moe.router = FixedRouter([0, 0, 0, 1, 0], 2)  # room for 2 of each: the third token of expert 0 is too much
        y_BTD, vector = moe(x_BTD, padding)
        assert_close(y_BTD[0, 2], x_BTD[0, 2] if overflow == "input" else torch.zeros(8, dtype=torch.double))
        assert not y_BTD[0, 4].any() and y_BTD[0, [0, 1, 3]].ne(0).all()
        report = RouterReport.unpack(vector)
        assert report.dropped == pytest.approx(1 / 4)
        assert report.load_E.tolist() == [3, 1] and report.load_max == pytest.approx(1.5)
        assert report.load_entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
        assert report.gate == 1 and report.temperature == 1
        y_BTD, vector = moe.eval()(x_BTD, padding)  # dropless by default
        assert RouterReport.unpack(vector).dropped == 0 and y_BTD[0, :4].ne(0).all()


def test_a_token_in_an_own_residual_layer_that_finds_no_slot_stays_as_it_is():
    moe = build(experts=2, own_residual=True, capacity_factor=1.0).train()
    moe.router = FixedRouter([0, 0, 0, 1], 2)
    x_BTD = torch.randn(1, 4, 8, dtype=torch.double)
    y_BTD, _ = moe(x_BTD)
    assert torch.equal(y_BTD[0, 2], x_BTD[0, 2]) and not torch.equal(y_BTD[0, 1], x_BTD[0, 1])


def test_dropped_clusters_are_out_of_training_and_in_evaluation():
    moe = build(experts=8, clusters=2, cluster_dropout=0.5, cluster_dropout_interval=3).train()
    moe.router = LinearRouter(8, 8).double()
    x_BTD = torch.randn(1, 400, 8, dtype=torch.double)
    seen = []
    for update in range(12):
        moe.set_num_updates(update)
        report = RouterReport.unpack(moe(x_BTD)[1])
        used = report.load_E > 0
        assert torch.equal(used, moe.surviving) and int(used.sum()) == 4
        assert torch.equal(used[:4], used[4:])  # the same places in every cluster
        assert report.load_max <= 4
        seen.append(tuple(used.tolist()))
    assert all(len(set(seen[i : i + 3])) == 1 for i in range(0, 12, 3)) and len(set(seen)) > 1
    assert (RouterReport.unpack(moe.eval()(x_BTD)[1]).load_E > 0).all()
    resumed = build(experts=8, clusters=2, cluster_dropout=0.5, cluster_dropout_interval=3)
    resumed.set_num_updates(11)
    assert torch.equal(resumed.surviving, moe.surviving)  # a function of the update alone: any worker, any restart


def test_an_expert_that_pruning_left_alone_never_drops_out():
    """The checkpoint of a pruned model, trained on with cluster dropout."""
    moe = build(experts=8, clusters=2, cluster_dropout=0.5).train()
    state = moe.state_dict()
    state["alive"] = torch.arange(8) == 5
    moe.load_state_dict(state)
    x_BTD = torch.randn(1, 40, 8, dtype=torch.double)
    kept = []
    for update in range(8):
        moe.set_num_updates(update)
        y_BTD, report = moe(x_BTD)
        assert RouterReport.unpack(report).load_E.tolist() == [0, 0, 0, 0, 0, 40, 0, 0] and y_BTD.isfinite().all()
        kept.append(bool(moe.surviving.all()))
    assert any(kept) and not all(kept)  # some draws would have left nobody


def test_cluster_loss_by_hand_and_its_reference_size():
    expert_N = [0, 0, 0, 1, 2, 2, 3, 3]  # mean probabilities 3/8, 1/8 | 2/8, 2/8
    x_BTD = torch.randn(1, 8, 8, dtype=torch.double)
    inside = (2 * 0.125**2 + 0) / 2  # unbiased variances of the two clusters, and their mean
    for tokens, factor in ((4096, 4096), (0, 8)):
        moe = build(experts=4, clusters=2, cluster_variance_type=1, variance_tokens=tokens).train()
        moe.router = FixedRouter(expert_N, 4)
        assert RouterReport.unpack(moe(x_BTD)[1]).cluster == pytest.approx(4 * factor * inside)
    assert RouterReport.unpack(build(clusters=1)(x_BTD)[1]).cluster == 0


def test_embeddings_are_projected_after_each_update_and_not_when_frozen():
    moe = build()
    moe.set_num_updates(0)
    with torch.no_grad():
        moe.router.expert_embedding.mul_(7)
    moe.set_num_updates(0)  # the second micro-batch of an update
    assert moe.router.expert_embedding.detach().norm(dim=1)[0] == pytest.approx(0.7)
    moe.set_num_updates(1)
    assert_close(moe.router.expert_embedding.norm(dim=1), torch.full((4,), 0.1, dtype=torch.double))
    with torch.no_grad():
        moe.requires_grad_(False).router.expert_embedding.mul_(7)
    moe.set_num_updates(2)
    assert moe.router.expert_embedding.detach().norm(dim=1)[0] == pytest.approx(0.7)


def test_frozen_experts_still_balance_what_flows_in():
    moe = build().requires_grad_(False).train()
    x_BTD = torch.randn(1, 6, 8, dtype=torch.double, requires_grad=True)
    RouterReport.unpack(moe(x_BTD)[1]).balance.backward()
    assert x_BTD.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype):
    moe = build(top_k=2, capacity_factor=1.0).to(dtype).train()
    x_BTD = (100 * torch.randn(2, 6, 8)).to(dtype).requires_grad_()
    y_BTD, report = moe(x_BTD)
    assert y_BTD.dtype == dtype and report.dtype == torch.float32
    (y_BTD.float().sum() + RouterReport.unpack(report).balance).backward()
    assert all(p.grad.isfinite().all() for p in [x_BTD, *moe.parameters()])


def test_autocast_routes_in_float32():
    moe = build(top_k=2).float().train()
    x_BTD = torch.randn(2, 6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_BTD, report = moe(x_BTD)
    assert y_BTD.dtype == torch.bfloat16 and report.dtype == torch.float32
    assert torch.equal(report, moe(x_BTD)[1])
    (y_BTD.float().sum() + report[0]).backward()
    assert all(p.grad.isfinite().all() for p in moe.parameters())


def test_report_survives_packing():
    vector = build(top_k=2)(torch.randn(1, 9, 8, dtype=torch.double))[1]
    assert torch.equal(RouterReport.unpack(vector).pack(), vector)


def test_two_workers_share_statistics_and_the_batch_s_own_size_is_a_worker_s():
    """As if another worker had the same tokens: twice the sums, and each reports half of the loss."""
    x_BTD = torch.randn(1, 8, 8, dtype=torch.double)
    for tokens in (4096, 0):
        options = dict(experts=4, clusters=2, variance_tokens=tokens)
        alone = RouterReport.unpack(build(**options).train()(x_BTD)[1])
        doubled = lambda sums: 2 * sums  # noqa: E731
        shared = RouterReport.unpack(build(**options, sum_over_workers=doubled).train()(x_BTD)[1])
        assert_close(2 * shared.balance, alone.balance)
        assert_close(2 * shared.cluster, alone.cluster)
        assert_close(shared.load_max, alone.load_max)
        assert torch.equal(shared.load_E, alone.load_E)  # pruning adds these up itself


def test_a_gate_that_pruning_fixed_keeps_its_parameters_in_the_graph():
    moe = build().train()
    moe.gate_one = True
    y_BTD, report = moe(torch.randn(1, 6, 8, dtype=torch.double))
    (y_BTD.sum() + report[0]).backward()
    assert all(parameter.grad is not None for parameter in moe.parameters())  # data-parallel training waits for all
    assert not moe.router.temperature.grad
