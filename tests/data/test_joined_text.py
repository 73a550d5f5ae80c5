"""A text or a pair in one line: where its second segment begins, and what of it may be masked."""

import numpy as np
import pytest

from fairseq_plugins.data.joined_text import JoinedText, maskable

from .joined_lines import PIECES, WORDS


@pytest.mark.parametrize(
    "tokens, segments",
    [("a b c", "000"), ("a </s> b </s>", "0011"), ("a b c d e </s> f </s>", "00000011"),
     ("a </s> b </s> c </s> d </s>", "00001111"), ("a </s> b c d e f </s> h </s>", "0011111111")],
)  # fmt: skip
def test_the_second_segment_begins_after_the_end_nearest_to_the_middle(tokens, segments):
    rows = np.array([2 if word == "</s>" else 5 for word in tokens.split()])
    assert "".join(map(str, JoinedText(WORDS).segments(rows))) == segments


def test_only_pieces_may_be_masked():
    assert [WORDS[row] for row in np.flatnonzero(maskable(WORDS))] == PIECES
