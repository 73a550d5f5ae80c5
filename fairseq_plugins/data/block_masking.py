"""UniLMv2's block-wise masking: which tokens are masked, and in which order they are revealed again."""

from typing import List, NamedTuple

import numpy as np

# L tokens of a text, N masked tokens

ROLLS = 64  # dice are rolled so many at a time


class BlockNoise(NamedTuple):
    """How much is masked, and in blocks of which length.

    The defaults are those of UniLMv2 (arXiv 2002.12804, Algorithm 1): single tokens, and with probability 0.4 blocks of
    2 to 6.
    """

    ratio: float = 0.15  # of the tokens that may be masked, at least
    block_probability: float = 0.4  # of a block; otherwise a single token
    longest: int = 6  # tokens of a block, which has at least 2

    def checked(self, ratio_flag: str, probability_flag: str, longest_flag: str) -> "BlockNoise":
        """Itself.

        Raises:
            ValueError: a value out of range, named by its flag.
        """
        if not 0 < self.ratio <= 1:
            raise ValueError(f"{ratio_flag} {self.ratio:g} must be above 0 and at most 1")
        if not 0 <= self.block_probability < 1:
            raise ValueError(f"{probability_flag} {self.block_probability:g} must be at least 0 and below 1")
        if self.longest < 2:
            raise ValueError(f"{longest_flag} {self.longest} must be at least 2")
        return self


def draw_blocks(maskable_L: np.ndarray, noise: BlockNoise, rng: np.random.Generator) -> List[np.ndarray]:
    """Blocks of neighbouring places, in the order in which they were drawn: the order of factorisation.

    A block that holds a place drawn before, or one that may not be masked, or that runs past the end is drawn anew. So
    a block never crosses a special token, and the masked share is at least the ratio, and less than a block above.

    Args:
        maskable_L: bool, places that may be masked.
    """
    length, free_L = len(maskable_L), maskable_L.copy()
    wanted = noise.ratio * int(maskable_L.sum())
    blocks: List[np.ndarray] = []
    masked = 0
    while masked < wanted:
        starts = rng.integers(length, size=ROLLS)
        several = rng.random(ROLLS) < noise.block_probability
        lengths = np.where(several, rng.integers(2, noise.longest, size=ROLLS, endpoint=True), 1)
        for start, end in zip(starts.tolist(), (starts + lengths).tolist(), strict=True):
            if masked < wanted and end <= length and free_L[start:end].all():
                free_L[start:end] = False
                blocks.append(np.arange(start, end))
                masked += end - start
    return blocks
