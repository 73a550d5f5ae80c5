import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fairseq_plugins.modules.moe.router import CosineRouter, LinearRouter, route

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 0.1], [-1.0, -3.0, -2.0], [1.0, 1.5, 1.4]])


def test_hand_written_table_top_1():
    routing = route(LOGITS, LOGITS, None, 1, "softmax")
    assert routing.expert_NK.tolist() == [[0], [1], [0], [1]]
    assert routing.weight_NK[0, 0] == pytest.approx(math.e**2 / (math.e**2 + math.e + 1))
    assert_close(routing.probs_NE, LOGITS.softmax(dim=1))
    assert_close(route(LOGITS, LOGITS, None, 1, "sigmoid").weight_NK[1, 0], torch.tensor(0.5).sigmoid())


def test_hand_written_table_top_2_renormalises_over_the_chosen():
    routing = route(LOGITS, LOGITS, None, 2, "softmax")
    assert routing.expert_NK.tolist() == [[0, 1], [1, 2], [0, 2], [1, 2]]
    assert_close(routing.weight_NK.sum(dim=1), torch.ones(4))
    assert routing.weight_NK[0, 0] == pytest.approx(1 / (1 + math.exp(-1)))
    sigmoid = route(LOGITS, LOGITS, None, 2, "sigmoid").weight_NK
    assert sigmoid[0, 0] == pytest.approx(0.880797 / (0.880797 + 0.731059), rel=1e-5)


def test_the_dead_are_never_chosen_and_gates_renormalise_over_the_living():
    alive = torch.tensor([False, True, True])
    routing = route(LOGITS, LOGITS, alive, 1, "softmax")
    assert routing.expert_NK.tolist() == [[1], [1], [2], [1]]
    assert routing.weight_NK[0, 0] == pytest.approx(1 / (1 + math.exp(-1)))
    assert not routing.probs_NE[:, 0].any()
    lone = torch.tensor([False, False, True])
    for top_k in (1, 2):
        routing = route(LOGITS, LOGITS, lone, top_k, "softmax")
        assert routing.weight_NK[:, 0].eq(1).all() and routing.expert_NK[:, 0].eq(2).all()
        assert not routing.weight_NK[:, 1:].any()


@pytest.mark.parametrize("gate, temperature", [("softmax", 0.3), ("sigmoid", 0.07)])
def test_cosine_scores_by_hand(gate, temperature):
    router = CosineRouter(4, 6, gate=gate)
    assert router.projection.weight.shape == (3, 4)  # routing dimension E/2
    assert router.projection.bias is None
    assert router.temperature.item() == pytest.approx(temperature)
    assert_close(router.expert_embedding.norm(dim=1), torch.full((6,), 0.1))
    x_ND = torch.randn(5, 4)
    low = x_ND @ router.projection.weight.T
    cosine = torch.stack([torch.cosine_similarity(low, e[None], dim=1) for e in router.expert_embedding], dim=1)
    routing = router(x_ND)
    assert torch.equal(routing.expert_NK[:, 0], cosine.argmax(dim=1))
    assert_close(routing.probs_NE, (cosine / temperature).softmax(dim=1))
    best = cosine.max(dim=1).values / temperature
    expected = best.sigmoid() if gate == "sigmoid" else (cosine / temperature).softmax(dim=1).amax(dim=1)
    assert_close(routing.weight_NK[:, 0], expected)


def test_cosine_ignores_the_length_of_a_token_and_of_an_embedding():
    router, x_ND = CosineRouter(4, 6), torch.randn(5, 4)
    first = router(x_ND)
    assert_close(router(10 * x_ND), first)
    assert_close(router(1e-6 * x_ND), first)
    with torch.no_grad():
        router.expert_embedding.mul_(3)
    assert_close(router(x_ND), first)
    router.project_embeddings()
    assert_close(router.expert_embedding.norm(dim=1), torch.full((6,), 0.1))


def test_the_norm_of_the_embeddings_sets_the_angular_step():
    def turned(norm):
        router = CosineRouter(4, 6)
        torch.manual_seed(1)
        nn.init.orthogonal_(router.expert_embedding)
        with torch.no_grad():
            router.expert_embedding.mul_(norm / router.expert_embedding.norm(dim=1, keepdim=True))
        before = router.expert_embedding.detach().clone()
        router(torch.ones(1, 4)).weight_NK.sum().backward()
        torch.optim.Adam([router.expert_embedding], lr=0.01).step()
        return torch.cosine_similarity(before, router.expert_embedding, dim=1).clamp(max=1).acos().mean()

    torch.manual_seed(0)
    assert turned(0.1) > 5 * turned(1.0)


def test_the_temperature_learns_but_not_through_the_balance_loss():
    router, x_ND = CosineRouter(4, 6), torch.randn(5, 4)
    router(x_ND).weight_NK.sum().backward()
    assert router.temperature.grad.abs() > 0 and router.projection.weight.grad.abs().sum() > 0
    router.zero_grad()
    router(x_ND).probs_NE[:, 0].sum().backward()
    assert router.temperature.grad is None
    assert router.expert_embedding.grad.abs().sum() > 0


def test_a_temperature_that_was_driven_below_zero_keeps_the_ranking_and_a_gradient():
    router, x_ND = CosineRouter(4, 6), torch.randn(5, 4)
    chosen = router(x_ND).expert_NK
    for value, effective in ((-0.2, 0.2), (1e-6, 1e-4)):
        router.zero_grad()
        router.temperature.data.fill_(value)
        assert router.effective_temperature().item() == pytest.approx(effective)
        assert torch.equal(router(x_ND).expert_NK, chosen)
        router.effective_temperature().backward()
        assert router.temperature.grad.abs() == 1


@pytest.mark.parametrize("router", [LinearRouter(8, 4), CosineRouter(8, 4)])
def test_scores_are_float32_in_half_precision(router):
    router = router.half()
    routing = router(torch.randn(3, 8).half())
    assert routing.weight_NK.dtype == routing.probs_NE.dtype == torch.float32
    outside = router(torch.ones(3, 8).half()).probs_NE
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(torch.ones(3, 8).half()).probs_NE, outside)


def test_linear_scores_are_the_projection():
    router, x_ND = LinearRouter(8, 4, top_k=2), torch.randn(3, 8)
    assert_close(router(x_ND).probs_NE, (x_ND @ router.projection.weight.T).softmax(dim=1))
