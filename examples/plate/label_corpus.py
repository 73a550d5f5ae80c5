"""A pair of a corpus in OPUS-100's layout with the labels of a teacher: what `fairseq-generate` made of its train sources.

    fairseq-generate DATA --gen-subset train --remove-bpe sentencepiece ... > GENERATED
    python label_corpus.py --corpus CORPUS --direction de-en --lines 10000 --generated GENERATED --out LABELLED

Writes the pair alone: the first --lines train sources as they are, each beside its translation, and dev and test as
they are. Without --generated the translations are the corpus's own: data of the same sources to generate from, and to
compare with. Nothing is written unless there is one translation of every source, made from that source.
"""

import argparse
import re
import sys
import unicodedata
from itertools import islice
from pathlib import Path
from typing import Dict, List, Optional

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.corpus import Pair, find_pairs, read_lines
from fairseq_plugins.opus100.files import plain_os_errors, write_whole

_SENTENCE = re.compile(r"([SD])-(\d+)\t(.*)")
_CLOSING = "Generate "  # begins the last line that fairseq-generate writes
_TAG, _UNKNOWN = re.compile(r"(__\w+__ ?)*"), "<unk>"


def read_generated(path: Path, sources: List[str]) -> List[str]:
    """The translation of each source, in order.

    Args:
        path: what `fairseq-generate` printed.
        sources: it was given, in the order of its data set.
    Raises:
        UserError: it did not end, is of other sentences, or holds none, or two, of one.
    """
    found: Dict[str, Dict[int, str]] = {"S": {}, "D": {}}
    ended = False
    for line in read_lines(path):
        ended = ended or line.startswith(_CLOSING)
        match = _SENTENCE.fullmatch(line)
        if match is None:
            continue
        kind, number, text = match[1], int(match[2]), match[3]
        if number in found[kind]:
            raise UserError(f"{path} has two translations of sentence {number}; generate with --nbest 1")
        found[kind][number] = text
    if not ended:
        raise UserError(f"{path} is truncated: fairseq-generate did not end; generate again")
    if len(found["D"]) != len(sources) or sorted(found["D"]) != list(range(len(sources))):
        raise UserError(
            f"{path} has translations of {len(found['D'])} sentences, not one of each of {len(sources)}; generate from "
            "a data folder of these lines (prepare leaves blank and over-long ones out)"
        )
    for number, source in enumerate(sources):
        if not _same_text(found["S"].get(number, ""), source):
            raise UserError(f"{path} has a translation of {found['S'].get(number)!r} where sentence {number} is {source!r}")
    labels = [found["D"][number].split("\t", 1)[-1] for number in range(len(sources))]  # behind the score
    if any("\u2581" in label for label in labels):
        raise UserError(f"{path} holds pieces; generate with --remove-bpe sentencepiece")
    return labels


def _same_text(printed: str, source: str) -> bool:
    """Whether the engine printed `source`: with a tag in front, unknown characters as one symbol, other white space."""
    parts = [re.escape(_bare(part)) for part in printed[_TAG.match(printed).end() :].split(_UNKNOWN)]
    return re.fullmatch(".+".join(parts), _bare(source)) is not None


def _bare(text: str) -> str:
    """What SentencePiece keeps of a text, however it normalises."""
    return "".join(unicodedata.normalize("NFKC", text).replace("\u2581", "").split())


def write_pair(pair: Pair, source: str, sources: List[str], labels: List[str], out: Path) -> None:
    """`pair` under `out` with other train lines.

    Args:
        pair: to copy.
        source: language of `sources`; `labels` are in the other.
    """
    folder = out / pair.kind / pair.name
    folder.mkdir(parents=True, exist_ok=True)
    for split, files in pair.files.items():
        for language, path in zip(pair.languages, files, strict=True):
            data = path.read_bytes()
            if split == "train":
                data = "".join(f"{line}\n" for line in (sources if language == source else labels)).encode()
            write_whole(folder / f"opus.{pair.name}-{split}.{language}", data)


def label(corpus: Path, direction: str, lines: Optional[int], generated: Optional[Path], out: Path) -> str:
    """Make `out`; returns what to say of it.

    Raises:
        UserError: no such direction, too few lines, or translations that do not fit.
    """
    pair = find_pairs(corpus).get("-".join(sorted(direction.split("-"))))
    if pair is None or direction not in pair.directions or "train" not in pair.files:
        raise UserError(f"--direction {direction}: {corpus} has no pair of that name with a train set")
    if lines is not None and lines < 1:
        raise UserError(f"--lines {lines} must be at least 1")
    source = direction.split("-")[0]
    texts = {of: list(islice(read_lines(path), lines)) for of, path in zip(pair.languages, pair.files["train"], strict=True)}
    sources, own = texts.pop(source), *texts.values()
    if len(sources) != len(own) or len(sources) < (lines or 1):
        raise UserError(f"--lines {lines}: {pair.name} has train sets of {len(sources)} and {len(own)} lines")
    labels = own if generated is None else read_generated(generated, sources)
    write_pair(pair, source, sources, labels, out)
    words, same = sum(len(text.split()) for text in labels), sum(map(str.__eq__, labels, own))
    return (
        f"{out}: {len(labels)} labels of {words / len(labels):.2f} words, {same / len(labels):.1%} of them the corpus's own, "
        f"{labels.count('')} empty"
    )


def main(argv: Optional[List[str]] = None) -> int:
    """Run with these words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="in OPUS-100's layout")
    parser.add_argument("--direction", required=True, metavar="A-B", help="from the sources' language to the labels'")
    parser.add_argument("--lines", type=int, metavar="N", help="first train lines (default: all)")
    parser.add_argument("--generated", type=Path, metavar="FILE", help="output of fairseq-generate (default: the corpus's)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    try:
        with plain_os_errors(args.out):
            print(label(args.corpus, args.direction, args.lines, args.generated, args.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
