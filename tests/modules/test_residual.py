import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fairseq_plugins.modules.residual import ResidualScheme, residual_schemes

DEEPNORM = {  # N-N: encoder alpha, encoder beta, decoder alpha, decoder beta (DeepNet, Figure 2b, by hand)
    6: (1.4179, 0.4970, 2.0598, 0.3433),
    18: (1.9987, 0.3526, 2.7108, 0.2608),
    50: (2.7505, 0.2562, 3.4996, 0.2021),
    100: (3.4157, 0.2063, 4.1618, 0.1699),
    500: (5.6482, 0.1248, 6.2233, 0.1136),
}


@pytest.mark.parametrize("layers", DEEPNORM)
def test_deepnorm_encoder_decoder_constants(layers):
    encoder, decoder = residual_schemes("deepnorm", layers, layers)
    found = encoder.alpha, encoder.gain, decoder.alpha, decoder.gain
    assert found == pytest.approx(DEEPNORM[layers], abs=6e-5)
    assert (encoder.cross_gain, decoder.cross_gain) == (encoder.gain, decoder.gain)
    assert not (encoder.norm_first or decoder.norm_first or encoder.inner_norm or decoder.inner_norm)


@pytest.mark.parametrize(
    "layers, alpha, beta", [(12, 2.2134, 0.3195), (24, 2.6321, 0.2686), (48, 3.1302, 0.2259), (100, 3.7606, 0.1880)]
)
def test_deepnorm_single_stack_constants(layers, alpha, beta):
    for n, m in ((layers, 0), (0, layers)):
        schemes = residual_schemes("deepnorm", n, m)
        scheme = schemes.encoder or schemes.decoder
        assert (schemes.encoder is None) == (n == 0) and (schemes.decoder is None) == (m == 0)
        assert (scheme.alpha, scheme.gain) == pytest.approx((alpha, beta), abs=6e-5)


def test_deepnorm_with_unequal_stacks():
    encoder, decoder = residual_schemes("deepnorm", 12, 3)
    assert encoder.alpha == pytest.approx(0.81 * (12**4 * 3) ** (1 / 16))
    assert decoder.gain == pytest.approx(36**-0.25)


@pytest.mark.parametrize(
    "n, m, encoder_gain, decoder_gain",
    [
        (6, 6, 1.5473, 1.7001),
        (12, 12, 1.9484, 1.8930),
        (18, 18, 2.1829, 1.9972),
        (24, 24, 2.3492, 2.0680),
        (6, 0, 1.5764, None),
        (0, 24, None, 1.9675),
    ],
)
def test_subln_gains(n, m, encoder_gain, decoder_gain):
    for scheme, gain in zip(residual_schemes("subln", n, m), (encoder_gain, decoder_gain), strict=True):
        if gain is None:
            assert scheme is None
        else:
            assert scheme.gain == pytest.approx(gain, abs=6e-5)
            assert (scheme.norm_first, scheme.inner_norm, scheme.alpha, scheme.cross_gain) == (True, True, 1.0, 1.0)


def test_deepnorm_with_alpha_and_beta_one_is_post_norm():
    for deepnorm, post in zip(residual_schemes("deepnorm", 6, 4), residual_schemes("post", 6, 4), strict=True):
        assert deepnorm != post
        assert replace(deepnorm, alpha=1.0, gain=1.0, cross_gain=1.0) == post


@pytest.mark.parametrize(
    "arguments, word", [(("deep", 6, 6), "--residual deep"), (("post", 0, 0), "not both 0"), (("pre", -1, 2), "-1")]
)
def test_bad_values_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        residual_schemes(*arguments)


@pytest.mark.parametrize("norm_first", [False, True])
def test_connect_by_hand(norm_first):
    norm = nn.LayerNorm(2)
    x = torch.tensor([[[1.0, 3.0]]])
    scheme = ResidualScheme(norm_first, alpha=2.0)
    found, extra = scheme.connect(x, lambda y: (10 * y, "seen"), norm, nn.Identity())
    unit = 1 / math.sqrt(1 + 1e-5)  # both inputs have deviation +-1 before eps
    if norm_first:
        expected = torch.tensor([[[2.0 - 10 * unit, 6.0 + 10 * unit]]])
    else:  # 2x + 10x = (12, 36), normed
        expected = torch.tensor([[[-1.0, 1.0]]]) * 12 / math.sqrt(144 + 1e-5)
    torch.testing.assert_close(found, expected)
    assert extra == "seen"
