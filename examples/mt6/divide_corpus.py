"""Divide a corpus in OPUS-100's layout for a pre-training experiment.

OUT/fine_tune: of every supervised pair the first --fine-tune lines, and its dev and test sets and the zero-shot ones.
OUT/parallel: of every pair the next --parallel lines, and the same dev and test sets.
OUT/mono/LANG.txt: the remaining lines of each language, each once; nothing tells which belong together.
"""

import argparse
import shutil
from pathlib import Path
from typing import Dict, Iterator, List


def read(path: Path) -> List[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]  # not splitlines: a text may hold U+2028


def write(path: Path, lines: List[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def train_files(corpus: Path) -> Iterator[Path]:
    yield from sorted(corpus.glob("**/supervised/*/opus.*-train.*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, metavar="CORPUS", help="folder of the corpus")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder to write")
    parser.add_argument("--fine-tune", type=int, default=2000, metavar="N", help="default: %(default)s")
    parser.add_argument("--parallel", type=int, default=10000, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    first, second = args.fine_tune, args.fine_tune + args.parallel
    rest: Dict[str, Dict[str, None]] = {}
    for path in train_files(args.corpus):
        lines, place = read(path), path.relative_to(args.corpus)
        if len(lines) <= second:
            parser.error(f"{path} has {len(lines)} lines; --fine-tune and --parallel take {second} and must leave some")
        write(args.out / "fine_tune" / place, lines[:first])
        write(args.out / "parallel" / place, lines[first:second])
        rest.setdefault(path.suffix[1:], {}).update(dict.fromkeys(lines[second:]))
    if not rest:
        parser.error(f"--corpus {args.corpus} holds no supervised/*/opus.*-train.* files")
    for path in sorted(args.corpus.glob("**/opus.*")):
        place = path.relative_to(args.corpus)
        for part in ("fine_tune", "parallel") if "-train." not in path.name else ():
            (args.out / part / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, args.out / part / place)
    for language, lines in rest.items():
        write(args.out / "mono" / f"{language}.txt", list(lines))


if __name__ == "__main__":
    main()
