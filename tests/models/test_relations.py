"""Students of relations: what `projections_of` gives, what the loss reaches, and what is frozen meanwhile and later."""

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.models._build_moe import OptionError
from tests.models_support import TINY_MT, build, dictionary, randomised, sentences

WORDS = dictionary()
WORDS.add_symbol("<mask>")
TOKENS = sentences(WORDS, [9, 4, 6])
REAL = TOKENS.ne(WORDS.pad())
SHAPE = ["--encoder-layers", "3", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24",
         "--encoder-attention-heads", "2", "--dropout", "0", "--attention-dropout", "0"]  # fmt: skip


def mlm(*flags, arch="transformer_mlm"):
    return build(arch, WORDS, *SHAPE, "--tokens-per-sample", "32", *flags, task="masked_lm").double()


def projections(model, layer, tokens=TOKENS):
    return model(tokens, src_lengths=None, projections_of=layer)[1]


@pytest.mark.parametrize("residual", ["post", "pre", "deepnorm", "subln"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "packed"])
def test_projections_are_what_attention_is_made_of(residual, training):
    model = mlm("--residual", residual, "--no-scale-embedding").train(training)
    states = model(TOKENS, features_only=True, return_all_hiddens=True)[1]["inner_states"]
    for number in (1, 3):
        layer = model.encoder.layers[number - 1]
        norm = layer.self_attn_layer_norm if residual in ("pre", "subln") else torch.nn.Identity()
        read = norm(states[number - 1])
        found = projections(model, number)
        assert found["padding"].equal(~REAL)
        for name, value in zip("qkv", found["projections"], strict=True):
            wanted = getattr(layer.self_attn, f"{name}_proj")(read)
            assert_close(value[REAL], wanted[REAL], atol=1e-12, rtol=0)


def test_the_encoder_of_a_translation_model_has_them_too():
    model = randomised(WORDS)
    k, _ = model.encoder.layers[2].self_attn.keys_values(
        model.encoder.encode(TOKENS, keep_states=True)[0].states[2]
    )
    found = projections(model, 3)["projections"].k
    assert_close(found.unflatten(2, (4, -1)).transpose(1, 2)[0], k[0], atol=1e-12, rtol=0)
    previous = TOKENS.roll(1, dims=1)
    logits = model(TOKENS, TOKENS.ne(WORDS.pad()).sum(1), previous)[0]  # and it still translates
    assert logits.shape == (*TOKENS.shape, len(WORDS))


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("residual", ["post", "pre"])
def test_only_what_the_loss_reaches_learns(residual):
    model = mlm("--residual", residual)
    everything = learning(model)
    assert model.learn_relations("qkv") == 3
    last = "encoder.layers.2."
    frozen = {name for name in everything if name.startswith((f"{last}self_attn.out_proj", f"{last}feed_forward",
                                                              f"{last}final", "encoder.lm_head", "encoder.layer_norm"))}
    frozen |= {f"{last}self_attn_layer_norm.{part}" for part in ("weight", "bias") if residual == "post"}
    assert len(frozen) > 8 and learning(model) == everything - frozen
    model.train()
    sum(value.square().sum() for value in projections(model, 3)["projections"]).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == learning(model)


def test_projections_that_are_not_compared_do_not_learn():
    model = mlm()
    model.learn_relations("v")
    assert "encoder.layers.2.self_attn.v_proj.weight" in learning(model)
    assert not any("layers.2.self_attn.q_proj" in name or "layers.2.self_attn.k_proj" in name
                   for name in learning(model))  # fmt: skip


def test_of_a_translation_model_the_encoder_alone_learns():
    model = build("transformer_mt", WORDS, *TINY_MT)
    model.learn_relations("qkv")
    assert learning(model) and all(name.startswith("encoder.") for name in learning(model))


def test_the_mode_of_the_model_stays():
    for mode in (True, False):
        model = mlm().train(mode)
        model.learn_relations("qkv")
        assert model.training == mode and model.encoder.layers[0].training == mode


def test_recomputed_activations_have_the_same_gradients():
    gradients = []
    for flags in ([], ["--checkpoint-activations"]):
        torch.manual_seed(1)
        model = mlm(*flags).train()
        model.learn_relations("qkv")
        sum(value.square().sum() for value in projections(model, 3)["projections"]).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("count", [1, 3])
def test_frozen_layers_neither_change_nor_drop_out(count):
    model = mlm("--freeze-layers", str(count), "--dropout", "0.5", arch="transformer_mlm_base").train()
    below = {name for name, _ in model.named_parameters() if "encoder.embed" in name or "layernorm_embedding" in name}
    below |= {name for name, _ in model.named_parameters() if any(f"layers.{i}." in name for i in range(count))}
    everything = {name for name, _ in model.named_parameters()}
    assert learning(model) == everything - below and len(learning(model)) > 3
    states = [model(TOKENS, features_only=True, return_all_hiddens=True)[1]["inner_states"] for _ in range(2)]
    same = [bool(torch.equal(one, other)) for one, other in zip(*states, strict=True)]
    assert same == [place <= count for place in range(4)]
    assert model.train(False).train().encoder.layers[0].training is False


def test_frozen_experts_are_not_observed():
    flags = ["--moe-experts", "2", "--moe-freq", "1", "--freeze-layers", "2"]
    model = mlm(*flags).train()
    seen = []
    for number, layer in enumerate(model.encoder.layers):
        layer.feed_forward.observe = lambda loss, number=number: seen.append(number)
    model(TOKENS)[1]["auxiliary"].consume()
    assert seen == [2]


@pytest.mark.parametrize("count", [-1, 4])
def test_a_number_of_frozen_layers_that_there_is_not_is_refused(count):
    with pytest.raises(OptionError, match=f"--freeze-layers {count} must be from 0 to --encoder-layers 3"):
        mlm("--freeze-layers", str(count))


def test_a_student_with_nothing_left_to_learn_is_refused():
    model = mlm("--freeze-encoder")
    with pytest.raises(OptionError, match="nothing of the student is left to learn"):
        model.learn_relations("qkv")


@pytest.mark.parametrize("layers, width", [(6, 768), (12, 384), (6, 384), (4, 384), (3, 384)])
def test_presets_have_the_papers_shapes(layers, width):
    with torch.device("meta"):
        words = dictionary(30_522 - 4)
        model = build(f"minilm_{layers}x{width}", words, "--tokens-per-sample", "512", task="masked_lm")
    layer = model.encoder.layers[0]
    assert len(model.encoder.layers) == layers and model.encoder.attention_heads == 12
    assert tuple(layer.feed_forward.fc1.weight.shape) == (4 * width, width)
    millions = {(6, 768): 66, (12, 384): 33, (6, 384): 22, (4, 384): 19, (3, 384): 17}[layers, width]  # Table 1
    inside = sum(parameter.numel() for name, parameter in model.named_parameters() if "lm_head" not in name) / 1e6
    assert inside == pytest.approx(millions, abs=1)
