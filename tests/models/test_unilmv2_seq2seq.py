"""unilmv2_seq2seq: who sees whom, and that one pass, steps with a cache and beam search are the same function."""

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch.testing import assert_close

from fairseq_plugins.data.joined_text import maskable
from fairseq_plugins.data.symbols import dictionary_rows
from fairseq_plugins.modules.attention_masks import NOWHERE, seen_by_step
from fairseq_plugins.modules.transformer_layer import LayerContext
from tests.models_support import build, dictionary, sentences, shifted
from tests.seq2seq_support import LIMITS, PARTS, SHAPE, seq2seq, words_of_data

WORDS = words_of_data()
PAD, EOS, BOS = WORDS.pad(), WORDS.eos(), WORDS.bos()
TAG, PSEUDO = WORDS.index("__de__"), WORDS.index("<pseudo_mask>")
every_part = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
every_residual = pytest.mark.parametrize("residual", ["post", "pre", "deepnorm", "subln"])


def batch(left_pad=True, start=EOS):
    """Sources of 5, 9 and 2 tokens, targets of 4, 6 and 1, decoder inputs that begin with `start`."""
    source = sentences(WORDS, [5, 9, 2], left_pad=left_pad)
    target = sentences(WORDS, [4, 6, 1], seed=1)
    previous = shifted(target, WORDS)
    previous[:, 0] = start
    return source, target, previous


def full(model, source, previous):
    return model(source, None, previous)[0]


# ---- one pass --------------------------------------------------------------------------------------------------------


def test_who_sees_whom_written_out():
    """`<s> a </s>` and the target `x y </s>`: its columns are start, P of x, x, P of y, y, P of </s>."""
    model = seq2seq(WORDS)
    text, lengths = model.encoder.text(torch.tensor([[PAD, 7, EOS]]))
    assert text.tolist() == [[BOS, 7, EOS, PAD]] and lengths.tolist() == [3]
    part = model.decoder.both_parts(torch.tensor([[EOS, 8, 9]]), lengths, model.noise)
    assert part.tokens.tolist() == [[EOS, PSEUDO, 8, PSEUDO, 9, PSEUDO]]
    assert part.positions.tolist() == [[2, 3, 3, 4, 4, 5]]
    assert part.steps.tolist() == [[NOWHERE, -1, 1, -2, 2, -3]]
    assert part.segments.tolist() == [[1] * 6]
    keys = torch.cat((torch.tensor([[0, 0, 0, NOWHERE]]), part.steps), dim=1)
    wanted = """
        1 1 1 . . 1 . . . .
        1 1 1 . . . 1 . . .
        1 1 1 . . . 1 1 . .
        1 1 1 . . . 1 . 1 .
        1 1 1 . . . 1 . 1 1
    """
    cells = [[cell == "1" for cell in line.split()] for line in wanted.strip().splitlines()]
    assert seen_by_step(part.steps, keys)[0, 0, 1:].tolist() == cells


def test_a_tag_in_the_place_of_the_end_is_seen_by_the_whole_target():
    model = seq2seq(WORDS)
    part = model.decoder.both_parts(torch.tensor([[TAG, 8, PAD]]), torch.tensor([3]), model.noise)
    assert part.steps.tolist() == [[0, -1, 1, -2, NOWHERE, NOWHERE]]
    assert part.positions.tolist() == [[2, 3, 3, 4, -1, -1]]
    source, _, previous = batch(start=TAG)
    other = previous.clone()
    other[:, 0] = WORDS.index("__en__")
    real = previous.ne(PAD)
    changed = (full(model, source, previous) != full(model, source, other)).any(dim=2)
    assert changed[real].all()


@every_part
@every_residual
def test_a_pass_over_all_targets_is_one_pass_for_each(parts, residual):
    """A pseudo-mask gets what an ordinary encoder computes for the last of text, tokens before it and itself."""
    model = seq2seq(WORDS, *parts, "--residual", residual)
    source, target, previous = batch()
    logits = full(model, source, previous)
    for row in range(len(source)):
        text = torch.cat((torch.tensor([BOS]), source[row][source[row].ne(PAD)]))
        for place in range(int(target[row].ne(PAD).sum())):
            before = target[row, :place]
            assert_close(logits[row, place], one_by_one(model.encoder, text, before))


def one_by_one(encoder, text, before):
    """Logits of the token after `before`: text | before | P as one sequence, its mask written as a loop."""
    tokens = torch.cat((text, before, torch.tensor([PSEUDO])))[None]
    size, source = tokens.size(1), len(text)
    sees = torch.zeros(size, size, dtype=torch.bool)
    for query in range(size):
        for key in range(size):
            sees[query, key] = key < source or (query >= source and key <= query)
    segments = (torch.arange(size) >= source).long()[None]
    x = encoder.transform(encoder.embed(tokens, segments_BT=segments), LayerContext(sees[None, None])).x_BTD
    return encoder.lm_head(x[0, -1])


@pytest.mark.parametrize("place", range(5))
def test_a_token_changes_what_comes_after_it_alone(place):
    model = seq2seq(WORDS)
    source = sentences(WORDS, [5])
    previous = torch.tensor([[EOS, 8, 9, 10, 11, 12]])
    other = previous.clone()
    other[0, place + 1] = 20
    changed = (full(model, source, previous) - full(model, source, other)).abs().amax(dim=2)[0] > 1e-9
    assert changed.tolist() == [False] * (place + 1) + [True] * (5 - place)


def test_the_source_sees_both_ways_and_no_target():
    model = seq2seq(WORDS)
    source, _, previous = batch()
    other = source.clone()
    other[:, -2] = torch.where(other[:, -2] == 6, 7, 6)
    real = previous.ne(PAD)
    assert (full(model, source, previous) != full(model, other, previous)).any(dim=2)[real].all()
    seen = []
    hook = model.encoder.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    for target in (previous, previous.masked_fill(previous.eq(8), 9)):
        full(model, source, target)
    hook.remove()
    length = source.size(1) + 1
    assert_close(seen[0][:, :length], seen[1][:, :length], rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_full_experts_tell_nothing_of_later_tokens(seed):
    """With slots for half of the choices: who stands first is served first."""
    experts = ["--moe-experts", "2", "--moe-freq", "1", "--moe-capacity-factor", "0.5"]
    model = seq2seq(WORDS, *PARTS["unilmv2"], *experts).train()
    source = sentences(WORDS, [5], seed=seed)
    previous = torch.cat((torch.tensor([[EOS]]), sentences(WORDS, [12], seed=seed + 10)[:, :-1]), dim=1)
    wanted = full(model, source, previous)
    for place in range(1, 12):
        for token in range(4, 24, 4):
            other = previous.clone()
            other[0, place] = token
            found = full(model, source, other)
            assert_close(found[:, :place], wanted[:, :place], rtol=0, atol=1e-9)


@every_part
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_padding_on_any_side_changes_nothing(parts, train):
    """In training padding is left out of the products."""
    model = seq2seq(WORDS, *parts).train(train)
    source, target, previous = batch(left_pad=True)
    logits = full(model, source, previous)
    assert_close(full(model, batch(left_pad=False)[0], previous)[target.ne(PAD)], logits[target.ne(PAD)])
    for row in range(len(source)):
        alone = full(model, source[row][source[row].ne(PAD)][None], previous[row][previous[row].ne(PAD)][None])
        assert_close(alone[0], logits[row, : alone.size(1)])


@pytest.mark.parametrize("residual", ["post", "deepnorm"])
def test_recomputed_activations_change_no_gradient(residual):
    gradients = []
    for flags in ([], ["--checkpoint-activations"]):
        model = seq2seq(WORDS, "--residual", residual, *flags).train()
        source, target, previous = batch()
        logits = full(model, source, previous)
        torch.nn.functional.cross_entropy(logits[target.ne(PAD)], target[target.ne(PAD)]).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.any(), name
        assert_close(gradients[1][name], gradient)


# ---- step by step ----------------------------------------------------------------------------------------------------


@every_part
@every_residual
def test_step_by_step_is_the_full_pass(parts, residual):
    model = seq2seq(WORDS, *parts, "--residual", residual)
    for left_pad, start in ((True, EOS), (False, EOS), (True, TAG), (False, TAG)):
        source, target, previous = batch(left_pad, start)
        wanted, real = full(model, source, previous), target.ne(PAD)
        memory = model.encoder(source)
        assert_close(model.decoder(previous, memory)[0][real], wanted[real])
        for chunk in (1, 2):
            state, found = {}, []
            for end in range(chunk, previous.size(1) + 1, chunk):
                found.append(model.decoder(previous[:, :end], memory, incremental_state=state)[0])
            assert found[0].size(1) == chunk
            assert_close(torch.cat(found, dim=1)[real], wanted[real])


def test_the_source_is_read_once():
    model = seq2seq(WORDS)
    source, _, previous = batch()
    read = []
    model.encoder.layers[0].register_forward_hook(lambda module, inputs, output: read.append(inputs[0].size(1)))
    memory, state = model.encoder(source), {}
    for end in range(1, 5):
        model.decoder(previous[:, :end], memory, incremental_state=state)
    assert read == [source.size(1) + 1, 2, 2, 2, 2]


@every_part
@pytest.mark.parametrize("beam", [1, 3])
def test_hypotheses_have_the_scores_of_the_full_pass(parts, beam):
    """Also where some sentences end, and leave the batch, before others."""
    model = seq2seq(WORDS, *parts)
    source = sentences(WORDS, [5, 9, 2, 7], left_pad=True)
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(dim=1)}}
    generator = SequenceGenerator([model], WORDS, beam_size=beam, max_len_b=9, normalize_scores=False)
    spread = 0
    for share, start in ((0.3, EOS), (0.7, EOS), (0.3, TAG), (0.7, TAG)):  # of sentences that greedily end at once
        logits = full(model, source, torch.full((4, 1), start))[:, 0]
        short = logits.index_fill(1, torch.tensor([EOS]), -torch.inf).amax(dim=1) - logits[:, EOS]
        model.encoder.lm_head.bias.data[EOS] += short.quantile(share)
        found = generator.generate([model], sample, bos_token=start)
        spread = max(spread, len({len(hypotheses[-1]["tokens"]) for hypotheses in found}))
        for row, hypotheses in enumerate(found):
            assert len(hypotheses) == beam
            for hypothesis in hypotheses:
                expected = score([model], source[row : row + 1], start, hypothesis["tokens"])
                assert_close(hypothesis["score"].double(), expected, rtol=1e-5, atol=1e-5)
    assert spread > 1


def score(models, source, start, tokens):
    """The logarithm of a translation's probability, which is the mean of the models' at each token, by full passes."""
    previous = torch.cat((torch.tensor([start]), tokens[:-1]))[None]
    probabilities = torch.stack([full(model, source, previous).softmax(dim=-1)[0] for model in models])
    return probabilities.mean(dim=0).log().gather(1, tokens[:, None]).sum()


@pytest.mark.parametrize(
    "count, prefix, lengths",
    [(2, 0, [5, 9, 2]), (1, 2, [5, 9, 2]), (1, 0, [1]), (1, 0, [4, 1, 6]), (2, 2, [1, 7])],
    ids=["ensemble", "prefix", "empty", "empty among others", "all of it"],
)
def test_what_generation_is_asked_for(count, prefix, lengths):
    """Two models of different size, given beginnings (--prefix-size), and a source that is `</s>` alone."""
    shapes = [PARTS["unilmv2"], [*PARTS["plain"], "--encoder-layers", "3"]]
    models = [seq2seq(WORDS, *shape) for shape in shapes[:count]]
    source = sentences(WORDS, lengths, left_pad=True)
    given = torch.randint(4, 24, (len(lengths), prefix), generator=torch.Generator().manual_seed(2))
    sample = {"net_input": {"src_tokens": source, "src_lengths": torch.tensor(lengths)}}
    generator = SequenceGenerator(models, WORDS, beam_size=3, max_len_b=9, normalize_scores=False)
    found = generator.generate(models, sample, prefix_tokens=given if prefix else None)
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == 3
        for hypothesis in hypotheses:
            assert torch.equal(hypothesis["tokens"][:prefix], given[row])
            expected = score(models, source[row : row + 1], EOS, hypothesis["tokens"])
            assert_close(hypothesis["score"].double(), expected, rtol=1e-5, atol=1e-5)


def test_hypotheses_share_the_keys_of_their_sentence():
    model = seq2seq(WORDS)
    source, _, _ = batch()
    memory = model.encoder(source)
    beams = model.encoder.reorder_encoder_out(memory, torch.arange(3).repeat_interleave(2))
    assert beams["memory"] is memory["memory"]
    previous = torch.tensor([[EOS, 8], [EOS, 9], [EOS, 10], [EOS, 11], [EOS, 12], [EOS, 13]])
    state, copies = {}, {}
    found = model.decoder(previous, beams, incremental_state=state)[0]
    assert state["decoding_cache"].memory[0][0] is memory["memory"][0][0]
    mixed = torch.tensor([0, 3, 1, 5, 2, 4])  # no beams side by side: each row gets keys of its own
    rows = model.encoder.reorder_encoder_out(beams, mixed)
    other = model.decoder(previous[mixed], rows, incremental_state=copies)[0]
    assert len(copies["decoding_cache"].memory[0][0]) == 6
    assert_close(other, found[mixed])


def test_lengths_up_to_the_limits_fit_the_table():
    model = seq2seq(WORDS)
    assert model.max_positions() == (15, 14) and model.encoder.embed_positions.max_positions == 30
    source, target = sentences(WORDS, [15]), sentences(WORDS, [14])
    assert full(model, source, shifted(target, WORDS)).isfinite().all()
    generator = SequenceGenerator([model], WORDS, beam_size=2, max_len_b=100, min_len=13)
    sample = {"net_input": {"src_tokens": source, "src_lengths": torch.tensor([15])}}
    assert len(generator.generate([model], sample)[0][0]["tokens"]) == 14


# ---- noise of training -----------------------------------------------------------------------------------------------


def disturbed(**noise):
    flags = [word for name, value in noise.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    model = seq2seq(WORDS, *flags)
    torch.manual_seed(1)
    previous = torch.full((200, 9), 8)
    previous[:, 0], previous[:, 1:-1] = EOS, torch.randint(4, 24, (200, 7))
    previous[:, -1] = PAD
    tokens = model.decoder.both_parts(previous, torch.full((200,), 3), model.noise).tokens
    return previous, tokens[:, ::2], tokens[:, 1::2]


def test_without_noise_there_is_none():
    previous, originals, masks = disturbed()
    assert torch.equal(originals, previous) and masks.eq(PSEUDO).all()


def test_shares_of_noise():
    previous, originals, masks = disturbed(leave_unmasked_prob=0.2, random_token_prob=0.3)
    masks, target = masks[:, :8], torch.cat((previous[:, 1:8], torch.full((200, 1), EOS)), dim=1)
    assert torch.equal(originals, previous)
    kept, hidden = masks.eq(target).float().mean(), masks.eq(PSEUDO).float().mean()
    assert 0.17 < kept < 0.25 and 0.46 < hidden < 0.54
    others = masks[masks.ne(target) & masks.ne(PSEUDO)]
    assert others.min() >= 4 and others.max() < 24 and len(others.unique()) == 20, "words alone, and all of them"


def test_originals_become_what_their_pseudo_mask_is():
    previous, originals, masks = disturbed(target_mask_prob=0.5, random_token_prob=1.0)
    assert originals[:, 0].eq(EOS).all() and originals[:, -1].eq(PAD).all()
    replaced = originals[:, 1:8].ne(previous[:, 1:8])
    assert 0.4 < replaced.float().mean() < 0.52  # a random token may be the same
    assert torch.equal(originals[:, 1:8][replaced], masks[:, :7][replaced])


def test_random_tokens_are_what_pre_training_masks():
    """Two floors of the package say what a piece of text is: neither imports the other."""
    pieces = ["x", "<br>", "__x", "__1__", "__", "<sentinel_0>", "<sentinel_01>", "<sentinel_101>", "<mask>x",
              "madeupword12", "a_madeupword0001", "<unk>x"]  # fmt: skip
    words = Dictionary()
    for symbol in dictionary_rows([*pieces, "__fr__"], ["de", "en_XX"])[words.nspecial :]:
        words.add_symbol(symbol)
    random_rows = seq2seq(words).decoder.ordinary.tolist()
    assert random_rows == np.flatnonzero(maskable(words)).tolist() == [words.index(piece) for piece in pieces]


def test_noise_is_of_training_alone():
    model = seq2seq(WORDS, "--leave-unmasked-prob", "0.5", "--target-mask-prob", "0.5")
    source, _, previous = batch()
    assert torch.equal(full(model, source, previous), full(model, source, previous))
    model.train()
    assert not torch.equal(full(model, source, previous), full(model, source, previous))


# ---- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_masked_language_model():
    parts = [*PARTS["unilmv2"], *SHAPE]
    masked_lm = build("unilmv2_tiny", WORDS, *parts, "--max-source-positions", "30", task="masked_lm").double()
    model = seq2seq(WORDS, *PARTS["unilmv2"])
    ours, theirs = model.state_dict(), masked_lm.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in theirs.items()}
    model.load_state_dict(theirs)
    source = sentences(WORDS, [9])
    text = torch.cat((torch.tensor([[BOS]]), source), dim=1)
    expected = masked_lm(text, features_only=True)[0]
    assert_close(model.encoder(source)["encoder_out"][0].transpose(0, 1), expected)


def test_presets():
    for arch, count in (("unilmv2_seq2seq", 12), ("unilmv2_seq2seq_tiny", 6)):
        with torch.device("meta"):
            model = build(arch, WORDS)
        assert len(model.encoder.layers) == count and model.max_positions() == (351, 160)
        assert model.encoder.embed_positions.max_positions == 512
        assert model.encoder.relative_bias is not None and model.encoder.embed_segments is not None
        assert list(model.decoder.parameters()) == []


def test_a_longer_table_than_needed():
    model = seq2seq(WORDS, limits=[*LIMITS, "--position-table", "64"])
    assert model.max_positions() == (15, 14) and model.encoder.embed_positions.max_positions == 64


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--position-table", "29"], "--position-table 29 must be at least 30: --max-source-positions 15"),
        (["--max-target-positions", "0"], "--max-target-positions 0 must be at least 1"),
        (["--leave-unmasked-prob", "1.5"], "--leave-unmasked-prob 1.5 must be between 0 and 1"),
        (["--target-mask-prob", "-0.1"], "--target-mask-prob -0.1 must be between 0 and 1"),
        (["--leave-unmasked-prob", "0.6", "--random-token-prob", "0.5"], "must not be above 1 together"),
        (["--segments", "1"], "--segments 1 must be 0"),
        (["--left-pad-target"], "first column: leave out --left-pad-target"),
    ],
)
def test_options_out_of_range(flags, message):
    with pytest.raises(ValueError) as refusal:
        build("unilmv2_seq2seq_tiny", WORDS, *SHAPE, *LIMITS, *flags)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_dictionary_without_the_pseudo_mask():
    with pytest.raises(ValueError, match="<pseudo_mask> in the dictionary of the data; .*opus100 add-symbols"):
        build("unilmv2_seq2seq_tiny", dictionary(), *SHAPE)
