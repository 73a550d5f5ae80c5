"""What stock fairseq and CTranslate2 lack is refused by its flag."""

import pytest

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.engines.plain_transformer import plain_transformer
from tests.models_support import TINY_MT, build, dictionary, model_config


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--interleaved-ffn"], "--interleaved-ffn"),
        (["--ffn-gate"], "--ffn-gate"),
        (["--norm", "rms"], "--norm rms"),
        (["--relative-bias-buckets", "8"], "--relative-bias-buckets 8"),
        (["--attention-head-dim", "6"], "--attention-head-dim 6"),
    ],
)
def test_options_that_no_plain_transformer_has_are_refused(flags, says):
    network = build("transformer_mt", dictionary(), *TINY_MT, *flags)
    model = dict(model_config("transformer_mt", *TINY_MT, *flags).model)
    with pytest.raises(UserError, match=f"x.pt was trained with {says}, which no plain Transformer has"):
        plain_transformer({"cfg": {"model": model}, "model": network.state_dict()}, "x.pt")


def test_an_option_that_says_what_is_so_anyway_does_no_harm():
    flags = ["--attention-head-dim", "4", "--decoder-attention-heads", "4", "--relative-bias-max-distance", "9"]
    network = build("transformer_mt", dictionary(), *TINY_MT, *flags)
    model = dict(model_config("transformer_mt", *TINY_MT, *flags).model)
    plain = plain_transformer({"cfg": {"model": model}, "model": network.state_dict()}, "x.pt")
    assert "attention_head_dim" not in plain.options and "encoder.layers.0.fc1.weight" in plain.state
