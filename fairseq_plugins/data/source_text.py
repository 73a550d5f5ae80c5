"""What the encoder of a translation model reads: the source of a pair, after a tag as stock tasks put it there."""

from typing import List, Sequence, Tuple

import numpy as np
from fairseq.data import Dictionary

from .joined_text import JoinedExample, JoinedText
from .language_mixture import Text


class SourceText(JoinedText):
    """`[tag] source </s>` of each direction, as `translation_multi_simple_epoch --encoder-langtok` has it.

    Args:
        dictionary: of the texts.
        tagged: whose tag stands first: "src", "tgt", or "" for none; `tags` must then know the languages.
    """

    name = "source"

    def __init__(self, dictionary: Dictionary, tagged: str):
        super().__init__(dictionary)
        self.whose = tagged

    def example(self, text: Text, row: int, rng: np.random.Generator) -> JoinedExample:
        """The example of row `row`; without chance."""
        tokens = text.sentences[0][row].numpy()
        if self.whose:
            tokens = self.tagged(text.languages[0 if self.whose == "src" else 1], tokens)
        return JoinedExample(tokens, np.zeros_like(tokens))

    def sizes(self, text: Text) -> Tuple[np.ndarray, np.ndarray]:
        length = text.sizes[0] + bool(self.whose)
        return length, length


def both_directions(texts: Sequence[Text]) -> List[Text]:
    """Each pair of `texts` and the same with its sides exchanged."""
    return [
        text
        for pair in texts
        for text in (pair, Text(pair.languages[::-1], pair.sentences[::-1], pair.rows, pair.sizes[::-1]))
    ]
