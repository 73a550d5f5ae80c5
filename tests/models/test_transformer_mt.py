import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fairseq import models
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import open_dict

from fairseq_plugins.models.transformer_mt import PRESETS
from fairseq_plugins.modules.residual import residual_schemes
from tests.models_support import TINY_MT, build, dictionary, model_config, randomised, sentences, shifted

WORDS = dictionary()
SOURCE = sentences(WORDS, [7, 4, 9], left_pad=True)
TARGET = sentences(WORDS, [5, 8, 3], seed=1)
RESIDUALS = ["post", "pre", "deepnorm", "subln"]


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("positions", [(), ("--decoder-learned-pos",)], ids=["sinusoidal", "learned"])
def test_step_by_step_equals_the_full_forward(residual, positions):
    model = randomised(WORDS, "--residual", residual, *positions)
    encoder_out = model.encoder(SOURCE)
    previous = sentences(WORDS, [24, 24, 24], seed=2)  # beyond one growth of the cache
    full = model.decoder(previous, encoder_out=encoder_out)[0]
    state = {}
    for length in range(1, 25):
        step = model.decoder(previous[:, :length], encoder_out=encoder_out, incremental_state=state)[0]
        torch.testing.assert_close(step[:, -1], full[:, length - 1])


def test_a_prefix_can_be_read_in_one_step():
    model = randomised(WORDS)
    encoder_out = model.encoder(SOURCE)
    previous = sentences(WORDS, [6, 6, 6], seed=2)
    full = model.decoder(previous, encoder_out=encoder_out)[0]
    state = {}
    prefix = model.decoder(previous[:, :4], encoder_out=encoder_out, incremental_state=state)[0]
    rest = model.decoder(previous, encoder_out=encoder_out, incremental_state=state)[0]
    torch.testing.assert_close(torch.cat([prefix, rest], 1), full)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_beams_sharing_memory_decode_like_beams_that_do_not(residual, monkeypatch):
    found = []
    for shared in (True, False):
        model = randomised(WORDS, "--residual", residual)
        if not shared:
            monkeypatch.setattr(type(model), "set_beam_size", lambda self, beam: None)
        generator = SequenceGenerator([model], WORDS, beam_size=4, max_len_b=15)
        sample = {"net_input": {"src_tokens": SOURCE, "src_lengths": SOURCE.ne(WORDS.pad()).sum(1)}}
        found.append(generator.generate([model], sample))
        assert model.decoder.beam_size == (4 if shared else 1)
    for one, other in zip(*found, strict=True):
        assert [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]


def test_a_beam_size_left_by_another_generator_does_no_harm():
    model = randomised(WORDS)
    greedy = SequenceGenerator([model], WORDS, beam_size=1, max_len_b=10)
    sample = {"net_input": {"src_tokens": SOURCE, "src_lengths": SOURCE.ne(WORDS.pad()).sum(1)}}
    before = greedy.generate([model], sample)
    model.set_beam_size(3)  # divides the three rows, which are different sentences
    after = greedy.generate([model], sample)
    assert [h[0]["tokens"].tolist() for h in before] == [h[0]["tokens"].tolist() for h in after]


@pytest.mark.parametrize("residual", RESIDUALS)
def test_start_strength_of_every_weight(residual):
    wide = [
        "--encoder-embed-dim",
        "256",
        "--decoder-embed-dim",
        "256",
        "--encoder-layers",
        "2",
        "--decoder-layers",
        "3",
    ]
    wide += ["--encoder-ffn-embed-dim", "512", "--decoder-ffn-embed-dim", "512"]
    model = build("transformer_mt", WORDS, "--residual", residual, *wide)
    schemes = residual_schemes(residual, 2, 3)
    checked = 0
    for side, scheme in zip(("encoder", "decoder"), schemes, strict=True):
        for name, parameter in getattr(model, side).layers.named_parameters():
            if not name.endswith("weight") or "norm" in name:
                continue
            strong = scheme.cross_gain if "encoder_attn" in name else scheme.gain
            gain = 1.0 if "q_proj" in name or "k_proj" in name else strong
            xavier = math.sqrt(2 / sum(parameter.shape))
            assert parameter.std().item() == pytest.approx(gain * xavier, rel=0.02), f"{side} {name}"
            checked += 1
    assert checked == 2 * 6 + 3 * 10


def test_deepnorm_with_alpha_and_beta_one_is_plain_post_norm():
    plain, deep = randomised(WORDS, "--residual", "post"), randomised(WORDS, "--residual", "deepnorm")
    inputs = SOURCE, None, shifted(TARGET, WORDS)
    assert not torch.allclose(deep(*inputs)[0], plain(*inputs)[0])
    for layer in [*deep.encoder.layers, *deep.decoder.layers]:
        layer.scheme = replace(layer.scheme, alpha=1.0)  # weights are the same already: gains matter at the start only
    torch.testing.assert_close(deep(*inputs)[0], plain(*inputs)[0], rtol=0, atol=0)


BILLION = {  # parameters with one 250,002-row table (DeepNet, Table 2: 863M and 3.8B; Section 6: 3.2B)
    "deepnet_mt_200l": 863.6,
    "deepnet_mt_1000l": 3806,
    "deepnet_mt_200l_big": 3195,
}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_on_the_meta_device(preset):
    words = dictionary(250_002 - 4) if preset in BILLION else dictionary()
    with torch.device("meta"):
        model = build(preset, words)
    sides = {side: len(getattr(model, side).layers) for side in ("encoder", "decoder")}
    if preset.startswith(("deepnet", "magneto")) and preset != "deepnet_mt_tiny":
        total = int(preset.split("_")[2].rstrip("l"))
        assert sides == {"encoder": total // 2, "decoder": total // 2}
        assert model.decoder.output_projection.weight is model.encoder.embed_tokens.weight
    if preset in BILLION:
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(BILLION[preset], rel=5e-4)


def test_a_flag_wins_over_its_preset():
    model = model_config("deepnet_mt_36l", "--encoder-layers", "2", "--residual", "pre").model
    assert (model.encoder_layers, model.decoder_layers, str(model.residual), model.share_all_embeddings) == (
        2,
        18,
        "pre",
        True,
    )


def test_a_preset_checkpoint_older_than_an_option_gets_its_default():
    cfg = model_config("deepnet_mt_tiny").model
    with open_dict(cfg):
        del cfg["layernorm_embedding"]
    task = SimpleNamespace(source_dictionary=WORDS, target_dictionary=WORDS)
    assert models.build_model(cfg, task, from_checkpoint=True).encoder.layernorm_embedding is None
    assert cfg.layernorm_embedding is False and cfg.encoder_layers == 3


def test_presets_are_registered_under_the_model():
    assert all(ARCH_MODEL_REGISTRY[name] is ARCH_MODEL_REGISTRY["transformer_mt"] for name in PRESETS)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--encoder-attention-heads", "3"), "--encoder-attention-heads 3"),
        (("--decoder-layers", "0"), "--decoder-layers 0"),
        (("--dropout", "1.0"), "--dropout 1.0"),
        (("--decoder-ffn-embed-dim", "-1"), "--decoder-ffn-embed-dim -1"),
        (("--max-source-positions", "0"), "--max-source-positions 0"),
        (("--share-all-embeddings", "--decoder-embed-dim", "32"), "--decoder-embed-dim 32"),
    ],
)
def test_flags_out_of_range_are_named(flags, words):
    with pytest.raises(ValueError, match=words):
        build("transformer_mt", WORDS, *TINY_MT, *flags)


def test_share_all_embeddings_needs_one_dictionary():
    cfg = model_config("transformer_mt", *TINY_MT, "--share-all-embeddings").model
    task = SimpleNamespace(source_dictionary=dictionary(20), target_dictionary=dictionary(21))
    with pytest.raises(ValueError, match="one dictionary"):
        models.build_model(cfg, task)


def test_encoder_output_follows_its_rows():
    """Beams that change places within their sentence need no copy; whatever else happens, rows are what was asked."""
    model = build("transformer_mt", WORDS, *TINY_MT)
    output = model.encoder(sentences(WORDS, [5, 5, 3]))

    def rows(out):
        return out["encoder_out"][0].transpose(0, 1), out["encoder_padding_mask"][0]

    plain = rows(output)
    for order, copied in (
        ([2, 0, 1], True),  # no beams yet: sentences change places
        ([0, 0, 1, 1, 2, 2], True),
        ([1, 0, 3, 3, 5, 4], False),
        ([1, 1, 4, 5], True),  # the second sentence is done
        ([0, 0, 2, 3], False),
        ([2, 3, 0, 1], True),  # whole sentences change places
        ([3, 2, 1, 1], True),
        ([0, 2, 3], True),
        ([2, 1, 0], True),
    ):
        order = torch.tensor(order)
        before, output = output, model.encoder.reorder_encoder_out(output, order)
        assert (output is not before) == copied, order
        plain = tuple(part[order] for part in plain)
        for found, wanted in zip(rows(output), plain, strict=True):
            assert torch.equal(found, wanted), order


def test_layout_for_decoding_changes_no_number():
    model = build("transformer_mt", WORDS, *TINY_MT)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net_input = dict(src_tokens=sentences(WORDS, [5, 3]), src_lengths=None, prev_output_tokens=sentences(WORDS, [4, 4]))
    logits = model(**net_input)[0]
    model.make_generation_fast_(beamable_mm_beam_size=5, need_attn=False)
    assert model.decoder.layers[0].self_attn.q_proj.weight.stride(0) == 1, "stored column by column"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(model(**net_input)[0], logits)
