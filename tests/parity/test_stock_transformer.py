"""Same weights, same logits, same beam search as stock fairseq (float64)."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from tests.models_support import TINY_MT, build, dictionary, sentences, shifted

WORDS = dictionary()
SOURCE = sentences(WORDS, [7, 4, 9], left_pad=True)
TARGET = sentences(WORDS, [5, 8, 3], seed=1)

VARIANTS = [
    pytest.param((), (), "post", id="post"),
    pytest.param(("--encoder-normalize-before", "--decoder-normalize-before"), (), "pre", id="pre"),
    pytest.param(
        (), ("--share-all-embeddings", "--encoder-learned-pos", "--decoder-learned-pos"), "post", id="tied-learned"
    ),
    pytest.param(
        (), ("--layernorm-embedding", "--no-scale-embedding", "--activation-fn", "gelu"), "post", id="norm-gelu"
    ),
    pytest.param(
        (), ("--share-decoder-input-output-embed", "--no-token-positional-embeddings"), "post", id="no-positions"
    ),
]


def pair(stock_only, flags, residual):
    """A stock transformer with random weights and ours holding the same."""
    torch.manual_seed(3)
    stock = build("transformer", WORDS, *TINY_MT, *flags, *stock_only).double()
    for parameter in stock.parameters():  # norms and biases start at 1 and 0: random values make the test see them
        torch.nn.init.normal_(parameter, std=0.3)
    ours = build("transformer_mt", WORDS, *TINY_MT, *flags, "--residual", residual).double()
    ours.load_state_dict(stock.state_dict(), strict=True)
    return stock, ours


@pytest.mark.parametrize("stock_only, flags, residual", VARIANTS)
def test_same_logits(stock_only, flags, residual):
    stock, ours = pair(stock_only, flags, residual)
    inputs = SOURCE, SOURCE.ne(WORDS.pad()).sum(1), shifted(TARGET, WORDS)
    expected, found = stock(*inputs)[0], ours(*inputs)[0]
    real = shifted(TARGET, WORDS).ne(WORDS.pad())
    torch.testing.assert_close(found[real], expected[real], atol=1e-6, rtol=0)


@pytest.mark.parametrize("stock_only, flags, residual", VARIANTS)
@pytest.mark.parametrize("beam", [1, 4])
def test_same_beam_search(stock_only, flags, residual, beam):
    hypotheses = []
    for model in pair(stock_only, flags, residual):
        generator = SequenceGenerator([model], WORDS, beam_size=beam, max_len_b=12)
        sample = {"net_input": {"src_tokens": SOURCE, "src_lengths": SOURCE.ne(WORDS.pad()).sum(1)}}
        hypotheses.append(generator.generate([model], sample))
    for expected, found in zip(*hypotheses, strict=True):
        assert [h["tokens"].tolist() for h in found] == [h["tokens"].tolist() for h in expected]
        torch.testing.assert_close(
            torch.stack([h["score"] for h in found]), torch.stack([h["score"] for h in expected]), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("flags", [(), ("--decoder-normalize-before",)], ids=["post", "pre"])
def test_same_language_model(flags):
    shape = (
        "--decoder-layers",
        "3",
        "--decoder-embed-dim",
        "16",
        "--decoder-ffn-embed-dim",
        "20",
        "--decoder-attention-heads",
        "2",
    )
    options = (*shape, "--dropout", "0.0", "--tokens-per-sample", "64")
    widths = ("--decoder-input-dim", "16", "--decoder-output-dim", "16")
    stock = build("transformer_lm", WORDS, *options, *flags, *widths, task="language_modeling").double()
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    residual = "pre" if flags else "post"
    ours = build("transformer_clm", WORDS, *options, "--residual", residual, task="language_modeling").double()
    ours.load_state_dict(stock.state_dict(), strict=True)
    previous = shifted(TARGET, WORDS)
    real = previous.ne(WORDS.pad())
    torch.testing.assert_close(ours(previous)[0][real], stock(previous)[0][real], atol=1e-6, rtol=0)


def test_same_roberta():
    shape = (
        "--encoder-layers",
        "3",
        "--encoder-embed-dim",
        "16",
        "--encoder-ffn-embed-dim",
        "20",
        "--encoder-attention-heads",
        "2",
    )
    options = (*shape, "--dropout", "0.0", "--attention-dropout", "0.0", "--tokens-per-sample", "64")
    words = dictionary()
    words.add_symbol("<mask>")
    stock = build("roberta", words, *options, task="masked_lm").double()
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = build("transformer_mlm_base", words, *options, task="masked_lm").double()
    ours.load_state_dict(stock.state_dict(), strict=True)
    tokens = sentences(words, [6, 3, 8])
    real = tokens.ne(words.pad())
    torch.testing.assert_close(ours(tokens)[0][real], stock(tokens)[0][real], atol=1e-6, rtol=0)
    masked = torch.zeros_like(real)
    masked[:, 1] = True
    torch.testing.assert_close(
        ours(tokens, masked_tokens=masked)[0], stock(tokens, masked_tokens=masked)[0], atol=1e-6, rtol=0
    )
