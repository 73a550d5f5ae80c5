"""What searches for translations: fairseq's generator, or CTranslate2; and the plain Transformer that both can run."""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Sequence

from fairseq_plugins._verbs import UserError


class Search(NamedTuple):
    """What decides a hypothesis, beside model and input."""

    beam: int
    lenpen: float
    max_len: int  # longest hypothesis in pieces
    precision: str  # fp32, fp16 or bf16; with CTranslate2 one of its quantisations


def check_search_options(options: Dict[str, Any]) -> None:
    """What `evaluate` and `translate` take for searching must mean something.

    Args:
        options: name -> value; None where the default is chosen.
    Raises:
        UserError: a number out of range, named by its flag.
    """
    for name in ("beam", "max_len", "batch_size", "max_tokens", "workers", "threads"):
        value = options.get(name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least 1")
    if not math.isfinite(options["lenpen"]):
        raise UserError(f"--lenpen {options['lenpen']} must be a number")


class Engine(Protocol):
    """A model on one device. The same for all: tags, cutting and text are not its business."""

    longest: int  # rows of a source, tag and end included

    def search(self, sources: Sequence[List[int]], prefixes: Sequence[Optional[int]]) -> List[List[int]]:
        """The best hypothesis of every source, as rows of the dictionary after the prefix.

        Args:
            sources: rows of the dictionary, tagged, each with its end symbol; one batch.
            prefixes: the first row of the hypotheses of each source, all given or all None.
        """
