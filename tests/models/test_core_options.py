"""Options of the core beyond residual schemes: in training, decoding, packing and recomputation, alone and together."""

import math

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from torch.testing import assert_close

from fairseq_plugins.modules import packing
from fairseq_plugins.modules.transformer_layer import LayerContext
from tests.models_support import TINY_MT, build, dictionary, randomised, sentences, shifted

WORDS = dictionary()
SOURCE = sentences(WORDS, [7, 4, 9], left_pad=True)
TARGET = sentences(WORDS, [5, 8, 3], seed=1)
SAMPLE = {"net_input": {"src_tokens": SOURCE, "src_lengths": SOURCE.ne(WORDS.pad()).sum(1)}}
RESIDUALS = ["post", "pre", "deepnorm", "subln"]
MOE = ["--moe-experts", "4", "--moe-freq", "1"]
OPTIONS = {
    "interleaved": ["--interleaved-ffn"],
    "gate": ["--ffn-gate", "--activation-fn", "gelu"],
    "rms": ["--norm", "rms", "--layernorm-embedding"],
    "head-dim": ["--attention-head-dim", "6"],
    "relative": ["--relative-bias-buckets", "8", "--relative-bias-max-distance", "12"],
    "temperature": ["--attention-temperature", "20"],
}
MT6 = [flag for name in ("gate", "rms", "head-dim", "relative") for flag in OPTIONS[name]]
OPTIONS["mt6"] = [*MT6, "--no-token-positional-embeddings"]
OPTIONS["all"] = [*MT6, "--interleaved-ffn"]
every_option = pytest.mark.parametrize("flags", [pytest.param(flags, id=name) for name, flags in OPTIONS.items()])


def logits_and_gradients(model, seed=0):
    """Logits at real target tokens, and the gradient of every parameter, of one training pass."""
    torch.manual_seed(seed)
    logits = model.train()(SOURCE, None, shifted(TARGET, WORDS))[0][shifted(TARGET, WORDS).ne(WORDS.pad())]
    model.zero_grad()
    logits.square().sum().backward()
    return logits, {name: parameter.grad for name, parameter in model.named_parameters()}


@every_option
@pytest.mark.parametrize("residual", RESIDUALS)
def test_step_by_step_equals_the_full_forward(flags, residual):
    model = randomised(WORDS, *flags, "--residual", residual)
    encoder_out = model.encoder(SOURCE)
    previous = sentences(WORDS, [24, 24, 24], seed=2)  # beyond one growth of the cache
    full = model.decoder(previous, encoder_out=encoder_out)[0]
    state = {}
    for length in [6, *range(7, 25)]:  # a prefix in one step, then token by token
        step = model.decoder(previous[:, :length], encoder_out=encoder_out, incremental_state=state)[0]
        assert_close(step[:, -1], full[:, length - 1])


@every_option
def test_beam_search_finds_what_the_full_forward_says(flags):
    """The score of every hypothesis is what the model gives its tokens at once."""
    model = randomised(WORDS, *flags)
    generator = SequenceGenerator([model], WORDS, beam_size=4, max_len_b=15, normalize_scores=False)
    found = generator.generate([model], SAMPLE)
    longest = 0
    for row, hypotheses in enumerate(found):
        for hypothesis in hypotheses:
            tokens = hypothesis["tokens"][None]
            previous = torch.cat([tokens.new_full((1, 1), WORDS.eos()), tokens[:, :-1]], 1)
            scores = model(SOURCE[row : row + 1], None, previous)[0].log_softmax(-1).gather(2, tokens[..., None])
            assert_close(scores.sum().float(), hypothesis["score"].float(), atol=1e-4, rtol=1e-4)
            longest = max(longest, tokens.size(1))
    assert longest > 3


@every_option
@pytest.mark.parametrize("residual", RESIDUALS)
def test_recomputation_changes_no_gradient(flags, residual):
    found = []
    for recompute in ([], ["--checkpoint-activations"]):
        model = randomised(WORDS, *flags, "--residual", residual, "--dropout", "0.2", *recompute)
        found.append(logits_and_gradients(model))
    assert_close(found[1], found[0])


@every_option
@pytest.mark.parametrize("residual", RESIDUALS)
def test_leaving_padding_out_changes_nothing(flags, residual, monkeypatch):
    model = randomised(WORDS, *flags, "--residual", residual)
    packed = logits_and_gradients(model)
    monkeypatch.setattr(packing, "WORTHWHILE", 1.0)
    assert_close(logits_and_gradients(model), packed)


@every_option
def test_padding_has_no_influence(flags):
    model = randomised(WORDS, *flags)
    together = model(SOURCE, None, shifted(TARGET, WORDS))[0]
    for row, (source, target) in enumerate(zip(SOURCE, shifted(TARGET, WORDS), strict=True)):
        source, target = (tokens[tokens.ne(WORDS.pad())][None] for tokens in (source, target))
        assert_close(together[row : row + 1, : target.size(1)], model(source, None, target)[0])


@every_option
def test_half_precision_stays_near(flags):
    model = randomised(WORDS, *flags)
    inputs = SOURCE, None, shifted(TARGET, WORDS)
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    whole = model(*inputs)[0].log_softmax(-1)
    for dtype in (torch.bfloat16, torch.float16):
        half = model.to(dtype)(*inputs)[0]
        assert half.dtype == dtype
        assert_close(half.double().log_softmax(-1), whole, atol=0.15, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_shortens_the_bias_too(dtype):
    """Attention takes no bias longer than its queries."""
    model = randomised(WORDS, *OPTIONS["mt6"]).float()
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    inputs = SOURCE, None, shifted(TARGET, WORDS)
    whole = model(*inputs)[0].log_softmax(-1)
    with torch.autocast("cpu", dtype=dtype):
        half = model(*inputs)[0]
    assert half.dtype == dtype
    assert_close(half.float().log_softmax(-1), whole, atol=0.15, rtol=0)
    half.float().square().mean().backward()
    tables = [stack.relative_bias.weight.grad for stack in (model.encoder, model.decoder)]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() and grad.any() for grad in tables)


@every_option
def test_an_option_changes_the_network_and_its_absence_nothing(flags):
    """Off, the state dict is the plain one; on, the same inputs give other numbers. A temperature is no parameter."""
    plain, other = randomised(WORDS), randomised(WORDS, *flags)
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    alike = {name: value.shape for name, value in other.state_dict().items()} == shapes
    assert alike == (flags == OPTIONS["temperature"])
    same = {name: value for name, value in other.state_dict().items() if value.shape == shapes.get(name)}
    plain.load_state_dict({**plain.state_dict(), **same})
    inputs = SOURCE, None, shifted(TARGET, WORDS)
    assert not torch.allclose(other(*inputs)[0], plain(*inputs)[0])


# ---- interleaved feed-forwards ---------------------------------------------------------------------------------------


def test_experts_take_the_second_place_of_an_interleaved_layer(monkeypatch):
    monkeypatch.setattr("fairseq_plugins.models._auxiliary.AuxiliaryLosses._check", lambda *_: None)
    model = randomised(WORDS, "--interleaved-ffn", *MOE)
    names = model.decoder.layers[0].state_dict().keys()
    assert "first_feed_forward.fc1.weight" in names and "feed_forward.experts.sublayers.0.fc1_weight" in names
    assert not any("first_feed_forward" in name for name in model.encoder.state_dict())
    packed = logits_and_gradients(model)
    monkeypatch.setattr(packing, "WORTHWHILE", 1.0)
    assert_close(logits_and_gradients(model), packed)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_start_strength_of_both_feed_forwards(residual):
    wide = ["--decoder-embed-dim", "256", "--decoder-ffn-embed-dim", "512", "--residual", residual]
    layer = build("transformer_mt", WORDS, *TINY_MT, *wide, "--interleaved-ffn").decoder.layers[0]
    for slot in (layer.first_feed_forward, layer.feed_forward):
        for linear in (slot.fc1, slot.fc2):
            assert linear.weight.std().item() == pytest.approx(layer.scheme.gain * math.sqrt(2 / 768), rel=0.02)
        assert (slot.inner_norm is not None) == (residual == "subln")


# ---- gate, norm, width of heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["transformer_mt", "transformer_mlm"])
def test_every_norm_is_of_the_kind_asked_for(arch):
    flags = TINY_MT if arch == "transformer_mt" else TINY_MT[:8]
    task = "translation" if arch == "transformer_mt" else "masked_lm"
    model = build(arch, WORDS, *flags, "--norm", "rms", "--residual", "subln", "--layernorm-embedding", task=task)
    norms = [module for name, module in model.named_modules() if name.endswith(("norm", "layernorm_embedding"))]
    assert len(norms) > 10 and {type(module).__name__ for module in norms} == {"RMSNorm"}
    assert not [name for name in model.state_dict() if "norm" in name and name.endswith("bias")]


@pytest.mark.parametrize("residual", RESIDUALS)
def test_gates_start_at_the_gain_of_the_scheme(residual):
    wide = ["--decoder-embed-dim", "256", "--decoder-ffn-embed-dim", "512", "--residual", residual]
    layer = build("transformer_mt", WORDS, *TINY_MT, *wide, "--interleaved-ffn", "--ffn-gate").decoder.layers[1]
    for slot in (layer.first_feed_forward, layer.feed_forward):
        assert slot.fc_gate.weight.std().item() == pytest.approx(layer.scheme.gain * math.sqrt(2 / 768), rel=0.02)


def test_heads_may_be_narrower_together_than_the_model():
    model = build("transformer_mt", WORDS, *TINY_MT, "--attention-head-dim", "6", "--residual", "subln")
    layer = model.encoder.layers[0].self_attn
    assert layer.q_proj.weight.shape == (24, 16) and layer.out_proj.weight.shape == (16, 24)
    assert layer.inner_norm.weight.shape == (24,)
    assert model.decoder.layers[0].encoder_attn.k_proj.weight.shape == (12, 16)
    heads = ["--attention-head-dim", "8", "--encoder-attention-heads", "3"]  # 16 is no multiple of 3
    assert build("transformer_mt", WORDS, *TINY_MT, *heads).encoder.layers[0].self_attn.heads == 3
    plain = build("transformer_mt", WORDS, *TINY_MT, "--attention-head-dim", "4", "--decoder-attention-heads", "4")
    assert plain.encoder.layers[0].self_attn.q_proj.weight.shape == (16, 16)


# ---- relative positions ----------------------------------------------------------------------------------------------


def test_one_table_for_all_layers_of_a_stack():
    model = randomised(WORDS, *OPTIONS["relative"])
    tables = {name: value.shape for name, value in model.state_dict().items() if "relative" in name}
    assert tables == {"encoder.relative_bias.weight": (8, 4), "decoder.relative_bias.weight": (8, 2)}
    assert model.encoder.relative_bias.bidirectional and not model.decoder.relative_bias.bidirectional


def test_a_table_of_zeros_is_no_bias():
    plain, biased = randomised(WORDS), randomised(WORDS, *OPTIONS["relative"])
    biased.load_state_dict(plain.state_dict(), strict=False)
    for stack in (biased.encoder, biased.decoder):
        torch.nn.init.zeros_(stack.relative_bias.weight)
    inputs = SOURCE, None, shifted(TARGET, WORDS)
    assert_close(biased(*inputs)[0], plain(*inputs)[0])


def test_order_is_known_without_absolute_positions():
    """Without any positions an encoder sees a bag of tokens."""
    tokens = sentences(WORDS, [6])
    turned = tokens.flip(1)
    for flags, knows in (([], False), (OPTIONS["relative"], True)):
        encoder = randomised(WORDS, "--no-token-positional-embeddings", *flags).encoder
        same = torch.allclose(encoder.encode(tokens)[0].x_BTD, encoder.encode(turned)[0].x_BTD.flip(1))
        assert same != knows


def test_positions_may_be_given():
    """Tokens in line are those numbered 0, 1, ...; those that share a position see the same distances."""
    encoder = randomised(WORDS, *OPTIONS["relative"]).encoder
    x = encoder.embed(sentences(WORDS, [5, 5]))
    line = encoder.transform(x, LayerContext()).x_BTD
    numbered = encoder.transform(x, LayerContext(positions_BT=torch.arange(5)[None])).x_BTD
    by_row = encoder.transform(x, LayerContext(positions_BT=torch.tensor([[0, 1, 2, 3, 4], [0, 1, 1, 2, 3]]))).x_BTD
    assert_close(numbered, line)
    assert_close(by_row[0], line[0])
    assert not torch.allclose(by_row[1], line[1])


@pytest.mark.parametrize("recompute", [[], ["--checkpoint-activations"]])
def test_groups_and_relative_positions(recompute):
    """A token's logits do not change with tokens of another group; the whole in one group is ordinary decoding."""
    model = randomised(WORDS, *OPTIONS["mt6"], *recompute)
    memory = model.encoder(SOURCE)
    previous = shifted(TARGET, WORDS)
    ordinary = model.decoder(previous, memory)[0]
    real = previous.ne(WORDS.pad())
    assert_close(model.decoder(previous, memory, groups=(~real).long())[0][real], ordinary[real])
    groups = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]]).expand(3, -1)
    before = model.decoder(previous, memory, groups=groups)[0]
    changed = previous.clone()
    changed[:, 1] = torch.where(previous[:, 1] == 5, 6, 5)
    after = model.decoder(changed, memory, groups=groups)[0]
    assert torch.equal(after[1, 3:], before[1, 3:]) and not torch.allclose(after[1, 1:3], before[1, 1:3])


def test_without_the_option_no_bias_is_made(monkeypatch):
    """Kernels without a mask stay the rule."""
    monkeypatch.setattr("fairseq_plugins.modules.transformer_stack._with_bias", lambda *_: pytest.fail("a bias"))
    randomised(WORDS)(SOURCE, None, shifted(TARGET, WORDS))


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--relative-bias-buckets", "-4"], "--relative-bias-buckets -4"),
        (["--relative-bias-buckets", "6"], "--relative-bias-buckets 6 must be 0 or a multiple of 4"),
        (
            ["--relative-bias-buckets", "32", "--relative-bias-max-distance", "16"],
            "--relative-bias-max-distance 16 must be above half of --relative-bias-buckets 32",
        ),
        (["--attention-head-dim", "-1"], "--attention-head-dim -1"),
        (["--attention-temperature", "-1"], "--attention-temperature -1.0 must be above 0, or 0 for the head width"),
        (["--attention-temperature", "nan"], "--attention-temperature nan"),
        (["--attention-temperature", "inf"], "--attention-temperature inf"),
        (["--ffn-gate", *MOE], "--ffn-gate and --moe-experts"),
        (["--norm", "rms", "--residual", "subln", *MOE], "--norm rms and --moe-experts"),
        (["--norm", "rms", "--moe-expert-sublayers", "2", *MOE], "--norm rms and --moe-experts"),
    ],
)
def test_flags_out_of_range_are_named(flags, says):
    with pytest.raises(ValueError, match=says):
        build("transformer_mt", WORDS, *TINY_MT, *flags)


@pytest.mark.parametrize("arch, task", [("transformer_mlm", "masked_lm"), ("transformer_clm", "language_modeling")])
def test_language_models_take_the_options_too(arch, task):
    shape = TINY_MT[:8] if arch == "transformer_mlm" else TINY_MT[8:16]
    torch.manual_seed(0)
    model = build(arch, WORDS, *shape, *OPTIONS["mt6"], task=task).double()
    tokens = sentences(WORDS, [6, 4])
    together = model(tokens)[0]
    assert_close(together[1:, :4], model(tokens[1:, :4])[0])
    assert "relative_bias.weight" in {name.partition(".")[2] for name in model.state_dict()}


def test_norms_outside_experts_may_be_rms():
    model = build("transformer_mt", WORDS, *TINY_MT, "--norm", "rms", "--attention-head-dim", "6", *MOE)
    assert type(model.encoder.layers[0].final_layer_norm).__name__ == "RMSNorm"


def test_mt6_small_is_mt5_small_with_one_table():
    """mT5-small's 300M are two tables of 250,112 rows, 128M each, and 44.04M inside the layers."""
    with torch.device("meta"):
        model = build("mt6_small", WORDS)
    matrices = sum(p.numel() for name, p in model.named_parameters() if "layers" in name and p.dim() == 2)
    attention, feed_forward = 4 * 512 * 6 * 64, 3 * 512 * 1024
    assert matrices == 8 * (attention + feed_forward) + 8 * (2 * attention + feed_forward) == 44_040_192
    assert model.encoder.relative_bias.weight.shape == model.decoder.relative_bias.weight.shape == (32, 6)
    assert model.encoder.relative_bias.starts.shape == (15,) and model.decoder.relative_bias.starts.shape == (31,)
    assert model.encoder.embed_positions is None and model.decoder.output_projection.weight is (
        model.encoder.embed_tokens.weight
    )


def test_mt6_tiny_learns_and_searches():
    torch.manual_seed(0)
    model = build("mt6_tiny", WORDS).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        logits = model(SOURCE, None, shifted(TARGET, WORDS))[0]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), TARGET, ignore_index=WORDS.pad())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    generator = SequenceGenerator([model.eval()], WORDS, beam_size=3, max_len_b=10)
    found = generator.generate([model], SAMPLE)
    assert [best[0]["tokens"].tolist() for best in found] == [row[row.ne(WORDS.pad())].tolist() for row in TARGET]
