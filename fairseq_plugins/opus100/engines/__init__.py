"""What searches for translations: fairseq's generator, or CTranslate2; and the plain Transformer that both can run."""

from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Sequence

from fairseq_plugins._verbs import LARGEST, UserError


class Search(NamedTuple):
    """What decides a hypothesis, beside model and input."""

    beam: int
    lenpen: float
    max_len: int  # longest hypothesis in pieces
    precision: str  # fp32, fp16 or bf16; with CTranslate2 one of its quantisations


# Of numbers that cost memory by themselves, whatever the model: hypotheses of a beam, their pieces, processes, threads.
_MOST = {"beam": 1000, "max_len": 100_000, "batch_size": LARGEST, "max_tokens": LARGEST, "workers": 1000,
         "threads": 1000}  # fmt: skip


def check_search_options(options: Dict[str, Any]) -> None:
    """What `evaluate` and `translate` take for searching must mean something.

    Args:
        options: name -> value; None where the default is chosen.
    Raises:
        UserError: a number out of range, named by its flag.
    """
    for name, most in _MOST.items():
        value = options.get(name)
        if value is not None and not 1 <= value <= most:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least 1 and at most {most:,}")


class Engine(Protocol):
    """A model on one device. The same for all: tags, cutting and text are not its business."""

    longest: int  # rows of a source, tag and end included

    def search(self, sources: Sequence[List[int]], prefixes: Sequence[Optional[int]]) -> List[List[int]]:
        """The best hypothesis of every source, as rows of the dictionary after the prefix.

        Args:
            sources: rows of the dictionary, tagged, each with its end symbol; one batch.
            prefixes: the first row of the hypotheses of each source, all given or all None.
        """
