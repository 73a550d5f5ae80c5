import copy

import pytest
import torch
from fairseq import checkpoint_utils
from torch.testing import assert_close

from fairseq_plugins.models._build import OptionError
from fairseq_plugins.modules.moe.moe_feed_forward import MoEFeedForward
from fairseq_plugins.modules.moe.router import CosineRouter, LinearRouter
from fairseq_plugins.modules.transformer_layer import FeedForwardLayer
from tests.models_support import TINY_MT, build, dictionary, sentences, shifted

WORDS = dictionary()
SOURCE = sentences(WORDS, [7, 4, 9], left_pad=True)
TARGET = sentences(WORDS, [5, 8, 3], seed=1)
EXPERTS = ["--moe-experts", "4", "--moe-freq", "1"]


def moe_mt(*flags):
    torch.manual_seed(5)
    return build("transformer_mt", WORDS, *TINY_MT, *EXPERTS, *flags).double()


def places(stack):
    """For each layer: `dense`, `moe`, or `inserted`."""
    names = {FeedForwardLayer: "inserted"}
    return [
        names.get(type(layer), "moe" if isinstance(layer.feed_forward, MoEFeedForward) else "dense")
        for layer in stack.layers
    ]


@pytest.mark.parametrize(
    "flags, encoder, decoder",
    [
        (["--moe-freq", "2"], ["dense", "moe", "dense"], ["dense", "moe"]),
        (["--moe-freq", "1", "--moe-side", "encoder"], ["moe"] * 3, ["dense"] * 2),
        (
            ["--moe-freq", "0", "--moe-insert-after", "2"],
            ["dense", "dense", "inserted", "dense"],
            ["dense", "dense", "inserted"],
        ),
        (
            ["--moe-freq", "2", "--moe-insert-after", "1", "--moe-side", "decoder"],
            ["dense", "dense", "dense"],
            ["dense", "inserted", "moe"],
        ),
    ],
)
def test_where_experts_stand(flags, encoder, decoder):
    model = moe_mt(*flags)
    assert places(model.encoder) == encoder and places(model.decoder) == decoder


@pytest.mark.parametrize("sublayers, own", [("1", False), ("2", True)])
def test_experts_of_several_sublayers_keep_their_own_residual(sublayers, own):
    layer = moe_mt("--moe-expert-sublayers", sublayers).encoder.layers[0]
    assert layer.feed_forward.own_residual == own and (layer.final_layer_norm is None) == own
    inserted = moe_mt("--moe-freq", "0", "--moe-insert-after", "1").encoder.layers[1]
    assert inserted.feed_forward.own_residual


def test_options_reach_the_layer():
    flags = "--moe-router linear --moe-gate sigmoid --moe-top-k 2 --moe-capacity-factor 1.5 --moe-overflow input"
    layer = moe_mt(*flags.split(), "--moe-eval-capacity-factor", "3").encoder.layers[0].feed_forward
    assert isinstance(layer.router, LinearRouter) and layer.router.gate == "sigmoid" and layer.router.top_k == 2
    assert (layer.capacity_factor, layer.eval_capacity_factor, layer.overflow) == (1.5, 3, "input")
    flags = "--moe-clusters 2 --moe-cluster-variance 2 --moe-cluster-dropout 0.5 --moe-variance-tokens 0"
    layer = moe_mt(*flags.split(), "--moe-routing-dim", "3", "--moe-temperature", "0.2").decoder.layers[1].feed_forward
    assert isinstance(layer.router, CosineRouter) and layer.router.projection.weight.shape == (3, 16)
    assert layer.router.temperature.item() == pytest.approx(0.2) == layer.router.balance_temperature
    assert (layer.clusters, layer.cluster_variance_type, layer.cluster_dropout, layer.variance_tokens) == (2, 2, 0.5, 0)


def test_defaults_are_xmoe_s():
    layer = moe_mt().encoder.layers[0].feed_forward
    assert isinstance(layer.router, CosineRouter) and layer.router.expert_embedding.shape == (4, 2)
    assert layer.router.temperature.item() == pytest.approx(0.3)
    assert layer.eval_capacity_factor == 0 and layer.clusters == 1


@pytest.mark.parametrize("residual", ["post", "deepnorm", "subln"])
def test_gains_reach_experts_and_not_the_router(residual):
    torch.manual_seed(5)
    wide = [*TINY_MT, *EXPERTS, "--residual", residual, "--encoder-ffn-embed-dim", "4000"]
    layer = build("transformer_mt", WORDS, *wide).encoder.layers[0]
    gain = layer.scheme.gain
    sublayer = layer.feed_forward.experts.sublayers[0]
    for weights in (sublayer.fc1_weight, sublayer.fc2_weight):
        assert weights.std().item() == pytest.approx(gain * (2 / 4016) ** 0.5, rel=0.01)
    torch.manual_seed(5)
    plain = build("transformer_mt", WORDS, *wide, "--residual", "post").encoder.layers[0].feed_forward.router
    assert torch.equal(layer.feed_forward.router.projection.weight, plain.projection.weight)


def test_layers_and_experts_start_differently():
    model = moe_mt()
    weights = [layer.feed_forward.experts.sublayers[0].fc1_weight for layer in model.encoder.layers]
    assert len({weight[expert].sum().item() for weight in weights for expert in range(4)}) == 12


@pytest.mark.parametrize(
    "flags", [[], ["--moe-top-k", "2"], ["--moe-insert-after", "1"], ["--moe-expert-sublayers", "2"]], ids=" ".join
)
def test_step_by_step_equals_the_full_forward(flags):
    model = moe_mt(*flags)
    encoder_out = model.encoder(SOURCE)
    previous = sentences(WORDS, [20, 20, 20], seed=2)
    full = model.decoder(previous, encoder_out=encoder_out)[0]
    state = {}
    for length in range(1, 21):
        step = model.decoder(previous[:, :length], encoder_out=encoder_out, incremental_state=state)[0]
        assert_close(step[:, -1], full[:, length - 1])


def test_padding_changes_nothing():
    model = moe_mt()
    alone = model.encoder(SOURCE[1:2, 5:])["encoder_out"][0]
    assert_close(model.encoder(SOURCE)["encoder_out"][0][5:, 1:2], alone)


def test_recomputation_changes_no_gradient_and_no_loss():
    results = []
    for flags in ([], ["--checkpoint-activations"]):
        model = moe_mt("--moe-capacity-factor", "1", *flags).train()
        logits, extra = model(SOURCE, None, shifted(TARGET, WORDS))
        reports = extra["auxiliary"].consume()
        (logits.sum() + sum(report[0] for report in reports)).backward()
        results.append([logits, *reports, *(parameter.grad for parameter in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        assert_close(plain, recomputed)


def test_language_models_take_experts_too():
    torch.manual_seed(5)
    flags = ["--encoder-layers", "2", "--encoder-embed-dim", "16", "--encoder-attention-heads", "2", *EXPERTS]
    masked = build("transformer_mlm", WORDS, *flags, task="masked_lm").train()
    logits, extra = masked(SOURCE, masked_tokens=SOURCE.eq(5))
    assert len(extra["auxiliary"]) == 2 and logits.size(0) == int(SOURCE.eq(5).sum())
    flags = ["--decoder-layers", "2", "--decoder-embed-dim", "16", "--decoder-attention-heads", "2", *EXPERTS]
    causal = build("transformer_clm", WORDS, *flags, task="language_modeling").train()
    assert len(causal(TARGET)[1]["auxiliary"]) == 2


def test_frozen_experts_do_not_learn():
    model = moe_mt("--freeze-moe").train()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".feed_forward." not in name), name
    logits, extra = model(SOURCE, None, shifted(TARGET, WORDS))
    sum(report[0] for report in extra["auxiliary"].consume()).backward()
    assert model.encoder.embed_tokens.weight.grad.abs().sum() > 0  # the balance loss reaches what flows in


def test_a_loss_that_nobody_consumes_stops_the_backward_pass():
    model = moe_mt().train()
    logits, extra = model(SOURCE, None, shifted(TARGET, WORDS))
    with pytest.raises(SystemExit, match="label_smoothed_cross_entropy_with_moe, masked_lm_with_moe"):
        logits.sum().backward()
    logits, extra = model(SOURCE, None, shifted(TARGET, WORDS))
    extra["auxiliary"].consume()
    logits.sum().backward()


def test_experts_survive_a_copy_and_a_state_dict():
    model = moe_mt("--moe-router", "linear")
    other = moe_mt("--moe-router", "linear")
    other.load_state_dict(copy.deepcopy(model).state_dict())
    assert torch.equal(other(SOURCE, None, shifted(TARGET, WORDS))[0], model(SOURCE, None, shifted(TARGET, WORDS))[0])
    names = model.state_dict()
    assert names["encoder.layers.0.feed_forward.experts.sublayers.0.fc1_weight"].shape == (4, 24, 16)
    assert names["decoder.layers.1.feed_forward.alive"].dtype == torch.bool
    assert checkpoint_utils.prune_state_dict(names, None) is names


def test_moec_preset_is_the_released_configuration():
    with torch.device("meta"):
        model = build("moec_mt_wmt14", WORDS)
    assert places(model.encoder) == places(model.decoder) == ["dense"] * 3 + ["moe"] + ["dense"] * 2
    layer = model.encoder.layers[3].feed_forward
    assert (layer.count, len(layer.experts.sublayers), layer.clusters) == (64, 3, 8)
    assert (layer.cluster_dropout, layer.capacity_factor, layer.variance_tokens) == (0.5, 16, 0)
    assert layer.router.gate == "sigmoid" and layer.router.projection.weight.shape == (32, 1024)


def test_xmoe_presets():
    with torch.device("meta"):
        masked = build("xmoe_mlm_base", WORDS, task="masked_lm")
        translation = build("xmoe_mt_base", WORDS)
    assert places(masked.encoder).index("inserted") == 6 and len(masked.encoder.layers) == 13
    assert masked.encoder.layers[6].feed_forward.router.projection.weight.shape == (16, 768)  # Section 4.1: d_e = N/2
    assert places(translation.encoder) == ["dense", "moe"] * 3


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--moe-experts -1", "--moe-experts -1 must not be negative"),
        ("--moe-experts 0", "--moe-freq needs --moe-experts"),
        ("--moe-experts 0 --moe-freq 0 --moe-expert-parallel-size 2", "--moe-expert-parallel-size needs --moe-experts"),
        ("--moe-freq 0", "needs --moe-freq or --moe-insert-after"),
        ("--moe-freq 3", "--moe-freq 3 must be between 0 and --decoder-layers 2"),
        ("--moe-insert-after 4", "--moe-insert-after 4 must be between 0 and --encoder-layers 3"),
        ("--moe-top-k 3", "--moe-top-k 3 must be 1 or 2"),
        ("--moe-experts 1 --moe-top-k 2", "--moe-top-k 2 must be 1 or 2 and at most --moe-experts 1"),
        ("--moe-clusters 3", "--moe-experts 4 must be a multiple of --moe-clusters 3"),
        ("--moe-clusters 0", "--moe-clusters 0 must be at least 1"),
        ("--moe-expert-parallel-size 3", "--moe-experts 4 must be a multiple of --moe-expert-parallel-size 3"),
        ("--moe-expert-parallel-size 2", "--moe-expert-parallel-size 2 must be 1 or the number of processes, 1"),
        ("--moe-cluster-dropout 1.0", "--moe-cluster-dropout 1.0 must be at least 0 and below 1"),
        ("--moe-cluster-dropout 0.9 --moe-top-k 2", "leaves 1 experts, fewer than --moe-top-k 2"),
        ("--moe-cluster-variance 3", "--moe-cluster-variance 3 must be 0, 1 or 2"),
        ("--moe-capacity-factor -0.5", "--moe-capacity-factor -0.5 must be at least 0"),
        ("--moe-temperature 0", "--moe-temperature 0.0 must be above 0"),
        ("--moe-routing-dim 0", "--moe-routing-dim 0 must be at least 1"),
        ("--moe-expert-sublayers 0", "--moe-expert-sublayers 0 must be at least 1"),
        ("--moe-dropout 1.5", "--moe-dropout 1.5 must be at least 0 and below 1"),
    ],
)
def test_flags_out_of_range_are_named(flags, message):
    with pytest.raises(OptionError) as refused:
        moe_mt(*flags.split())
    assert message in str(refused.value)


def test_a_side_that_the_model_lacks_is_refused():
    with pytest.raises(OptionError, match="--moe-side decoder: this model has no decoder"):
        build("transformer_mlm", WORDS, *EXPERTS, "--moe-side", "decoder", task="masked_lm")
