"""Several corpora in OPUS-100's layout as one, and what is to be pre-trained on.

    python join_corpora.py --corpus MULTI30K --corpus TATOEBA --rename eng=en --out JOINED

Writes JOINED/supervised and JOINED/zero-shot, which are links to the corpora's files, with languages renamed where a
corpus names them otherwise; JOINED/text/<language>, each train line of the first corpus once; and JOINED/pairs.txt, the
pairs of the others. A pair that two corpora have is taken from the first; one corpus must not have two of one name.
"""

import argparse
import sys
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.corpus import find_pairs, read_lines


def join(corpora: List[Path], names: Dict[str, str], out: Path) -> List[str]:
    """Make `out`; returns the pairs.

    Raises:
        UserError: a corpus without pairs, a file that is no UTF-8, or new names that make one of two.
    """
    owner: Dict[str, Tuple[Path, str]] = {}  # of each pair: the corpus, and its name there
    texts: Dict[str, Dict[str, None]] = {}  # of the first corpus
    for corpus in corpora:
        for pair in find_pairs(corpus).values():
            renamed = {language: names.get(language, language) for language in pair.languages}
            name = "-".join(sorted(renamed.values()))
            if len(set(renamed.values())) < 2:
                raise UserError(f"--rename makes one language of both sides of {corpus}'s {pair.name}; rename one of them")
            first, original = owner.setdefault(name, (corpus, pair.name))
            if first != corpus:
                continue
            if original != pair.name:
                raise UserError(
                    f"--rename makes {name} of {corpus}'s {original} and of its {pair.name}; leave one of the two out"
                )
            folder = out / pair.kind / name
            folder.mkdir(parents=True, exist_ok=True)
            for split, files in pair.files.items():
                for language, path in zip(pair.languages, files, strict=True):
                    link = folder / f"opus.{name}-{split}.{renamed[language]}"
                    link.unlink(missing_ok=True)
                    link.symlink_to(path.resolve())
                    if split == "train" and corpus == corpora[0]:
                        texts.setdefault(renamed[language], {}).update(dict.fromkeys(read_lines(path)))
    (out / "text").mkdir(exist_ok=True)
    for language, lines in texts.items():
        (out / "text" / language).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    others = sorted(name for name, (corpus, _) in owner.items() if corpus != corpora[0])
    (out / "pairs.txt").write_text("".join(f"{name}\n" for name in others), encoding="utf-8")
    return list(owner)


def main(argv: Optional[List[str]] = None) -> int:
    """Run with these words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, action="append", required=True, help="again for each")
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="a language's other name")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    try:
        wrong = next((word for word in args.rename if word.count("=") != 1 or not all(word.split("="))), None)
        if wrong is not None:
            raise UserError(f"--rename {wrong}: give OLD=NEW, as eng=en")
        pairs = join(args.corpus, dict(word.split("=") for word in args.rename), args.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(pairs)} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
