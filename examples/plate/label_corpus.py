"""A pair of a corpus in OPUS-100's layout with the labels of a teacher: what `fairseq-generate` made of its train sources.

    fairseq-generate DATA --gen-subset train --remove-bpe sentencepiece ... > GENERATED
    python label_corpus.py --corpus CORPUS --direction de-en --lines 10000 --generated GENERATED --out LABELLED

Writes the pair alone: the first --lines train sources as they are, each beside its translation, and dev and test as
they are. Without --generated the translations are the corpus's own: data of the same sources to generate from, and to
compare with. Sources that `prepare` left out of DATA, blank and over-long ones, are left out here too. Nothing is
written unless there is one translation of every sentence of DATA, made from these sources in this order.
"""

import argparse
import re
import sys
import unicodedata
from itertools import islice
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import language_tag
from fairseq_plugins.opus100.corpus import Pair, find_pairs, read_lines
from fairseq_plugins.opus100.files import plain_os_errors, write_whole

_SENTENCE = re.compile(r"([SD])-(\d+)\t(.*)")
_CLOSING = "Generate "  # begins the last line that fairseq-generate writes
_COUNT = re.compile(r"\d.* \| Translated ([\d,]+) sentences ")  # in the log, just before
_UNKNOWN = "<unk>"


def read_generated(path: Path, sources: Sequence[str], tags: Sequence[str]) -> Dict[int, str]:
    """Translations by the position of their source; none of sources that the data set has not.

    Args:
        path: what `fairseq-generate` printed.
        sources: what its data set was made of, in the same order.
        tags: of the languages; one stands before each sentence where the model is told a language.
    Raises:
        UserError: it did not end, is of other sentences, or holds none, or two, of one.
    """
    found: Dict[str, Dict[int, str]] = {"S": {}, "D": {}}
    ended, told = False, 1
    for line in read_lines(path):
        ended = ended or line.startswith(_CLOSING)
        match = _SENTENCE.fullmatch(line)
        if match is None:
            count = _COUNT.match(line)
            told = int(count[1].replace(",", "")) if count else told
            continue
        kind, number, text = match[1], int(match[2]), match[3]
        if number in found[kind]:
            raise UserError(f"{path} has two translations of sentence {number}; generate with --nbest 1")
        found[kind][number] = text
    if not ended:
        raise UserError(f"{path} is truncated: fairseq-generate did not end; generate again")
    count = max(told, 1 + max(found["D"], default=0))
    if len(found["D"]) != count:
        said = f"has translations of {len(found['D'])} sentences, the data set at least {count}"
        raise UserError(f"{path} {said}; generate again")
    labels = [found["D"][number].split("\t", 1)[-1] for number in range(count)]  # behind the score
    if any("\u2581" in label for label in labels):
        raise UserError(f"{path} holds pieces; generate with --remove-bpe sentencepiece")
    printed = [found["S"].get(number, "") for number in range(count)]
    tag = next((tag for tag in tags if all(text.startswith(tag) for text in printed)), "")
    patterns = [[_bare(part) for part in text[len(tag) :].split(_UNKNOWN)] for text in printed]
    texts = [_bare(source) for source in sources]
    first = _places(patterns, texts)
    if len(first) < count:
        raise UserError(
            f"{path} has a translation of {printed[len(first)]!r}, sentence {len(first)}, which is no line behind that of "
            "the sentence before; generate from a data folder of this corpus"
        )
    last = [len(texts) - 1 - place for place in _places(patterns[::-1], texts[::-1])][::-1]
    # With unknown characters in it a sentence may fit a line that was left out as well
    return {early: label for early, late, label in zip(first, last, labels, strict=True) if texts[early] == texts[late]}


def _places(patterns: Sequence[List[str]], texts: Sequence[str]) -> List[int]:
    """The earliest text of each pattern behind that of the pattern before; ends before the first that has none."""
    found: List[int] = []
    ahead = iter(range(len(texts)))
    for pattern in patterns:
        place = next((place for place in ahead if _fits(pattern, texts[place])), None)
        if place is None:
            break
        found.append(place)
    return found


def _fits(parts: List[str], text: str) -> bool:
    """Whether `text` is the parts with something between each two of them."""
    if len(parts) == 1:
        return text == parts[0]
    at = len(parts[0])
    for part in parts[1:-1]:  # the earliest place leaves most room for those behind
        start = text.find(part, at + 1)
        if start < 0:
            return False
        at = start + len(part)
    return text.startswith(parts[0]) and text.endswith(parts[-1]) and at < len(text) - len(parts[-1])


def _bare(text: str) -> str:
    """What SentencePiece keeps of a text, however it normalises."""
    return "".join(unicodedata.normalize("NFKC", text).replace("\u2581", "").split())


def write_pair(pair: Pair, source: str, sources: Sequence[str], labels: Sequence[str], out: Path) -> None:
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
    tags = [language_tag(language) for language in pair.languages]
    chosen = dict(enumerate(own)) if generated is None else read_generated(generated, sources, tags)
    if not chosen:
        raise UserError(f"{generated} has no sentence whose line is certain: all are unknown characters")
    labels = list(chosen.values())
    write_pair(pair, source, [sources[line] for line in chosen], labels, out)
    words, same = sum(len(text.split()) for text in labels), sum(own[line] == text for line, text in chosen.items())
    return (
        f"{out}: {len(labels)} labels of {words / len(labels):.2f} words, {same / len(labels):.1%} of them the corpus's own, "
        f"{labels.count('')} empty; {len(sources) - len(labels)} lines left out that were not generated or not told apart"
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
