"""Write a task of sentence classification: which language is a line in? From a corpus in OPUS-100's layout.

OUT/{train,valid,test}.txt are plain lines, OUT/{train,valid,test}.label their languages. valid and test are drawn
from the corpus' own dev and test sets. No line of those is in train, and none stands twice in a file for a language.
"""

import argparse
import random
import sys
from pathlib import Path
from typing import Dict, List, Set

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.corpus import find_pairs, read_lines, split_list

SPLITS = {"train": "train", "valid": "dev", "test": "test"}  # fairseq's name -> the corpus'


def read_corpus(corpus: Path, leave_out: List[str]) -> Dict[str, Dict[str, List[str]]]:
    """Split -> language -> its lines, each once, that are not blank; from pairs without a language that is left out."""
    found: Dict[str, Dict[str, Set[str]]] = {split: {} for split in SPLITS}
    pairs = find_pairs(corpus)
    for language in leave_out:
        if not any(language in pair.languages for pair in pairs.values()):
            raise UserError(f"--leave-out {language}: the corpus has no such language")
    for pair in pairs.values():
        if set(leave_out).isdisjoint(pair.languages):
            for split, theirs in SPLITS.items():
                for language, path in zip(pair.languages, pair.files.get(theirs, ()), strict=False):
                    lines = (line.strip().replace("\r", " ") for line in read_lines(path))
                    found[split].setdefault(language, set()).update(filter(None, lines))
    return {split: {language: sorted(lines) for language, lines in of.items()} for split, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--corpus", type=Path, required=True, metavar="CORPUS", help="folder of the corpus")
    add("--out", type=Path, required=True, metavar="OUT", help="folder to write")
    add("--train-lines", type=int, default=100, metavar="N", help="of each language at most (default: %(default)s)")
    add("--valid-lines", type=int, default=20, metavar="N", help="default: %(default)s; less costs less after an epoch")
    add("--test-lines", type=int, default=100, metavar="N", help="default: %(default)s")
    add("--leave-out", type=split_list, default=[], metavar="LANG,LANG", help="languages whose pairs are not read")
    add("--seed", type=int, default=1, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    most = {"train": args.train_lines, "valid": args.valid_lines, "test": args.test_lines}
    if min(most.values()) < 1:
        parser.error("--train-lines, --valid-lines and --test-lines must be at least 1")
    try:
        corpus = read_corpus(args.corpus, args.leave_out)
    except UserError as error:
        sys.exit(f"error: {error}")
    held_out = {line for split in ("valid", "test") for lines in corpus[split].values() for line in lines}
    for language, lines in corpus["train"].items():
        corpus["train"][language] = [line for line in lines if line not in held_out]
    languages = sorted(language for language, lines in corpus["train"].items() if lines)
    args.out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        texts, labels = [], []
        for language in languages:
            lines = corpus[split].get(language, [])
            chosen = random.Random(f"{args.seed} {split} {language}").sample(lines, min(most[split], len(lines)))
            texts += chosen
            labels += [language] * len(chosen)
        for name, rows in (("txt", texts), ("label", labels)):
            (args.out / f"{split}.{name}").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        print(f"{split}: {len(texts):,} lines of {len(set(labels))} languages")


if __name__ == "__main__":
    main()
