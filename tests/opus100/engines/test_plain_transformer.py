"""What stock fairseq and CTranslate2 lack is refused by its flag."""

import pytest
import torch

from fairseq_plugins._verbs import UserError
from fairseq_plugins.checkpoints.fairseq_names import to_fairseq
from fairseq_plugins.opus100.engines.plain_transformer import plain_transformer
from tests.models_support import TINY_MT, build, dictionary, model_config, randomised, sentences, shifted


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


@pytest.mark.parametrize("heads", [(), ("--attention-head-dim", "8", "--encoder-attention-heads", "2")])
@pytest.mark.parametrize("temperature", ["0", "3", "20"])
def test_a_temperature_is_folded_into_the_queries(temperature, heads):
    """Stock fairseq has the same logits with ordinary attention; heads are 4 and 8 wide by side, or 8 on both."""
    words = dictionary()
    flags = [*TINY_MT, *heads, "--attention-temperature", temperature]
    ours = randomised(words, *flags[len(TINY_MT) :])
    saved = {"cfg": {"model": dict(model_config("transformer_mt", *flags).model)}, "model": ours.state_dict()}
    plain = plain_transformer(saved, "x.pt")
    stock = build("transformer", words, *TINY_MT, *heads[2:]).double()
    stock.load_state_dict(plain.state)
    source, target = sentences(words, [7, 4, 9], left_pad=True), sentences(words, [5, 8, 3], seed=1)
    previous = shifted(target, words)
    real = previous.ne(words.pad())
    found, expected = (model(source, source.ne(words.pad()).sum(1), previous)[0][real] for model in (stock, ours))
    torch.testing.assert_close(found, expected)
    queries = [name for name in plain.state if not torch.equal(plain.state[name], stock_named(ours)[name])]
    assert all("q_proj" in name for name in queries) and len(queries) == (0 if temperature == "0" else 2 * (3 + 2 * 2))


def stock_named(model):
    return to_fairseq(model.state_dict())


def test_an_xlm_t_is_a_plain_transformer():
    """Its stock form has the same logits: post-norm, GELU, learned positions, a norm and no scale on the embeddings."""
    words = dictionary()
    ours = build("xlm_t_tiny", words).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    saved = {"cfg": {"model": dict(model_config("xlm_t_tiny").model)}, "model": ours.state_dict()}
    plain = plain_transformer(saved, "x.pt")
    flags = "--share-all-embeddings --layernorm-embedding --no-scale-embedding".split()
    for side in ("encoder", "decoder"):
        flags += [f"--{side}-learned-pos"]
        for shape in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads"):
            flags += [f"--{side}-{shape.replace('_', '-')}", str(plain.options[f"{side}_{shape}"])]
    flags += ["--activation-fn", plain.options["activation_fn"], "--dropout", "0"]
    flags += ["--max-source-positions", "512", "--max-target-positions", "512"]
    stock = build("transformer", words, *flags).double()
    stock.load_state_dict(plain.state)
    source, target = sentences(words, [7, 4, 9], left_pad=True), sentences(words, [5, 8, 3], seed=1)
    previous = shifted(target, words)
    real = previous.ne(words.pad())
    found, expected = (model(source, source.ne(words.pad()).sum(1), previous)[0][real] for model in (ours, stock))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # GELU is computed in float32
