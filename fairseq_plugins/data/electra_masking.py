"""What ELECTRA's generator reads: a text with some of its tokens masked (arXiv 2003.10555, Section 3.1)."""

from typing import NamedTuple

import numpy as np
from fairseq.data import Dictionary

from .joined_text import MaskedText
from .language_mixture import Text

# T tokens of a line, K masked ones


class ElectraNoise(NamedTuple):
    """How much is masked, and how often a masked token stands there itself; defaults are those of ELECTRA's code."""

    share: float = 0.15  # of a line's tokens
    itself: float = 0.15  # probability, at each masked place

    def checked(self, share_flag: str, itself_flag: str) -> "ElectraNoise":
        """Itself.

        Raises:
            ValueError: a value out of range, named by its flag.
        """
        if not 0 < self.share < 1:
            raise ValueError(f"{share_flag} {self.share:g} must be above 0 and below 1")
        if not 0 <= self.itself < 1:
            raise ValueError(f"{itself_flag} {self.itself:g} must be at least 0 and below 1")
        return self

    def masked(self, length: int, longest: int) -> int:
        """Tokens that are masked of a line of `length` tokens, its own specials counted, where none is longer than
        `longest`.
        """
        return max(1, min(int((self.share + 0.005) * longest), round(length * self.share)))


class ElectraExample(NamedTuple):
    """Rows of the dictionary and numbers, (T,) int64 each; padding in the target is not predicted."""

    text_T: np.ndarray  # <mask> or the token itself at masked places
    segment_T: np.ndarray
    target_T: np.ndarray


class ElectraText(MaskedText):
    """A text or a pair in one line, with places masked that are drawn one by one, and no random tokens.

    ELECTRA's code draws places with replacement, and one that was drawn twice counts twice in the generator's loss.
    Here they are drawn without: a target has a place once, and as many are masked as the share says.

    Args:
        dictionary: with `<mask>`.
        noise: which share is masked.
        longest: tokens of the longest line, which bound how many are masked.
    Raises:
        ValueError: the dictionary lacks the symbol.
    """

    name = "electra"

    def __init__(self, dictionary: Dictionary, noise: ElectraNoise, longest: int):
        super().__init__(dictionary)
        self.noise, self.longest = noise, longest

    def example(self, text: Text, row: int, rng: np.random.Generator) -> ElectraExample:
        """The example of row `row` under the dice of `rng`; where less may be masked than the share, all of it is."""
        line_T = self.line(text, row, rng)
        place_K = rng.permutation(np.flatnonzero(self.maskable_V[line_T]))
        place_K = place_K[: self.noise.masked(len(line_T), self.longest)]
        text_T, target_T = line_T.copy(), np.full_like(line_T, self.pad)
        text_T[place_K[rng.random(len(place_K)) >= self.noise.itself]] = self.mask
        target_T[place_K] = line_T[place_K]
        return ElectraExample(text_T, self.segments(line_T), target_T)
