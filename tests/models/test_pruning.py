"""Expert pruning through stock fairseq-train: what stays, that resuming changes nothing, two passes, bad flags."""

import pytest
import torch

from fairseq_plugins.compat import Refusal
from tests.helpers import checkpoint, run_fairseq, succeeded, train_words
from tests.models_support import TINY_MT, build, dictionary, sentences

# Two encoder and two decoder layers, the second of each with four experts: the smallest model with two routers.
MODEL = (
    "--arch transformer_mt --encoder-layers 2 --decoder-layers 2 --share-all-embeddings --dropout 0 "
    "--encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-attention-heads 2 "
    "--decoder-embed-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 2 --max-source-positions 64 "
    "--moe-experts 4 --moe-freq 2 --moe-capacity-factor 0 --criterion label_smoothed_cross_entropy_with_moe"
).split()
EAGER = "--moe-prune eager --moe-prune-updates 12 --moe-prune-windows 3 --moe-prune-threshold 0.9".split()
LAYERS = ["encoder.layers.1.feed_forward", "decoder.layers.1.feed_forward"]


def train(data, run, updates, *words):
    """Train or go on to `updates`; returns the parameters and the log's lines about experts that stay."""
    save = ["--save-interval-updates", 1, "--disable-validation"]
    process = succeeded(run_fairseq("train", *train_words(data, run, updates, *save, *words, model=MODEL)))
    decisions = [line.split(" | ")[-1] for line in (process.stdout + process.stderr).splitlines() if " stay: " in line]
    return checkpoint(run)["model"], decisions


@pytest.fixture(scope="module")
def eager(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("eager"), 10, *EAGER)


def test_one_expert_per_layer_is_left_at_half(eager):
    model, decisions = eager
    assert [int(model[f"{layer}.alive"].sum()) for layer in LAYERS] == [1, 1]
    assert [line for line in decisions if "after 6 updates" in line] == [
        f"{layer.removesuffix('.feed_forward')}: after 6 updates these of 4 experts stay: "
        f"{model[f'{layer}.alive'].nonzero().item()}"
        for layer in LAYERS
    ]


def test_a_resumed_run_decides_the_same(data, eager, tmp_path):
    """Stopped exactly at the end of a window, where a decision is due, and inside the next one."""
    model, decisions = eager
    found = []
    for stop in (2, 3, 10):
        resumed, lines = train(data, tmp_path, stop, *EAGER)
        found.append(lines)
    assert sum(found, []) == decisions and [len(lines) for lines in found] == [0, 2, 4]
    for name, tensor in model.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)


def test_two_passes(data, tmp_path):
    recorded, decisions = train(data, tmp_path / "first", 3, "--moe-prune", "two-pass")
    assert decisions == [] and all(recorded[f"{layer}.alive"].all() for layer in LAYERS)
    first = tmp_path / "first" / "checkpoint_last.pt"
    model, decisions = train(data, tmp_path / "second", 1, "--moe-prune", "two-pass", "--moe-prune-from", first)
    assert len(decisions) == 2
    for layer in LAYERS:
        score_E = recorded[f"{layer}.pruning.score"]
        assert score_E.sum() > 0 and model[f"{layer}.alive"].nonzero().item() == score_E.argmax()


MOE = ["--moe-experts", "4", "--moe-freq", "2", "--moe-capacity-factor", "0"]


@pytest.mark.parametrize(
    "score_E, says",
    [
        (None, "x.pt does not exist"),
        ({}, "x.pt has no scores of encoder.layers.1; train with --moe-prune two-pass"),
        ({"encoder.layers.1.feed_forward.pruning.score": torch.zeros(4)}, "x.pt has no scores of encoder.layers.1"),
        ({"encoder.layers.1.feed_forward.pruning.score": torch.ones(8)}, "scores of 8 experts, this model has 4"),
    ],
)
def test_a_first_pass_without_fitting_scores_is_refused(tmp_path, score_E, says):
    if score_E is not None:
        torch.save({"model": score_E}, tmp_path / "x.pt")
    flags = [*MOE, "--moe-prune", "two-pass", "--moe-prune-from", str(tmp_path / "x.pt")]
    model = build("transformer_mt", dictionary(), *TINY_MT, *flags)
    tokens = sentences(dictionary(), [5, 3])
    model(tokens, torch.tensor([5, 3]), tokens)  # generation needs no scores
    with pytest.raises(Refusal) as refused:
        model.train()(tokens, torch.tensor([5, 3]), tokens)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--moe-prune", "eager", "--moe-prune-updates", "8"], "--moe-prune eager needs --moe-experts above 0"),
        ([*MOE, "--moe-prune", "eager"], "--moe-prune-updates"),
        ([*MOE, *EAGER, "--moe-prune-threshold", "2"], "--moe-prune-threshold 2.0 must be between 0 and 1"),
        ([*MOE, *EAGER, "--moe-prune-windows", "0"], "--moe-prune-windows 0 must be at least 1"),
        ([*MOE, *EAGER, "--moe-prune-windows", "7"], "twice --moe-prune-windows 7"),
        ([*MOE, *EAGER, "--moe-prune-from", "x.pt"], "--moe-prune-from x.pt needs --moe-prune two-pass, not eager"),
        ([*MOE, *EAGER, "--moe-capacity-factor", "2"], "--moe-prune eager needs --moe-capacity-factor 0, not 2.0"),
        ([*MOE, *EAGER, "--moe-eval-capacity-factor", "1"], "needs --moe-eval-capacity-factor 0, not 1.0"),
    ],
)
def test_bad_flags_are_named(flags, says):
    with pytest.raises(ValueError) as refused:
        build("transformer_mt", dictionary(), *TINY_MT, *flags)
    assert says in str(refused.value)


def test_recording_leaves_capacity_free():
    flags = ["--moe-experts", "4", "--moe-freq", "2", "--moe-prune", "two-pass"]
    assert build("transformer_mt", dictionary(), *TINY_MT, *flags).encoder.layers[1].feed_forward.capacity_factor == 2


def test_layers_are_named_as_in_the_state_dict():
    """An inserted layer shifts those after it; the second of two passes finds scores by these names."""
    flags = [*MOE, *EAGER, "--moe-freq", "1", "--moe-insert-after", "1"]
    model = build("transformer_mt", dictionary(), *TINY_MT, *flags)
    layers = {name: module for name, module in model.named_modules() if name.endswith(".feed_forward.pruning")}
    assert len(layers) == 4 + 3
    assert [f"{module.name}.feed_forward.pruning" for module in layers.values()] == list(layers)
