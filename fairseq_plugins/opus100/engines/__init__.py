"""What searches for translations: fairseq's generator, or CTranslate2; and the plain Transformer that both can run."""

from typing import List, NamedTuple, Optional, Protocol, Sequence


class Search(NamedTuple):
    """What decides a hypothesis, beside model and input."""

    beam: int
    lenpen: float
    max_len: int  # longest hypothesis in pieces
    precision: str  # fp32, fp16 or bf16; with CTranslate2 one of its quantisations


class Engine(Protocol):
    """A model on one device. The same for all: tags, cutting and text are not its business."""

    longest: int  # rows of a source, tag and end included

    def search(self, sources: Sequence[List[int]], prefixes: Sequence[Optional[int]]) -> List[List[int]]:
        """The best hypothesis of every source, as rows of the dictionary after the prefix.

        Args:
            sources: rows of the dictionary, tagged, each with its end symbol; one batch.
            prefixes: the first row of the hypotheses of each source, all given or all None.
        """
