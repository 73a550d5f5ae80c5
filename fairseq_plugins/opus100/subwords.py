"""One SentencePiece model for all languages, trained on a sample in which small languages count for more."""

import io
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.corpus import read_lines

NORMALIZATIONS = ("identity", "nmt_nfkc")
MODEL_TYPES = ("bpe", "unigram")

# SentencePiece splits the work of a unigram model by thread and adds the parts up in that order, so the number of
# threads is part of the result. It is fixed here, whatever the machine.
_THREADS = 16


class SubwordOptions(NamedTuple):
    """What decides a SentencePiece model."""

    model_type: str  # of MODEL_TYPES
    vocab_size: int  # pieces, with SentencePiece's own three
    character_coverage: float
    normalization: str  # of NORMALIZATIONS
    temperature: float
    sample_lines: int  # at most
    seed: int
    large_corpus: bool  # SentencePiece's train_extremely_large_corpus


def balanced_lines(lines: Dict[str, int], most: int, temperature: float) -> Dict[str, int]:
    """How many lines each language gives: proportional to n^(1/T), never more than it has, at most ``most`` together.

    What a small language cannot fill is shared out among the others by the same rule; no line is taken twice.

    Args:
        lines: language -> lines it has.
        most: lines together.
        temperature: 1 keeps the natural proportions, larger values move towards equal parts.
    """
    if sum(lines.values()) <= most:
        return dict(lines)
    shares: Dict[str, int] = {}
    while True:
        open_languages = {language: n ** (1 / temperature) for language, n in lines.items() if language not in shares}
        budget, weight = most - sum(shares.values()), sum(open_languages.values())
        full = [language for language, part in open_languages.items() if budget * part / weight >= lines[language]]
        if not full:
            # rounded down, so that the parts stay within the whole, but not from 19.9999999
            parts = {language: int(budget * part / weight + 1e-6) for language, part in open_languages.items()}
            return {**shares, **parts}
        shares.update((language, lines[language]) for language in full)


def plan_sample(files: Dict[str, Dict[Path, int]], options: SubwordOptions) -> List[Tuple[Path, int, int]]:
    """(file, its lines, lines to take from it) in a fixed order.

    Args:
        files: language -> train file -> number of lines.
    """
    totals = {language: sum(of.values()) for language, of in files.items()}
    shares = balanced_lines(totals, options.sample_lines, options.temperature)
    plan = []
    for language in sorted(files):
        for path, lines in sorted(files[language].items()):
            plan.append((path, lines, round(shares[language] * lines / totals[language]) if lines else 0))
    return plan


def sample_sentences(plan: List[Tuple[Path, int, int]], seed: int) -> Iterator[str]:
    """The sampled lines that are not blank. The choice depends on the seed and the file's name, not on its folder."""
    for path, lines, take in plan:
        chosen = np.zeros(lines, dtype=bool)
        generator = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
        chosen[generator.choice(lines, take, replace=False)] = True
        for keep, line in zip(chosen, read_lines(path), strict=True):
            if keep and line.strip():
                yield line.replace("\0", " ")  # SentencePiece stops at a NUL


def train_subwords(folder: Path, plan: List[Tuple[Path, int, int]], options: SubwordOptions) -> Tuple[bytes, int]:
    """Train a SentencePiece model; the same input gives the same bytes.

    A corpus too small for ``vocab_size`` gives a smaller model. Runs in a process of its own: it changes directory,
    because SentencePiece stores the path of the normalisation table in the model, and it must not be the user's.

    Returns:
        The serialised model and the number of sentences it saw.
    Raises:
        UserError: the vocabulary is smaller than the number of different characters, or nothing to train on.
    """
    import sentencepiece

    seen = 0

    def sentences() -> Iterator[str]:
        nonlocal seen
        for line in sample_sentences(plan, options.seed):
            seen += 1
            yield line

    model = io.BytesIO()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        home = os.getcwd()
        os.chdir(scratch)
        try:
            sentencepiece.set_random_generator_seed(options.seed)
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=sentences(),
                model_writer=model,
                model_type=options.model_type,
                vocab_size=options.vocab_size,
                hard_vocab_limit=False,
                character_coverage=options.character_coverage,
                train_extremely_large_corpus=options.large_corpus,
                num_threads=_THREADS,
                minloglevel=2,
                **_normalization(options.normalization),
            )
        except RuntimeError as error:
            raise UserError(_explain(str(error), options)) from error
        finally:
            os.chdir(home)
    return model.getvalue(), seen


def load_model(path: Path) -> Any:
    """A SentencePiece model, ready to encode and decode.

    Raises:
        UserError: missing or damaged.
    """
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError):
        raise UserError(f"{path} is missing or no SentencePiece model; prepare the data again") from None


class Piece(NamedTuple):
    """One row of a SentencePiece model."""

    text: str
    score: float
    normal: bool  # False for <unk>, <s>, </s>


def read_pieces(model: bytes) -> List[Piece]:
    """All pieces in model order."""
    import sentencepiece

    of = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [
        Piece(of.id_to_piece(i), of.get_score(i), not (of.is_control(i) or of.is_unknown(i)))
        for i in range(of.get_piece_size())
    ]


def _normalization(name: str) -> Dict[str, str]:
    """Arguments for SentencePiece; for ``identity`` a table that only turns odd white space into plain spaces.

    BLEU is counted on raw references, and NFKC rewrites the text a model learns to produce: full-width Chinese and
    Japanese punctuation becomes ASCII, the ligature fi two letters, 1/2 three characters. Nothing can undo that after
    decoding. White space is the exception: fairseq splits tokenised lines at U+00A0, U+3000, U+2028 and the like, and
    sacreBLEU does not tell them from a space.
    """
    if name != "identity":
        return {"normalization_rule_name": name}
    spaces = [code for code in range(0x110000) if chr(code).isspace() and chr(code) not in " \n"]
    Path("identity.tsv").write_text("".join(f"{code:X}\t20\n" for code in spaces))
    return {"normalization_rule_tsv": "identity.tsv"}


def _explain(message: str, options: SubwordOptions) -> str:
    if "smaller than required_chars" in message:
        numbers = message.partition("required_chars.")[2].partition(". ")[0].strip()  # "30 vs 70"
        return (
            f"--vocab-size {options.vocab_size} is smaller than the number of different characters "
            f"({numbers.rpartition(' ')[2]} with SentencePiece's own pieces); raise it or lower --character-coverage"
        )
    return f"SentencePiece could not be trained: {message.rpartition('] ')[2] or message}"
