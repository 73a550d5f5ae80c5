"""mT6's partially non-autoregressive decoding: groups do not see each other, and each is decoded as if alone."""

import pytest
import torch
from torch.testing import assert_close

from tests.models_support import TINY_MT, build, dictionary, sentences

WORDS = dictionary()
SOURCE = sentences(WORDS, [6, 4])
PREVIOUS = sentences(WORDS, [9, 9], seed=3)
GROUPS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 1, -1, -1, -1]])
PREVIOUS[1, 6:] = WORDS.pad()
FLAGS = ["--share-all-embeddings", "--decoder-embed-dim", "16", "--encoder-embed-dim", "16"]


def model(*flags):
    torch.manual_seed(0)
    return build("transformer_mt", WORDS, *TINY_MT, *FLAGS, *flags).double()


def logits(of, previous, groups):
    lengths = SOURCE.ne(WORDS.pad()).sum(1)
    return of(SOURCE, src_lengths=lengths, prev_output_tokens=previous, groups=groups)[0]


@pytest.mark.parametrize("training", [False, True])
def test_a_token_changes_its_own_group_alone(training):
    of = model().train(training)
    before = logits(of, PREVIOUS, GROUPS)
    changed = PREVIOUS.clone()
    changed[0, 5] = WORDS.index("w1") if PREVIOUS[0, 5] != WORDS.index("w1") else WORDS.index("w2")
    after = logits(of, changed, GROUPS)
    same = [place for place in range(9) if torch.equal(before[0, place], after[0, place])]
    assert same == [0, 1, 2, 3, 4, 7, 8]
    assert_close(before[1, :6], after[1, :6])


def test_one_group_is_ordinary_training():
    of = model()
    assert_close(logits(of, PREVIOUS, torch.zeros_like(GROUPS)), logits(of, PREVIOUS, None))


def test_padding_changes_nothing():
    of = model()
    alone = of(SOURCE[1:, :4], src_lengths=None, prev_output_tokens=PREVIOUS[1:, :6], groups=GROUPS[1:, :6])[0]
    assert_close(logits(of, PREVIOUS, GROUPS)[1:, :6], alone)


def test_each_group_is_decoded_as_if_it_were_alone():
    of = model("--no-token-positional-embeddings")  # with positions, a group's running ones differ from its own
    together = logits(of, PREVIOUS, GROUPS)[:1]
    for group in range(3):
        own = GROUPS[0] == group
        alone = of(SOURCE[:1], src_lengths=None, prev_output_tokens=PREVIOUS[:1, own])[0]
        assert_close(together[:, own], alone)
