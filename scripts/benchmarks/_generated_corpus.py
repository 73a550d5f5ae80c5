"""A data folder as large as OPUS-100's, in prepare's layout, of random tokens: loading looks at lengths alone."""

from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from fairseq_plugins.data.symbols import EOS_ROW, SPECIALS, dictionary_rows, dictionary_text
from fairseq_plugins.opus100.binarise import open_shard, token_dtype
from fairseq_plugins.opus100.corpus import SUPERVISED
from fairseq_plugins.opus100.files import write_json, write_whole
from fairseq_plugins.opus100.release import PIVOT, TEST_LINES, TRAIN_LINES
from fairseq_plugins.opus100.vocabulary import link_or_copy

PIECES = 64_000  # of prepare's default
LONGEST = 256  # pieces of a train line, prepare's default
CHUNK = 250_000  # lines made at once


def write_corpus(folder: Path, share: float, dev_share: float = 1.0, pieces: int = PIECES) -> Dict[str, Any]:
    """Write the pairs with English that OPUS-100 has test sets of; returns the manifest.

    Lengths of one side are log-normal with a median of 16 pieces and a mean of 24, those of the other within a quarter
    of them (one standard deviation). Row numbers are uniform.

    Args:
        folder: new or empty.
        share: of OPUS-100's train lines that every pair gets, at least one line.
        dev_share: of its dev lines.
        pieces: size of the vocabulary.
    """
    (folder / "raw").mkdir(parents=True)
    languages = sorted([PIVOT, *TRAIN_LINES])
    rows = dictionary_rows([f"piece{number}" for number in range(pieces)], languages)
    hashes: Dict[str, str] = {}
    pairs: Dict[str, Any] = {}
    for number, language in enumerate(TRAIN_LINES):
        pair = tuple(sorted((PIVOT, language)))
        lines = {
            "train": max(1, round(share * TRAIN_LINES[language])),
            "valid": max(1, round(dev_share * TEST_LINES[language])),
        }
        generator = np.random.default_rng([1, number])
        for split, count in lines.items():
            _write_split(folder, f"{split}.{'-'.join(pair)}", pair, count, generator, len(rows), pieces, hashes)
        kept = {"lines": lines["train"], "kept": lines["train"], "dropped_empty": 0, "dropped_long": 0}
        pairs["-".join(pair)] = {"kind": SUPERVISED, "train": kept, "dev": {"lines": lines["valid"]}}
    directions = [direction for pair in pairs for direction in (pair, "-".join(pair.split("-")[::-1]))]
    texts = {
        "dict.txt": dictionary_text(rows),
        "languages.txt": "".join(f"{language}\n" for language in languages),
        "lang_pairs.txt": ",".join(directions) + "\n",
        "zero_shot_pairs.txt": "\n",
    }
    hashes.update((name, write_whole(folder / name, text.encode())) for name, text in texts.items())
    for language in languages:
        link_or_copy(folder / "dict.txt", folder / f"dict.{language}.txt")
    options = {"pivot": PIVOT, "tags": "target", "max_length": LONGEST}
    manifest = {
        "format": 1, "pivot": PIVOT, "languages": languages, "tag_scheme": "target", "pairs": pairs,
        "vocabulary": {"rows": len(rows), "size": pieces}, "sha256": hashes,
        "prepare": {"options": options, "inputs": {}},
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    return manifest


def _write_split(
    folder: Path, name: str, pair: Any, lines: int, generator: np.random.Generator, rows: int, pieces: int, hashes: Dict
) -> None:
    with open_shard(folder / f"{name}.{pair[0]}", token_dtype(rows), hashes) as first, open_shard(
        folder / f"{name}.{pair[1]}", token_dtype(rows), hashes
    ) as second:
        for begin in range(0, lines, CHUNK):
            sizes = sentence_sizes(generator, min(CHUNK, lines - begin))
            for writer, of in zip((first, second), sizes, strict=True):
                tokens = generator.integers(len(SPECIALS), len(SPECIALS) + pieces, int(of.sum()), dtype=np.uint16)
                tokens[np.cumsum(of) - 1] = EOS_ROW
                writer.add(tokens, of)


def sentence_sizes(generator: np.random.Generator, lines: int) -> List[np.ndarray]:
    """Pieces of either side of so many pairs, the end included."""
    one = generator.lognormal(np.log(16), 0.9, lines)
    other = one * generator.lognormal(0, 0.25, lines)
    return [np.clip(side.round().astype(np.int64), 1, LONGEST) + 1 for side in (one, other)]
