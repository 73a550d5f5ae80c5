"""A pruned model and its dense twin compute the same; what has no dense twin is refused."""

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.checkpoints.expert_pruning import to_dense
from tests.models_support import TINY_MT, build, dictionary, sentences, shifted

WORDS = dictionary()
MOE = ["--moe-experts", "4", "--moe-freq", "2", "--moe-capacity-factor", "0"]
PRUNED = ["--moe-prune", "eager", "--moe-prune-updates", "8"]
LAYER = "encoder.layers.1"


def pruned_model(arch, *flags, task="translation", survivor=2, left=1):
    """A model in float64 with random biases and norms, in which only `left` experts from `survivor` on are alive."""
    torch.manual_seed(1)
    model = build(arch, WORDS, *flags, task=task).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(".alive"):
            tensor.copy_(torch.tensor([survivor <= expert < survivor + left for expert in range(len(tensor))]))
        if name.endswith(".gate_is_one"):
            tensor.fill_("--moe-prune-gate-one" in flags)
    model.load_state_dict(state)
    return model


def logits(model, task):
    """Outputs at tokens that are no padding."""
    tokens = sentences(WORDS, [5, 9, 3], seed=3)
    if task == "translation":
        source = sentences(WORDS, [4, 7, 9], left_pad=True, seed=4)
        output, _ = model(source, source.ne(WORDS.pad()).sum(1), shifted(tokens, WORDS))
    else:
        output, _ = model(tokens)
    return output[tokens.ne(WORDS.pad())]


ONE_SIDE = ["--encoder-layers", "2", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24"]
ONE_SIDE += ["--encoder-attention-heads", "2", "--max-source-positions", "64"]
OTHER_SIDE = [flag.replace("encoder", "decoder").replace("source", "target") for flag in ONE_SIDE]
SIGMOID = ["--moe-gate", "sigmoid"]


@pytest.mark.parametrize(
    "arch, task, shape, routing",
    [
        pytest.param("transformer_mt", "translation", TINY_MT, [], id="mt"),
        pytest.param(
            "transformer_mt", "translation", [*TINY_MT, "--residual", "subln"], ["--moe-router", "linear"], id="subln"
        ),
        pytest.param("transformer_mt", "translation", TINY_MT, [*SIGMOID, "--moe-top-k", "2"], id="sigmoid-top-2"),
        pytest.param(
            "transformer_mt", "translation", TINY_MT, [*SIGMOID, "--moe-prune-gate-one", *PRUNED], id="sigmoid-one"
        ),
        pytest.param("transformer_mlm", "masked_lm", [*ONE_SIDE, "--residual", "deepnorm"], [], id="mlm"),
        pytest.param("transformer_clm", "language_modeling", OTHER_SIDE, PRUNED, id="clm"),
    ],
)
def test_the_dense_model_has_the_same_outputs(arch, task, shape, routing):
    model = pruned_model(arch, *shape, *MOE, *routing, task=task)
    dense = build(arch, WORDS, *shape, task=task).double()
    dense.load_state_dict(to_dense(model.state_dict(), gate=gate_of(routing), top_k=2 if "2" in routing else 1))
    assert_close(logits(dense, task), logits(model, task), atol=1e-6, rtol=0)


def gate_of(routing):
    return "sigmoid" if "sigmoid" in routing else "softmax"


def test_another_survivor_gives_other_outputs():
    """What the test above compares does depend on the expert."""
    one, other = (pruned_model("transformer_mt", *TINY_MT, *MOE, survivor=survivor) for survivor in (1, 2))
    assert (logits(one, "translation") - logits(other, "translation")).abs().max() > 0.01


def test_names_of_a_dense_model_in_its_order_and_nothing_shared_with_the_experts():
    model = pruned_model("transformer_mt", *TINY_MT, *MOE, *PRUNED)
    state = to_dense(model.state_dict(), gate="softmax", top_k=1)
    assert list(state) == list(build("transformer_mt", WORDS, *TINY_MT).state_dict())
    weight = state[f"{LAYER}.feed_forward.fc1.weight"]
    assert weight.untyped_storage().nbytes() == weight.numel() * weight.element_size()


@pytest.mark.parametrize(
    "flags, says",
    [
        ([], f"{LAYER} has 2 experts left"),
        (SIGMOID, f"{LAYER} has a sigmoid gate"),
        ([*SIGMOID, *PRUNED], "--moe-prune-gate-one"),
        (["--moe-expert-sublayers", "2"], f"{LAYER} has experts of several sublayers"),
        (["--moe-freq", "0", "--moe-insert-after", "1"], f"{LAYER} is an inserted layer"),
    ],
)
def test_what_has_no_dense_twin_is_refused(flags, says):
    left = 2 if not flags else 1
    state = pruned_model("transformer_mt", *TINY_MT, *MOE, *flags, left=left).state_dict()
    with pytest.raises(ValueError) as refused:
        to_dense(state, gate=gate_of(flags), top_k=1)
    assert says in str(refused.value)


def test_a_dense_model_and_one_rank_s_share_are_refused():
    with pytest.raises(ValueError, match="dense already"):
        to_dense(build("transformer_mt", WORDS, *TINY_MT).state_dict(), gate="softmax", top_k=1)
    state = pruned_model("transformer_mt", *TINY_MT, *MOE).state_dict()
    stacked = f"{LAYER}.feed_forward.experts.sublayers.0.fc1_weight"
    state[stacked] = state[stacked][:2]
    with pytest.raises(ValueError, match="holds 2 of 4 experts: run merge-experts"):
        to_dense(state, gate="softmax", top_k=1)
