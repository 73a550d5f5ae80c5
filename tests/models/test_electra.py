"""ELECTRA's two networks: what they share, what reaches whom, what is drawn and where; sizes of the presets."""

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from fairseq_plugins.data.symbols import MASK, language_tag
from fairseq_plugins.models._build import OptionError
from tests.models_support import build, dictionary, model_config

WORDS = dictionary(30)
for symbol in (language_tag("de"), MASK):
    WORDS.add_symbol(symbol)
SHAPE = (
    "--encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 24 --encoder-attention-heads 4 --dropout 0 "
    "--attention-dropout 0 --max-source-positions 20"
).split()
SHARED = ["embed_tokens.weight", "embed_positions.weight", "embed_segments.weight"]


def model_of(*flags, arch="electra_tiny", seed=0):
    torch.manual_seed(seed)
    model = build(arch, WORDS, *SHAPE, *flags, task="masked_lm").double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch_of_three():
    """Texts, what the generator reads, and where it is masked; the last text is shorter."""
    dice = torch.Generator().manual_seed(4)
    originals_BT = torch.randint(WORDS.nspecial, WORDS.nspecial + 30, (3, 9), generator=dice)
    originals_BT[:, 0], originals_BT[:2, -1] = WORDS.bos(), WORDS.eos()
    originals_BT[2, 5], originals_BT[2, 6:] = WORDS.eos(), WORDS.pad()
    masked_BT = torch.zeros(3, 9, dtype=torch.bool)
    masked_BT[[0, 0, 1, 2, 2], [2, 5, 3, 1, 4]] = True
    source_BT = originals_BT.masked_fill(masked_BT, WORDS.index(MASK))
    source_BT[0, 5] = originals_BT[0, 5]  # one of them stands there itself
    return originals_BT, source_BT, masked_BT


def forward(model, seed=1, **more):
    originals_BT, source_BT, masked_BT = batch_of_three()
    noise = torch.Generator().manual_seed(seed)
    return model(source_BT, originals=originals_BT, masked=masked_BT, noise=noise, **more)


@pytest.mark.parametrize("flags", [[], ["--embedding-dim", "12"]])
@pytest.mark.parametrize("hardness", ["none", "loss", "dist"])
def test_tables_are_shared_and_nothing_else(hardness, flags):
    model = model_of("--hardness", hardness, *flags)
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    shared = sorted(sorted(group) for group in names.values() if len(group) > 1)
    heads = [f"{head}.weight" for head in ("generator.lm_head", *(["hardness_head"] if hardness != "none" else []))]
    assert shared == sorted(
        sorted([f"generator.{name}", f"discriminator.{name}", *(heads if name == SHARED[0] else [])]) for name in SHARED
    )
    assert (model.generator.dim, model.discriminator.dim) == (8, 16)
    assert model.discriminator.embed_tokens.embedding_dim == (12 if flags else 16)
    assert (model.discriminator.embed_project is None) == (not flags)
    assert model.generator.lm_head.dense.weight.shape == (12 if flags else 16, 8)


def test_the_generator_is_a_masked_language_model_of_its_own():
    model = model_of()
    flags = "--encoder-layers 2 --encoder-embed-dim 8 --encoder-ffn-embed-dim 32 --encoder-attention-heads 1".split()
    more = ["--embedding-dim", "16", "--segments", "2", "--dropout", "0", "--max-source-positions", "20"]
    alone = build("transformer_mlm_base", WORDS, *flags, *more, task="masked_lm").double()
    alone.encoder.load_state_dict(model.generator.state_dict())
    source_BT = batch_of_three()[1]
    assert_close(model.generator(source_BT)[0], alone(source_BT)[0])


@pytest.mark.parametrize("hardness", ["none", "loss", "dist"])
def test_only_masked_places_change_and_only_into_pieces_of_text(hardness):
    model = model_of("--hardness", hardness)
    originals_BT, _, masked_BT = batch_of_three()
    seen = set()
    for seed in range(150):
        output = forward(model, seed)[1]["electra"]
        assert output.tokens_BT[~masked_BT].equal(originals_BT[~masked_BT])
        assert output.tokens_BT[masked_BT].equal(output.sample.tokens_N)
        seen.update(output.sample.tokens_N.tolist())
    pieces = {WORDS.index(f"w{number}") for number in range(30)}
    assert seen <= pieces and len(seen) > 10


def test_scores_are_those_of_the_text_with_replacements():
    model = model_of()
    scores_BT, extra = forward(model)
    again_BT, _ = model.discriminator(extra["electra"].tokens_BT)
    assert_close(scores_BT, again_BT)
    assert scores_BT.shape == (3, 9)


def test_padding_changes_nothing():
    model = model_of()
    short, source, masked = (tensor[2:, :6] for tensor in batch_of_three())
    longer = torch.nn.functional.pad(source, (0, 3), value=WORDS.pad())
    fillers = ((short, WORDS.pad()), (masked, False))
    wide = [torch.nn.functional.pad(tensor, (0, 3), value=filler) for tensor, filler in fillers]
    found = model(source, originals=short, masked=masked, noise=torch.Generator().manual_seed(3))
    padded = model(longer, originals=wide[0], masked=wide[1], noise=torch.Generator().manual_seed(3))
    assert_close(found[0], padded[0][:, :6])
    assert found[1]["electra"].sample.tokens_N.equal(padded[1]["electra"].sample.tokens_N)


def test_segments_reach_both_networks():
    model = model_of()
    segments_BT = torch.zeros(3, 9, dtype=torch.long)
    segments_BT[:, 4:] = 1
    plain, told = forward(model), forward(model, segments=segments_BT)
    assert not torch.allclose(plain[1]["electra"].generated_NG, told[1]["electra"].generated_NG)
    again_BT, _ = model.discriminator(told[1]["electra"].tokens_BT, segments_BT)
    assert_close(told[0], again_BT)


def test_no_gradient_passes_through_what_was_drawn():
    model = model_of("--hardness", "loss")
    scores_BT, extra = forward(model)
    assert not extra["electra"].sample.log_sampler_N.requires_grad
    scores_BT.sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    generators = {name for name in reached if name.startswith(("generator.", "hardness_head"))}
    assert generators == {f"generator.{name}" for name in SHARED}
    assert "discriminator.layers.0.feed_forward.fc1.weight" in reached


@pytest.mark.parametrize(
    "arch, millions",
    [
        # of the discriminator, as the spec's widths make them over a vocabulary of 30,522 and 512 positions
        ("electra_small", 13.5),
        ("electra_base", 109),
    ],
)
def test_presets_have_the_papers_sizes(arch, millions):
    with torch.device("meta"):
        model = build(arch, dictionary(30518), "--max-source-positions", "512", task="masked_lm")
    count = sum(parameter.numel() for parameter in model.discriminator.parameters())
    assert abs(count / 1e6 - millions) / millions < 0.01


def test_widths_of_the_generators():
    """A quarter of 256, a third of 768 (Clark et al. 2020, Table 6), heads of 64."""
    for arch, width, heads in (("electra_small", 64, 1), ("electra_base", 256, 4)):
        with torch.device("meta"):
            generator = build(arch, WORDS, "--max-source-positions", "20", task="masked_lm").generator
        layer = generator.layers[0]
        assert (generator.dim, layer.self_attn.heads, layer.feed_forward.fc1.out_features) == (width, heads, 4 * width)
        assert len(generator.layers) == 12


def test_experts_are_a_part_of_both():
    model = model_of("--moe-experts", "4", "--moe-freq", "2").train()
    assert len(forward(model)[1]["auxiliary"]) == 2
    assert any("experts" in name for name, _ in model.generator.named_parameters())


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--generator-width 0", "--generator-width 0 must be above 0"),
        ("--generator-width 1.5", "--generator-width 1.5 must be above 0"),
        ("--generator-width 0.9 --encoder-embed-dim 256", "--generator-width 0.9 makes 230 of --encoder-embed-dim 256"),
        ("--generator-layers -1", "--generator-layers -1"),
        ("--gradient-bands 2 --generator-layers 1", "--gradient-bands 2 must be between 0 and --generator-layers 1"),
        ("--moe-experts 2 --moe-freq 2 --generator-layers 1", "--moe-freq 2 must be .* and --generator-layers 1"),
        ("--gradient-bands 3 --generator-layers 4", "--gradient-bands 3 must be between 0 and --encoder-layers 2"),
        ("--sampling-temperature 0", "--sampling-temperature 0 must be above 0"),
        ("--embedding-dim -3", "--embedding-dim -3"),
        ("--hardness loss --hardness-floor 0", "--hardness-floor 0 must be at least 1e-06"),
        ("--hardness dist --hardness-floor 1", "--hardness-floor 1.* needs --hardness loss"),
        ("--hardness-link sigmoid", "--hardness-link sigmoid needs --hardness loss"),
    ],
)
def test_bad_options_are_named(flags, message):
    with pytest.raises(OptionError, match=message):
        build("electra_tiny", WORDS, *SHAPE, *flags.split(), task="masked_lm")


def test_other_criterions_are_refused():
    with pytest.raises(Refusal, match="--criterion electra_hardness"):
        model_of()(batch_of_three()[1], masked_tokens=batch_of_three()[2])


def test_options_are_known_to_the_command_line():
    cfg = model_config("electra_small", "--hardness", "dist", task="masked_lm").model
    assert (cfg.hardness, cfg.embedding_dim, cfg.segments, cfg.generator_layers) == ("dist", 128, 2, 0)
