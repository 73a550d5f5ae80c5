"""BLEU and chrF of one direction, by sacreBLEU on raw references (protocol of Zhang et al. 2020, arXiv 2004.11867)."""

from pathlib import Path
from typing import Callable, List, NamedTuple, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.corpus import read_lines


class Score(NamedTuple):
    """Scores of one direction in percent, with what sacreBLEU calls their signatures."""

    bleu: float
    chrf: float
    lines: int
    bleu_signature: str
    chrf_signature: str


def reference_path(data: Path, subset: str, direction: str) -> Path:
    """DATA/raw/<subset>.<pair>.<target>."""
    source, target = direction.split("-")
    return data / "raw" / f"{subset}.{'-'.join(sorted((source, target)))}.{target}"


def hypothesis_path(folder: Path, direction: str) -> Path:
    """hyp.<source>-<target>.<target> in ``folder``."""
    return folder / f"hyp.{direction}.{direction.split('-')[1]}"


def read_text(path: Path) -> List[str]:
    """The lines of a file, ended by \\n alone.

    Raises:
        UserError: the file is missing or not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    return list(read_lines(path))


def read_pair(hypotheses: Path, references: Path) -> Tuple[List[str], List[str]]:
    """The lines of both files.

    Raises:
        UserError: a file is missing, or the two have different numbers of lines.
    """
    texts = read_text(hypotheses), read_text(references)
    if len(texts[0]) != len(texts[1]):
        raise UserError(f"{hypotheses} has {len(texts[0])} lines, its reference {references} has {len(texts[1])}: "
                        "there must be one hypothesis per reference")
    return texts


def score_files(files: Tuple[Path, Path], report: Callable[[int], None]) -> Score:
    """Score a (hypothesis, reference) pair of files: a job for ``workers.run_all``.

    BLEU with tokeniser 13a, mixed case, for every language (as in the published tables), and chrF2.

    Raises:
        UserError: a file is missing, or the two have different numbers of lines.
    """
    hypotheses, references = read_pair(*files)
    from sacrebleu.metrics import BLEU, CHRF

    bleu, chrf = BLEU(), CHRF()
    values = [metric.corpus_score(hypotheses, [references]).score for metric in (bleu, chrf)]
    report(len(references))
    return Score(*values, len(references), str(bleu.get_signature()), str(chrf.get_signature()))
