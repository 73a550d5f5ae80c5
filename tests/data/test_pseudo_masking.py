"""Examples of the pseudo-masked LM: the paper's, word by word, a golden one, and what must hold for all."""

import numpy as np
import pytest
import torch

from fairseq_plugins.data import pseudo_masking
from fairseq_plugins.data.block_masking import BlockNoise
from fairseq_plugins.data.joined_text import maskable
from fairseq_plugins.data.pseudo_masking import PseudoMaskedText, Replacement
from fairseq_plugins.modules import attention_masks

from .joined_lines import LONG, PIECES, WORDS, text, without, words

BARE = Replacement(0, 0)
BOTH = ("ae", "par")


def maker(noise=None, replacement=BARE, losses=BOTH):
    return PseudoMaskedText(WORDS, noise or BlockNoise(), replacement, losses)


def example(of, made=None, seed=0, row=0):
    return (made or maker()).example(of, row, np.random.default_rng(seed))


IN_ORDER = 1  # a seed that leaves the sentences of a pair in their order


@pytest.fixture
def order_4_5_then_2(monkeypatch):
    """The paper's order of blocks; <s> is place 0, so a place is a token's number."""
    monkeypatch.setattr(pseudo_masking, "draw_blocks", lambda *_: [np.array([4, 5]), np.array([2])])


def test_the_papers_example(order_4_5_then_2):
    made = example(text(de=["x1 x2 x3 x4 x5 x6"]))
    assert words(made.text_T) == "<s> x1 <mask> x3 <mask> <mask> x6 </s>"
    assert words(made.target_T) == "- - x2 - x4 x5 - -"
    assert words(made.pseudo_Q) == "<pmask> <pmask> x4 x5 <pmask> x2"
    assert words(made.target_Q) == "x4 x5 - - x2 -"
    assert made.position_Q.tolist() == [4, 5, 4, 5, 2, 2]
    assert made.step_Q.tolist() == [-1, -1, 1, 1, -2, 2]


def test_one_batch(order_4_5_then_2):
    """Golden: the paper's text beside a pair that is shorter."""
    made = maker()
    pair = example(text(de=["x9"], en=["x7 x8"]), made, IN_ORDER)
    batch = made.collate([example(text(de=["x1 x2 x3 x4 x5 x6"])), pair])
    rows = {name: [words(row) for row in batch["net_input"][name]] for name in ("src_tokens", "pseudo_tokens")}
    assert rows["src_tokens"] == ["<s> x1 <mask> x3 <mask> <mask> x6 </s>", "<s> x9 <mask> x7 <mask> <mask> - -"]
    assert rows["pseudo_tokens"] == ["<pmask> <pmask> x4 x5 <pmask> x2", "<pmask> <pmask> x8 </s> <pmask> </s>"]
    assert batch["net_input"]["segments"].tolist() == [[0] * 8, [0, 0, 0, 1, 1, 1, 0, 0]]
    assert batch["net_input"]["pseudo_segments"].tolist() == [[0] * 6, [1, 1, 1, 1, 0, 0]]
    assert batch["net_input"]["src_lengths"].tolist() == [8, 6]
    assert (batch["ntokens"], batch["nsentences"], tuple(batch["target"].shape)) == (14, 2, (2, 14))


def test_padding_beside_the_text(monkeypatch):
    made = maker()
    monkeypatch.setattr(pseudo_masking, "draw_blocks", lambda places, *_: [np.array([1])] * (1 + (len(places) > 4)))
    batch = made.collate([example(text(de=["x1 x2 x3 x4"])), example(text(de=["x1 x2"]))])["net_input"]
    assert batch["pseudo_tokens"][1].tolist()[2:] == [WORDS.pad()] * 2
    assert batch["pseudo_positions"][1].tolist() == [1, 1, -1, -1]
    assert batch["pseudo_steps"][1].tolist() == [-1, 1, pseudo_masking.NOWHERE, pseudo_masking.NOWHERE]
    assert pseudo_masking.NOWHERE == attention_masks.NOWHERE


def test_what_was_masked_is_told_beside_the_text_over_200_seeds():
    source = text(de=[LONG], en=["x1 x2 x3"])
    for seed in range(200):
        made = example(source, maker(replacement=Replacement(0.1, 0.1)), seed)
        masked = np.flatnonzero(made.target_T != WORDS.pad())
        rebuilt = made.text_T.copy()
        rebuilt[masked] = made.target_T[masked]
        assert words(rebuilt) in (f"<s> {LONG} </s> x1 x2 x3 </s>", f"<s> x1 x2 x3 </s> {LONG} </s>")
        asks, tells = made.step_Q < 0, made.step_Q > 0
        assert sorted(made.position_Q[asks]) == sorted(made.position_Q[tells]) == masked.tolist()
        assert (made.target_Q[asks] == rebuilt[made.position_Q[asks]]).all()
        assert (made.pseudo_Q[tells] == rebuilt[made.position_Q[tells]]).all()
        assert (made.target_Q[tells] == WORDS.pad()).all()
        steps = np.abs(made.step_Q)
        assert (np.diff(steps) >= 0).all() and set(steps) == set(range(1, steps.max() + 1))
        assert maskable(WORDS)[rebuilt[masked]].all(), "<s> and </s> are never masked"


def test_noise_is_the_same_at_mask_and_pseudo_mask():
    """80 % masks, 10 % the token itself, 10 % any other."""
    source, counts = text(de=[LONG]), {"mask": 0, "itself": 0, "other": 0}
    for seed in range(600):
        made = example(source, maker(replacement=Replacement(0.1, 0.1)), seed)
        for place in np.flatnonzero(made.step_Q < 0):
            at = made.position_Q[place]
            pair = words([made.text_T[at], made.pseudo_Q[place]]).split()
            if pair[0] == "<mask>":
                assert pair[1] == "<pmask>"
                counts["mask"] += 1
            else:
                assert pair[0] == pair[1] and pair[0] in PIECES
                counts["itself" if made.text_T[at] == made.target_T[at] else "other"] += 1
    share = {name: count / sum(counts.values()) for name, count in counts.items()}
    assert share["mask"] == pytest.approx(0.8, abs=0.03)
    assert share["itself"] == pytest.approx(0.1 + 0.1 / 30, abs=0.02) and share["other"] == pytest.approx(0.1, abs=0.02)


def test_losses_choose_targets_and_nothing_else():
    source = text(de=[LONG])
    both, only_ae, only_par = (example(source, maker(losses=losses)) for losses in (BOTH, ("ae",), ("par",)))
    assert only_ae.text_T.tolist() == both.text_T.tolist() == only_par.text_T.tolist()
    assert only_ae.target_T.tolist() == both.target_T.tolist() and not len(only_ae.pseudo_Q)
    assert (only_par.target_T == WORDS.pad()).all() and only_par.target_Q.tolist() == both.target_Q.tolist()
    batch = maker(losses=("ae",)).collate([only_ae])
    assert set(batch["net_input"]) == {"src_tokens", "src_lengths", "segments"} and batch["target"].shape == (1, 32)


def test_the_sentences_of_a_pair_come_in_an_order_of_chance():
    pair, orders = text(de=["x1"], en=["x2"]), set()
    for seed in range(20):
        made = example(pair, maker(BlockNoise(1.0)), seed)
        orders.add(words(made.target_T))
    assert orders == {"- x1 - x2 -", "- x2 - x1 -"}


def test_tags_stand_before_each_sentence_and_are_never_masked():
    made = maker(BlockNoise(1.0))
    made.tags.update(de=WORDS.index("__de__"), en=WORDS.index("__en__"))
    source = text(de=["x1 x2"], en=["x3"])
    assert words(example(source, made, IN_ORDER).text_T) == "<s> __de__ <mask> <mask> </s> __en__ <mask> </s>"
    assert made.sizes(source)[0][0] == 8


def test_sizes_count_the_text():
    source = text(de=["x1 x2"], en=["x3"])
    assert maker().sizes(source)[0].tolist() == [len(example(source).text_T)] == [6]


def test_a_text_without_anything_to_mask():
    batch = maker().collate([example(text(de=["<unk> <unk>"]))])
    assert words(batch["net_input"]["src_tokens"][0]) == "<s> <unk> <unk> </s>" and batch["target"].shape == (1, 4)


@pytest.mark.parametrize("symbol", ["<mask>", "<pseudo_mask>"])
def test_a_dictionary_without_the_symbols_is_refused(symbol):
    with pytest.raises(ValueError, match=f"the dictionary has no {symbol}; add it with opus100 add-symbols"):
        PseudoMaskedText(without(symbol), BlockNoise(), BARE, BOTH)


@pytest.mark.parametrize(
    "itself, other, named", [(-0.1, 0, "--itself -0.1"), (0, 1.5, "--other 1.5"), (0.6, 0.6, "above 1")]
)
def test_noise_out_of_range_is_named(itself, other, named):
    with pytest.raises(ValueError, match=named):
        Replacement(itself, other).checked("--itself", "--other")


def test_rows_are_long():
    batch = maker().collate([example(text(de=[LONG]))])
    assert all(value.dtype == torch.long for value in [*batch["net_input"].values(), batch["target"]])
