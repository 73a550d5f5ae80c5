"""What students learned, from the logs that comparison.sh leaves.

    python table.py --runs OUT/runs --classifiers OUT/classify --students v2_6 scratch_6 --output OUT/results

Writes results/students.csv and prints the same as Markdown: held-out losses of relations in bits per text, perplexity
of masked tokens after the tuning, and the accuracy of the classifier in percent. The teacher's row has its own
perplexity, as it was trained.
"""

import argparse
import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.files import plain_os_errors, write_whole

TEACHER = "teacher"
COLUMNS = ("student", "minilmv2_bits", "minilm_bits", "perplexity", "classifier")


def read(path: Path) -> str:
    """A log.

    Raises:
        UserError: it is not there.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); let comparison.sh finish") from None


def last_json(path: Path, key: str) -> float:
    """The last value of `key` in a log of lines in json.

    Raises:
        UserError: no line has it.
    """
    found = None
    for words in read(path).splitlines():
        try:
            found = float(json.loads(words)[key])
        except (ValueError, KeyError, TypeError):  # other lines
            continue
    if found is None:
        raise UserError(f"{path}: has no line with {key}; is that training finished?")
    return found


def last_simple(path: Path, key: str) -> float:
    """The last value of `key` in a log of `| key value |`.

    Raises:
        UserError: no line has it.
    """
    found = re.findall(rf"\| {key} ([\d.]+)", read(path))
    if not found:
        raise UserError(f"{path}: has no {key}; is that validation finished?")
    return float(found[-1])


def row_of(name: str, runs: Path, classifiers: Path) -> Dict[str, str]:
    """The numbers of one student, or of the teacher, as they are written."""
    row = {"student": name}
    if name == TEACHER:
        tuned = name
    else:
        for loss in ("minilmv2", "minilm"):
            row[f"{loss}_bits"] = f"{last_json(runs / f'{name}.{loss}.log', 'valid_loss'):.3f}"
        tuned = f"{name}.tuned"
    row["perplexity"] = f"{last_simple(runs / f'{tuned}.perplexity.log', 'ae_ppl'):.0f}"
    row["classifier"] = f"{last_simple(classifiers / name / 'classifier.test.log', 'accuracy'):.1f}"
    return row


def markdown(rows: List[Dict[str, str]]) -> str:
    """A table."""
    lines = [" | ".join(COLUMNS), "|".join(["---"] + ["---:"] * (len(COLUMNS) - 1))]
    lines += [" | ".join(row.get(column, "") for column in COLUMNS) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def main(words: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--classifiers", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--students", required=True, nargs="+", metavar="NAME")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    args = parser.parse_args(words)
    try:
        rows = [row_of(name, args.runs, args.classifiers) for name in (TEACHER, *args.students)]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with plain_os_errors(args.output):
            args.output.mkdir(parents=True, exist_ok=True)
            write_whole(args.output / "students.csv", text.getvalue().encode())
    except UserError as error:
        sys.exit(f"error: {error}")
    print(markdown(rows))


if __name__ == "__main__":
    main()
