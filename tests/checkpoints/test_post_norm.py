"""DeepNorm folded into post-norm: exact with each stack's first eps scaled, close with the one that engines have."""

import pytest
import torch

from fairseq_plugins.checkpoints.fairseq_names import from_fairseq, to_fairseq
from fairseq_plugins.checkpoints.post_norm import fold_deepnorm
from fairseq_plugins.modules.residual import residual_schemes
from tests.models_support import build, dictionary, sentences, shifted

WORDS = dictionary()
SOURCE = sentences(WORDS, [7, 4, 9], left_pad=True)
TARGET = shifted(sentences(WORDS, [5, 8, 3], seed=1), WORDS)
SHAPE = [
    word
    for side in ("encoder", "decoder")
    for word in (f"--{side}-embed-dim 16 --{side}-ffn-embed-dim 24 --{side}-attention-heads 2".split())
]


def model(arch, layers, *flags):
    depth = ("--encoder-layers", str(layers), "--decoder-layers", str(layers), "--dropout", "0")
    return build(arch, WORDS, *SHAPE, *depth, *flags).double()


def alphas(layers):
    encoder, decoder = residual_schemes("deepnorm", layers, layers)
    return {"encoder": encoder.alpha, "decoder": decoder.alpha}


def logits(network):
    real = TARGET.ne(WORDS.pad())
    return network(SOURCE, SOURCE.ne(WORDS.pad()).sum(1), TARGET)[0][real].detach()


def deepnorm(layers, *flags):
    """A DeepNorm model whose biases and norms are not those of the start, which are 0 and 1."""
    torch.manual_seed(7)
    network = model("transformer_mt", layers, "--residual", "deepnorm", *flags)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.1)
    return network


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_folding_is_exact_with_the_first_eps_scaled(layers):
    network, plain = deepnorm(layers), model("transformer_mt", layers)
    plain.load_state_dict(fold_deepnorm(network.state_dict(), alphas(layers)), strict=True)
    for stack, alpha in alphas(layers).items():
        getattr(plain, stack).layers[0].self_attn_layer_norm.eps /= alpha**2
    torch.testing.assert_close(logits(plain), logits(network), atol=1e-11, rtol=0)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_norm_of_the_embeddings_makes_folding_exact(layers):
    network, plain = deepnorm(layers, "--layernorm-embedding"), model("transformer_mt", layers, "--layernorm-embedding")
    plain.load_state_dict(fold_deepnorm(network.state_dict(), alphas(layers)), strict=True)
    torch.testing.assert_close(logits(plain), logits(network), atol=1e-11, rtol=0)


def test_narrow_embeddings_are_scaled_by_what_widens_them():
    flags = ["--tokens-per-sample", "32", "--embedding-dim", "8", "--layernorm-embedding", "--encoder-layers", "2"]
    network, plain = (
        build("transformer_mlm", WORDS, *SHAPE[:6], *flags, "--residual", residual, task="masked_lm").double()
        for residual in ("deepnorm", "post")
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    alpha = residual_schemes("deepnorm", 2, 0).encoder.alpha
    plain.load_state_dict(fold_deepnorm(network.state_dict(), {"encoder": alpha}), strict=True)
    found, expected = (each(SOURCE, features_only=True)[0] for each in (plain, network))
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("layers", [6, 18])
def test_stock_fairseq_gives_the_same_logits_but_for_eps(layers):
    network, stock = deepnorm(layers), model("transformer", layers)
    stock.load_state_dict(to_fairseq(fold_deepnorm(network.state_dict(), alphas(layers))), strict=True)
    expected, found = logits(network), logits(stock)
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < 1e-5


def test_other_schemes_pass_unchanged():
    state = model("transformer_mt", 1, "--residual", "pre").state_dict()
    assert fold_deepnorm(state, {"encoder": 1.0, "decoder": 1.0}) == state


def test_what_is_scaled():
    ones = {name: torch.ones(1) for name in model("transformer_mt", 2, "--residual", "deepnorm").state_dict()}
    folded = fold_deepnorm(ones, {"encoder": 2.0, "decoder": 4.0})
    changed = {name: float(value) for name, value in folded.items() if value != 1 and name.startswith("encoder")}
    first, second = "encoder.layers.0", "encoder.layers.1"
    assert changed == {
        **dict.fromkeys([f"{first}.self_attn.out_proj.{end}" for end in ("weight", "bias")], 0.5),
        **dict.fromkeys([f"{first}.self_attn_layer_norm.{end}" for end in ("weight", "bias")], 2.0),
        f"{first}.feed_forward.fc1.weight": 0.5,
        **dict.fromkeys([f"{first}.final_layer_norm.{end}" for end in ("weight", "bias")], 2.0),
        **dict.fromkeys([f"{second}.self_attn.{part}_proj.weight" for part in "qkv"], 0.5),
        **dict.fromkeys([f"{second}.self_attn_layer_norm.{end}" for end in ("weight", "bias")], 2.0),
        f"{second}.feed_forward.fc1.weight": 0.5,
    }
    memory = [float(folded[f"decoder.layers.1.encoder_attn.{part}_proj.weight"]) for part in "qkv"]
    assert memory == [0.25, 1, 1], "only the query reads the decoder's stream"


def test_folding_before_or_after_renaming_is_the_same():
    state = deepnorm(1).state_dict()
    one, other = to_fairseq(fold_deepnorm(state, alphas(1))), fold_deepnorm(to_fairseq(state), alphas(1))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert from_fairseq(to_fairseq(state)) == state


def test_a_state_without_layers_is_refused():
    with pytest.raises(ValueError, match="no parameters of the decoder's layers"):
        fold_deepnorm({"decoder.embed_tokens.weight": torch.ones(1)}, {"decoder": 2.0})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_are_folded_in_float32(dtype):
    """Rounding once more would move logits by a thousandth."""
    from fairseq_plugins.opus100.engines.plain_transformer import plain_transformer

    network = deepnorm(2).to(dtype)
    options = {"_name": "transformer_mt", "residual": "deepnorm"}
    for side in ("encoder", "decoder"):
        options.update({f"{side}_layers": 2, f"{side}_embed_dim": 16, f"{side}_ffn_embed_dim": 24})
        options[f"{side}_attention_heads"] = 2
    state = network.state_dict()
    state["decoder.output_projection.weight"] = state["decoder.embed_tokens.weight"]  # shared, as tied tables are
    found = plain_transformer({"model": state, "cfg": {"model": options}}, "x.pt").state
    wanted = to_fairseq(fold_deepnorm({name: tensor.float() for name, tensor in state.items()}, alphas(2)))
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    assert found["decoder.output_projection.weight"] is found["decoder.embed_tokens.weight"]
