"""What stock fairseq and CTranslate2 lack is refused by its flag."""

import pytest

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.engines.plain_transformer import plain_transformer
from tests.models_support import TINY_MT, build, dictionary, model_config


@pytest.mark.parametrize("flags, says", [(["--interleaved-ffn"], "--interleaved-ffn")])
def test_options_that_no_plain_transformer_has_are_refused(flags, says):
    network = build("transformer_mt", dictionary(), *TINY_MT, *flags)
    model = dict(model_config("transformer_mt", *TINY_MT, *flags).model)
    with pytest.raises(UserError, match=f"x.pt was trained with {says}, which no plain Transformer has"):
        plain_transformer({"cfg": {"model": model}, "model": network.state_dict()}, "x.pt")
