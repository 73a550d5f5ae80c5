"""Examples of UniLMv2's pseudo-masked language model (arXiv 2002.12804, Sections 3.2 and 3.3)."""

from typing import Any, Dict, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import Dictionary

from .block_masking import BlockNoise, draw_blocks
from .joined_text import MaskedText, row_of
from .language_mixture import Text
from .objective import padded
from .symbols import PSEUDO_MASK

# T tokens of a text, N masked ones, Q = 2 N tokens beside the text, B examples of a batch

NOWHERE = 1 << 20  # the step of padding: no token of a text sees it (modules/attention_masks.py)
AE, PAR = "ae", "par"  # autoencoding at [M], partially autoregressive at [P]


class Replacement(NamedTuple):
    """BERT's noise: what stands in the place of a masked token, beside the mask itself."""

    itself: float = 0.1  # probability of the token itself
    random: float = 0.1  # of any other token

    def checked(self, itself_flag: str, random_flag: str) -> "Replacement":
        """Itself.

        Raises:
            ValueError: a value out of range, named by its flag.
        """
        for flag, value in ((itself_flag, self.itself), (random_flag, self.random)):
            if not 0 <= value <= 1:
                raise ValueError(f"{flag} {value:g} must be from 0 to 1")
        if self.itself + self.random > 1:
            raise ValueError(f"{itself_flag} {self.itself:g} and {random_flag} {self.random:g} are above 1 together")
        return self


class PseudoMaskedExample(NamedTuple):
    """Rows of the dictionary and numbers, int64, without padding; padding in a target is not predicted."""

    text_T: np.ndarray  # [M] or noise at masked places
    segment_T: np.ndarray
    target_T: np.ndarray
    pseudo_Q: np.ndarray  # step by step: pseudo-masks, then the tokens they stand for
    position_Q: np.ndarray  # in the text, from 0
    step_Q: np.ndarray  # -i at pseudo-masks of step i, i at its tokens
    target_Q: np.ndarray


class PseudoMaskedText(MaskedText):
    """A text or a pair in one line, with blocks masked and told again beside it, in order.

    Args:
        dictionary: with `<mask>` and `<pseudo_mask>`.
        noise: which tokens are masked.
        replacement: what stands in their place; drawn once for [M] and [P] of a place.
        losses: which of `ae` and `par` have targets. Without `par` nothing is put beside the text.
    Raises:
        ValueError: the dictionary lacks a symbol.
    """

    name = "pseudo_masked"

    def __init__(self, dictionary: Dictionary, noise: BlockNoise, replacement: Replacement, losses: Sequence[str]):
        super().__init__(dictionary)
        self.noise, self.replacement, self.losses = noise, replacement, tuple(losses)
        self.pseudo_mask = row_of(dictionary, PSEUDO_MASK)
        self.words = np.flatnonzero(self.maskable_V)  # what a random token is drawn from

    def example(self, text: Text, row: int, rng: np.random.Generator) -> PseudoMaskedExample:
        """The example of row `row` under the dice of `rng`."""
        tokens_T = self.line(text, row, rng)
        blocks = draw_blocks(self.maskable_V[tokens_T], self.noise, rng)
        place_N = np.concatenate([*blocks, np.empty(0, dtype=np.int64)]).astype(np.int64)
        step_N = np.repeat(np.arange(1, len(blocks) + 1), [len(block) for block in blocks])
        masked_N, pseudo_N = self._replaced(tokens_T[place_N], rng)
        text_T, target_T = tokens_T.copy(), np.full_like(tokens_T, self.pad)
        text_T[place_N] = masked_N
        if AE in self.losses:
            target_T[place_N] = tokens_T[place_N]
        segment_T = self.segments(tokens_T)
        if PAR not in self.losses:
            nothing = np.empty(0, dtype=np.int64)
            return PseudoMaskedExample(text_T, segment_T, target_T, nothing, nothing, nothing, nothing)
        order_Q = np.argsort(np.concatenate((2 * step_N, 2 * step_N + 1)), kind="stable")

        def beside(masks_N: np.ndarray, tokens_N: np.ndarray) -> np.ndarray:
            return np.concatenate((masks_N, tokens_N))[order_Q]

        return PseudoMaskedExample(
            text_T,
            segment_T,
            target_T,
            beside(pseudo_N, tokens_T[place_N]),
            beside(place_N, place_N),
            beside(-step_N, step_N),
            beside(tokens_T[place_N], np.full_like(place_N, self.pad)),
        )

    def collate(self, examples: Sequence[PseudoMaskedExample]) -> Dict[str, Any]:
        """`net_input` for `transformer_mlm`, and `target` (B, T + Q) of the text and of what stands beside it."""
        batch = super().collate(examples)
        if PAR in self.losses:
            batch["net_input"].update(
                pseudo_tokens=padded([each.pseudo_Q for each in examples], self.pad),
                pseudo_positions=padded([each.position_Q for each in examples], -1),
                pseudo_steps=padded([each.step_Q for each in examples], NOWHERE),
                pseudo_segments=padded([each.segment_T[each.position_Q] for each in examples], 0),
            )
            beside_BQ = padded([each.target_Q for each in examples], self.pad)
            batch["target"] = torch.cat((batch["target"], beside_BQ), dim=1)
        return batch

    def _replaced(self, tokens_N: np.ndarray, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
        """What stands in the text, and what as pseudo-mask, for masked tokens."""
        chance_N, random_N = rng.random(len(tokens_N)), self.words[rng.integers(len(self.words), size=len(tokens_N))]
        itself, any_other = self.replacement
        noisy_N = np.where(chance_N < itself, tokens_N, random_N)
        is_mask_N = chance_N >= itself + any_other
        return np.where(is_mask_N, self.mask, noisy_N), np.where(is_mask_N, self.pseudo_mask, noisy_N)
