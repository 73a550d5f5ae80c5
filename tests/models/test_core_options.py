"""Options of the core beyond residual schemes: in training, decoding, packing and recomputation, alone and together."""

import math

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from torch.testing import assert_close

from fairseq_plugins.modules import packing
from tests.models_support import TINY_MT, build, dictionary, sentences, shifted

WORDS = dictionary()
SOURCE = sentences(WORDS, [7, 4, 9], left_pad=True)
TARGET = sentences(WORDS, [5, 8, 3], seed=1)
RESIDUALS = ["post", "pre", "deepnorm", "subln"]
MOE = ["--moe-experts", "4", "--moe-freq", "1"]
OPTIONS = {
    "interleaved": ["--interleaved-ffn"],
}
every_option = pytest.mark.parametrize("flags", [pytest.param(flags, id=name) for name, flags in OPTIONS.items()])


def randomised(*flags):
    torch.manual_seed(5)
    model = build("transformer_mt", WORDS, *TINY_MT, *flags).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


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
    model = randomised(*flags, "--residual", residual)
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
    model = randomised(*flags)
    generator = SequenceGenerator([model], WORDS, beam_size=4, max_len_b=15, normalize_scores=False)
    found = generator.generate([model], {"net_input": {"src_tokens": SOURCE, "src_lengths": None}})
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
        model = randomised(*flags, "--residual", residual, "--dropout", "0.2", *recompute)
        found.append(logits_and_gradients(model))
    assert_close(found[1], found[0])


@every_option
@pytest.mark.parametrize("residual", RESIDUALS)
def test_leaving_padding_out_changes_nothing(flags, residual, monkeypatch):
    model = randomised(*flags, "--residual", residual)
    packed = logits_and_gradients(model)
    monkeypatch.setattr(packing, "WORTHWHILE", 1.0)
    assert_close(logits_and_gradients(model), packed)


@every_option
def test_padding_has_no_influence(flags):
    model = randomised(*flags)
    together = model(SOURCE, None, shifted(TARGET, WORDS))[0]
    for row, (source, target) in enumerate(zip(SOURCE, shifted(TARGET, WORDS), strict=True)):
        source, target = (tokens[tokens.ne(WORDS.pad())][None] for tokens in (source, target))
        assert_close(together[row : row + 1, : target.size(1)], model(source, None, target)[0])


@every_option
def test_half_precision_stays_near(flags):
    model = randomised(*flags)
    inputs = SOURCE, None, shifted(TARGET, WORDS)
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    whole = model(*inputs)[0].log_softmax(-1)
    for dtype in (torch.bfloat16, torch.float16):
        half = model.to(dtype)(*inputs)[0]
        assert half.dtype == dtype
        assert_close(half.double().log_softmax(-1), whole, atol=0.15, rtol=0)


@every_option
def test_an_option_changes_the_network_and_its_absence_nothing(flags):
    """Off, the state dict is the plain one; on, the same inputs give other numbers."""
    plain, other = randomised(), randomised(*flags)
    assert other.state_dict().keys() != plain.state_dict().keys()
    other.load_state_dict(plain.state_dict(), strict=False)
    inputs = SOURCE, None, shifted(TARGET, WORDS)
    assert not torch.allclose(other(*inputs)[0], plain(*inputs)[0])


# ---- interleaved feed-forwards ---------------------------------------------------------------------------------------


def test_experts_take_the_second_place_of_an_interleaved_layer(monkeypatch):
    monkeypatch.setattr("fairseq_plugins.models._auxiliary.AuxiliaryLosses._check", lambda *_: None)
    model = randomised("--interleaved-ffn", *MOE)
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
