"""What stock fairseq lacks for spread experts: norms by hand, options and checkpoints refused in one sentence."""

from types import SimpleNamespace

import pytest
import torch
from fairseq import utils
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from torch import nn

import fairseq_plugins
from fairseq_plugins import _expert_parallel_compat as items
from fairseq_plugins.compat import Refusal

fairseq_plugins.register()


def parameter(gradient, expert=False):
    made = nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient)
    if expert:
        made.expert = True
    return made


# ---- the norm of embeddings in float32 copies ------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
def test_float32_copies_of_expert_embeddings_keep_their_norm(flat):
    other, embedding = nn.Parameter(torch.randn(5).bfloat16()), nn.Parameter(torch.randn(3, 4).bfloat16())
    embedding.fixed_row_norm = 0.1
    optimizer = _FP16OptimizerMixin()
    optimizer.fp16_params = [other, embedding]
    if flat:
        flattened = nn.Parameter(torch.cat([p.detach().float().view(-1) for p in (other, embedding)]))
        optimizer.fp32_params = {None: flattened}
        master = flattened.data[5:].view(3, 4)
    else:
        optimizer.fp32_params = _FP16OptimizerMixin.build_fp32_params(None, [other, embedding], flatten=False)
        master = optimizer.fp32_params[1]
    before = other.detach().clone()
    optimizer._sync_fp32_params_to_fp16()
    assert torch.allclose(master.norm(dim=1), torch.tensor(0.1))
    assert torch.equal(embedding, master.bfloat16()) and torch.equal(other, before)


# ---- the norm --------------------------------------------------------------------------------------------------------


def test_the_norm_counts_experts_and_all_gradients_are_scaled_alike():
    shared, own = parameter([1.0, 2.0, 2.0]), parameter([4.0], expert=True)  # norms 3 and 4
    assert utils.clip_grad_norm_([shared, own], 0.5).item() == pytest.approx(5.0)
    assert shared.grad.tolist() == pytest.approx([0.1, 0.2, 0.2], rel=1e-4)
    assert own.grad.tolist() == pytest.approx([0.4], rel=1e-4)


def test_norms_without_experts_are_fairseqs_own():
    given = [parameter([3.0]), parameter([4.0])]
    doubled = utils.clip_grad_norm_((p for p in given), 0.0, lambda norm: norm * 2)
    assert doubled.item() == pytest.approx(10.0)


def test_an_overflow_in_an_expert_is_seen():
    norm = utils.clip_grad_norm_([parameter([3.0]), parameter([float("inf")], expert=True)], 1.0)
    assert not torch.isfinite(norm)


# ---- options ---------------------------------------------------------------------------------------------------------


def options(**changed):
    """A training's configuration that spreads experts over 2 ranks; every value can be changed."""
    values = dict(backend="legacy_ddp", fp16=False, efficient=False, unflat=False, amp=False, zero="none", bleu=False)
    values.update(changed)
    return SimpleNamespace(
        model=SimpleNamespace(moe_expert_parallel_size=2),
        distributed_training=SimpleNamespace(ddp_backend=values["backend"], zero_sharding=values["zero"]),
        common=SimpleNamespace(
            fp16=values["fp16"],
            memory_efficient_fp16=values["efficient"],
            fp16_no_flatten_grads=values["unflat"],
            amp=values["amp"],
        ),
        task=SimpleNamespace(eval_bleu=values["bleu"]),
    )


@pytest.mark.parametrize(
    "changed, flag",
    [
        (dict(backend="pytorch_ddp"), "--ddp-backend legacy_ddp"),
        (dict(backend="fully_sharded"), "--ddp-backend legacy_ddp"),
        (dict(fp16=True), "--fp16-no-flatten-grads"),
        (dict(amp=True), "--amp"),
        (dict(zero="os"), "--zero-sharding"),
        (dict(bleu=True), "--eval-bleu"),
    ],
)
def test_impossible_options_are_named(changed, flag):
    with pytest.raises(Refusal, match="^--moe-expert-parallel-size 2 ") as refusal:
        items.refuse_impossible_options(options(**changed))
    assert flag in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("changed", [{}, dict(fp16=True, unflat=True), dict(fp16=True, efficient=True)])
def test_possible_options_pass(changed):
    items.refuse_impossible_options(options(**changed))


def test_models_without_the_option_are_not_spread():
    assert items.ranks_of(SimpleNamespace(model=SimpleNamespace())) == 1


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def save(path, rank=None, ranks=1):
    record = {} if rank is None else {"expert_shard": {"rank": rank, "ranks": ranks}}
    torch.save({"model": {}, "extra_state": record}, path)


@pytest.mark.parametrize(
    "files, asked, rank, ranks",
    [
        ({}, "last.pt", 0, 1),  # a new training
        ({}, "last-rank-1.pt", 1, 2),
        ({"last.pt": {}}, "last.pt", 0, 1),
        ({"last.pt": dict(rank=0)}, "last.pt", 0, 1),
        ({"last-rank-1.pt": dict(rank=1, ranks=2)}, "last-rank-1.pt", 1, 2),
    ],
)
def test_fitting_checkpoints_pass(files, asked, rank, ranks, tmp_path):
    for name, record in files.items():
        save(tmp_path / name, **record)
    items.refuse_other_ranks(str(tmp_path / asked), rank, ranks)


@pytest.mark.parametrize(
    "files, asked, rank, ranks, blamed",
    [
        ({"last-rank-0.pt": dict(rank=0, ranks=2)}, "last.pt", 0, 1, "last-rank-0.pt"),  # 2 -> 1
        ({"last-rank-3.pt": dict(rank=3, ranks=4)}, "last-rank-3.pt", 3, 8, "last-rank-3.pt"),  # 4 -> 8, a rank of both
        ({"last-rank-0.pt": dict(rank=0, ranks=4)}, "last-rank-7.pt", 7, 8, "last-rank-0.pt"),  # and a new one
        ({"last.pt": dict(rank=0)}, "last-rank-1.pt", 1, 2, "last.pt"),  # 1 -> 2
        ({"last-rank-1.pt": dict(rank=0, ranks=2)}, "last-rank-1.pt", 1, 2, "last-rank-1.pt"),  # a renamed file
        ({"last-rank-1.pt": dict(rank=1, ranks=2)}, "last-rank-1.pt", 0, 1, "last-rank-1.pt"),  # a part as the whole
    ],
)
def test_other_checkpoints_are_refused_with_the_command(files, asked, rank, ranks, blamed, tmp_path):
    for name, record in files.items():
        save(tmp_path / name, **record)
    with pytest.raises(Refusal) as refusal:
        items.refuse_other_ranks(str(tmp_path / asked), rank, ranks)
    said = str(refusal.value)
    assert f"which {tmp_path / blamed} is not" in said and "merge-experts" in said and "\n" not in said
    assert ("--ranks" in said) == (ranks > 1)


def test_the_optimizers_order_is_noted_unless_it_is_flat():
    model = nn.Linear(2, 3)
    model.bias.requires_grad_(False)

    def trainer(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        made = SimpleNamespace(get_model=lambda: model, get_criterion=lambda: nn.Identity())
        made.optimizer = SimpleNamespace(optimizer=optimizer)
        return made

    assert items.optimizer_parameters(trainer([model.weight])) == ["weight"]
    assert items.optimizer_parameters(trainer([nn.Parameter(torch.zeros(6))])) == []
