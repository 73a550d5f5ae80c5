"""One pass over a text and what is read beside it: the mask of UniLMv2's worked example, and what follows from it."""

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.modules.attention_masks import NOWHERE, Piece, seen_by_step
from fairseq_plugins.modules.transformer_layer import LayerContext
from tests.models_support import build, dictionary

WORDS = dictionary(40)
TINY = ["--encoder-layers", "2", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24",
        "--encoder-attention-heads", "2", "--max-source-positions", "20", "--dropout", "0"]  # fmt: skip
PARTS = {
    "plain": [],
    "relative": ["--relative-bias-buckets", "8", "--relative-bias-max-distance", "9"],
    "unilmv2": ["--relative-bias-buckets", "8", "--relative-bias-max-distance", "9", "--segments", "2",
                "--encoder-learned-pos"],
}  # fmt: skip
every_part = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
every_residual = pytest.mark.parametrize("residual", ["post", "pre", "deepnorm", "subln"])

# six tokens, {2, 4, 5} masked, in the order 4, 5 -> 2; then P4 P5 x4 x5 P2 x2 (arXiv 2002.12804, Figure 5)
X1, M2, X3, M4, M5, X6, P4, P5, O4, O5, P2, O2 = range(12)
MASK, PSEUDO = 10, 11
TEXT = torch.tensor([[21, MASK, 23, MASK, MASK, 26]])
BESIDE = dict(
    pseudo_tokens=torch.tensor([[PSEUDO, PSEUDO, 24, 25, PSEUDO, 22]]),
    pseudo_positions=torch.tensor([[3, 4, 3, 4, 1, 1]]),
    pseudo_steps=torch.tensor([[-1, -1, 1, 1, -2, 2]]),
)
SEES = """
    1 1 1 1 1 1 . . . . . .
    1 1 1 1 1 1 . . . . . .
    1 1 1 1 1 1 . . . . . .
    1 1 1 1 1 1 . . . . . .
    1 1 1 1 1 1 . . . . . .
    1 1 1 1 1 1 . . . . . .
    1 1 1 1 1 1 1 1 . . . .
    1 1 1 1 1 1 1 1 . . . .
    1 1 1 1 1 1 . . 1 1 . .
    1 1 1 1 1 1 . . 1 1 . .
    1 1 1 1 1 1 . . 1 1 1 .
    1 1 1 1 1 1 . . 1 1 . 1
"""


def model_of(*flags):
    torch.manual_seed(3)
    model = build("transformer_mlm", WORDS, *TINY, *flags, task="masked_lm").double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def hidden(model, text=TEXT, beside=BESIDE, **more):
    return model(text, features_only=True, **beside, **more)[0]


def test_who_sees_whom():
    steps = torch.cat((torch.zeros(1, 6, dtype=torch.long), BESIDE["pseudo_steps"]), dim=1)
    wanted = [[cell == "1" for cell in line.split()] for line in SEES.strip().splitlines()]
    assert seen_by_step(steps, steps)[0, 0].tolist() == wanted


def test_nobody_sees_padding():
    steps = torch.tensor([[0, NOWHERE, -1, 1, NOWHERE, -2]])
    sees = seen_by_step(steps, steps)[0, 0]
    assert not sees[:, [1, 4]].any() and sees.any(dim=1).all()


def test_every_step_alone_is_a_causal_language_model():
    steps = torch.arange(5)[None]
    assert_close(seen_by_step(steps, steps)[0, 0], torch.ones(5, 5, dtype=torch.bool).tril())


@every_part
@every_residual
def test_hidden_states_of_every_step_alone_are_those_of_a_causal_language_model(parts, residual):
    """The text is its first token alone; beside it each of the others is a step."""
    model = model_of("--residual", residual, *parts)
    tokens, steps = torch.tensor([[21, 22, 23, 24, 25]]), torch.arange(1, 5)[None]
    beside = dict(pseudo_tokens=tokens[:, 1:], pseudo_positions=steps, pseudo_steps=steps)
    found = hidden(model, tokens[:, :1], beside)
    encoder = model.encoder
    assert_close(found, encoder.transform(encoder.embed(tokens), LayerContext(causal=True)).x_BTD)
    assert not torch.allclose(found, model(tokens, features_only=True)[0])


@every_part
@pytest.mark.parametrize("training", [False, True])
def test_nothing_beside_the_text(parts, training):
    model = model_of(*parts).train(training)
    masks = []
    model.encoder.layers[0].register_forward_pre_hook(lambda _, inputs: masks.append(inputs[1].self_mask))
    text = batch_of_two()[0]
    found = hidden(model, text, {name: value[:, :0].expand(2, 0) for name, value in BESIDE.items()})
    assert torch.equal(found, model(text, features_only=True)[0])
    assert not isinstance(masks[0], tuple) and len(masks) == 2


@every_part
@every_residual
def test_a_change_reaches_exactly_those_who_see_it(parts, residual):
    """The token changed at O4 is seen by x4, x5, P2 and x2, whatever the number of layers."""
    model = model_of("--residual", residual, *parts)
    changed = {**BESIDE, "pseudo_tokens": BESIDE["pseudo_tokens"].clone()}
    changed["pseudo_tokens"][0, O4 - 6] = 30
    moved = (hidden(model) - hidden(model, beside=changed)).abs().amax(dim=(0, 2)) > 1e-9
    assert moved.nonzero().flatten().tolist() == [O4, O5, P2, O2]


@every_part
def test_no_gradient_of_the_text_reaches_what_is_beside_it(parts):
    model = model_of(*parts)
    found = []
    model.encoder.embedding_dropout.register_forward_hook(lambda _, inputs, x: (x.retain_grad(), found.append(x))[0])
    hidden(model)[:, :6].square().sum().backward()
    assert found[0].grad[:, :6].abs().amax(dim=2).gt(0).all() and not found[0].grad[:, 6:].any()


@every_part
@every_residual
def test_pieces_equal_one_mask(parts, residual, monkeypatch):
    """Also for texts of unequal length: a piece without the places beside it is a mask that forbids them."""
    model = model_of("--residual", residual, *parts)
    text, beside = batch_of_two()
    pieces = hidden(model, text, beside, segments=SEGMENTS, pseudo_segments=PSEUDO_SEGMENTS)
    transform = model.encoder.transform

    def with_one_mask(x_BLD, context: LayerContext, keep_states):
        steps = torch.cat((text.eq(WORDS.pad()).long() * NOWHERE, beside["pseudo_steps"]), dim=1)
        whole = Piece(12, 12, seen_by_step(steps, steps))
        return transform(x_BLD, context._replace(self_mask=(whole,)), keep_states)

    monkeypatch.setattr(model.encoder, "transform", with_one_mask)
    one = hidden(model, text, beside, segments=SEGMENTS, pseudo_segments=PSEUDO_SEGMENTS)
    real = torch.cat((text.ne(WORDS.pad()), beside["pseudo_steps"].ne(NOWHERE)), dim=1)
    assert_close(pieces[real], one[real])


@every_part
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(parts, training):
    """Training leaves padding out of everything but attention."""
    model = model_of(*parts).train(training)
    text, beside = batch_of_two()
    both = hidden(model, text, beside)
    assert_close(both[0], hidden(model)[0])
    alone = hidden(model, text[1:, :4], {name: value[1:, :2] for name, value in beside.items()})
    assert_close(both[1][[0, 1, 2, 3, 6, 7]], alone[0])


@every_part
def test_the_text_is_encoded_as_ever(parts):
    model = model_of(*parts)
    assert_close(hidden(model)[:, :6], model(TEXT, features_only=True)[0])


@pytest.mark.parametrize("residual", ["post", "pre"])
def test_recomputation_changes_no_gradient(residual):
    found = []
    for recompute in ([], ["--checkpoint-activations"]):
        model = model_of("--residual", residual, *PARTS["unilmv2"], "--dropout", "0.2", *recompute).train()
        torch.manual_seed(1)
        hidden(model, *batch_of_two()).square().sum().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_close(found[1], found[0])


def test_segments_tell_two_sentences_apart():
    model = model_of(*PARTS["unilmv2"])
    plain = hidden(model)
    assert_close(hidden(model, segments=0 * TEXT, pseudo_segments=0 * TEXT), plain)
    assert not torch.allclose(hidden(model, segments=SEGMENTS[:1], pseudo_segments=0 * TEXT), plain)


@pytest.mark.parametrize("number", ["-1", "1"])
def test_a_segment_table_needs_two_rows(number):
    with pytest.raises(ValueError, match=f"--segments {number} must be 0"):
        model_of("--segments", number)


SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])
PSEUDO_SEGMENTS = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])


def batch_of_two():
    """The example, and a text of four tokens of which one is masked."""
    pad = WORDS.pad()
    text = torch.cat((TEXT, torch.tensor([[31, MASK, 33, 34, pad, pad]])))
    filled = {"pseudo_tokens": [PSEUDO, 32] + [pad] * 4, "pseudo_positions": [1, 1] + [-1] * 4,
              "pseudo_steps": [-1, 1] + [NOWHERE] * 4}  # fmt: skip
    return text, {name: torch.cat((BESIDE[name], torch.tensor([row]))) for name, row in filled.items()}
