"""Every plain Transformer gives the same probabilities in CTranslate2 as in this package or in stock fairseq."""

import pytest
import torch

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.engines.ctranslate2_spec import ctranslate2_spec
from fairseq_plugins.opus100.engines.plain_transformer import plain_transformer
from tests.models_support import TINY_MT, build, dictionary, model_config, sentences, shifted

ctranslate2 = pytest.importorskip("ctranslate2")

WORDS = dictionary()
SOURCE = sentences(WORDS, [7, 4, 9], left_pad=True)
TARGET = sentences(WORDS, [5, 8, 3], seed=1)
WIDE_DECODER = ("--decoder-embed-dim", "24", "--decoder-attention-heads", "4")


def checkpoint(arch, *flags):
    """A model with random weights, and what fairseq-train would save of it."""
    torch.manual_seed(5)
    network = build(arch, WORDS, *TINY_MT, *flags)
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    model = model_config(arch, *TINY_MT, *flags).model
    return network, {"cfg": {"model": model if arch == "transformer" else dict(model)}, "model": network.state_dict()}


def log_probabilities(network):
    """Of every real target token: a list per sentence."""
    logits = network(SOURCE, SOURCE.ne(WORDS.pad()).sum(1), shifted(TARGET, WORDS))[0].detach()
    found = logits.log_softmax(-1).gather(2, TARGET[:, :, None])[:, :, 0]
    return [row[target.ne(WORDS.pad())].tolist() for row, target in zip(found, TARGET, strict=True)]


def strings(rows):
    """Symbols between padding and the end, which CTranslate2 adds itself."""
    return [[WORDS[row] for row in line.tolist() if row not in (WORDS.pad(), WORDS.eos())] for line in rows]


@pytest.mark.parametrize(
    "arch, flags",
    [
        ("transformer_mt", ("--residual", "deepnorm")),
        ("transformer_mt", ("--residual", "pre", "--activation-fn", "gelu")),
        ("transformer_mt", ("--share-all-embeddings", "--encoder-learned-pos", "--decoder-learned-pos")),
        ("transformer_mt", ("--layernorm-embedding", "--no-scale-embedding", "--share-decoder-input-output-embed")),
        ("transformer_mt", ("--residual", "deepnorm", "--no-token-positional-embeddings", *WIDE_DECODER)),
        ("transformer", ("--decoder-normalize-before", "--activation-fn", "gelu_fast")),
    ],
    ids=lambda value: "-".join(word.strip("-") for word in value) if isinstance(value, tuple) else value,
)
def test_same_probabilities(arch, flags, tmp_path):
    network, state = checkpoint(arch, *flags)
    layers = []
    spec = ctranslate2_spec(plain_transformer(state, "x.pt"), WORDS.symbols, lambda: layers.append(1))
    assert len(layers) == 5
    spec.validate()
    spec.optimize()
    spec.save(str(tmp_path))
    translator = ctranslate2.Translator(str(tmp_path), intra_threads=1)
    scores = translator.score_batch(strings(SOURCE), strings(TARGET))
    for found, expected in zip(scores, log_probabilities(network), strict=True):
        assert found.log_probs == pytest.approx(expected, abs=2e-4)
    assert {len(line) for line in searched(translator)} != {0}


def searched(translator):
    found = translator.translate_batch(strings(SOURCE), beam_size=3, max_decoding_length=9)
    return [one.hypotheses[0] for one in found]


def test_an_activation_that_is_not_known_is_refused():
    _, state = checkpoint("transformer_mt", "--activation-fn", "linear")
    with pytest.raises(ValueError, match="CTranslate2 has no --activation-fn linear"):
        ctranslate2_spec(plain_transformer(state, "x.pt"), WORDS.symbols, lambda: None)


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("encoder.layers.0.extra.weight", torch.ones(1), "parameters that a plain Transformer has not"),
        ("decoder.layers.1.fc2.bias", None, "lacks the parameter decoder.layers.1.fc2.bias"),
    ],
)
def test_other_parameters_are_refused(name, value, says):
    _, state = checkpoint("transformer_mt")
    model = plain_transformer(state, "x.pt")
    if value is None:
        del model.state[name]
    else:
        model.state[name] = value
    with pytest.raises(ValueError, match=says):
        ctranslate2_spec(model, WORDS.symbols, lambda: None)


def test_no_plain_transformer_has_inner_norms():
    _, state = checkpoint("transformer_mt", "--residual", "subln")
    with pytest.raises(UserError, match="x.pt was trained with --residual subln, whose norms inside the sublayers"):
        plain_transformer(state, "x.pt")
