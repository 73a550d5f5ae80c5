"""Turn a raw corpus into a fairseq data folder: SentencePiece model, dictionary and every pair binarised once.

One folder of pair a-b serves a->b and b->a, and every stock task (translation, translation_multi_simple_epoch,
language_modeling, masked_lm) reads it. The command can be stopped at any time and run again: finished pairs are kept,
and the files come out the same, byte for byte.
"""

import argparse
import hashlib
import platform
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_plugins import __version__
from fairseq_plugins._verbs import UserError, check_at_least
from fairseq_plugins.data.symbols import TAG_SCHEMES
from fairseq_plugins.opus100.binarise import PairJob, SplitCount, binarise_pair, load_encoder, loaded
from fairseq_plugins.opus100.corpus import SUPERVISED, ZERO_SHOT, read_lines, split_list
from fairseq_plugins.opus100.data_folder import DataFolder
from fairseq_plugins.opus100.files import Progress, misfit, plain_os_errors, whole_number, write_whole
from fairseq_plugins.opus100.plan import TRAIN_ONLY, Plan, make_plan, print_plan
from fairseq_plugins.opus100.subwords import (
    MODEL_TYPES,
    NORMALIZATIONS,
    SubwordOptions,
    plan_sample,
)
from fairseq_plugins.opus100.vocabulary import read_vocabulary, train_vocabulary, write_vocabulary
from fairseq_plugins.opus100.workers import Report, run_all, usable_cores

FORMAT = 1  # of manifest.json
_COUNTED = set(SplitCount._fields)  # of train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``prepare``."""
    add = parser.add_argument
    add("--corpus", type=Path, required=True, metavar="ROOT", help="folder that holds opus-100-corpus/ or supervised/")
    add("--out", "--data", type=Path, required=True, metavar="DATA", dest="out", help="folder to write")
    add("--pivot", default="en", metavar="LANG", help="language of every supervised pair (default: %(default)s)")
    add("--pairs", metavar="A-B,...", help="only these pairs, and zero-shot pairs of their languages")
    add("--pairs-file", type=Path, metavar="FILE", help="the same, from a file")
    add("--languages", metavar="A,B,...", help="only pairs of these languages (and the pivot)")
    add("--keep-untested", action="store_true", help="also train on pairs without test, which are never evaluated")
    add("--vocabulary", type=Path, metavar="FOLDER", help="SentencePiece model and dictionary of another prepared "
        "folder, or of XLM-R's; SentencePiece is not trained then, and its options do nothing")  # fmt: skip
    add("--model-type", choices=MODEL_TYPES, default="bpe", help="SentencePiece model (default: %(default)s)")
    add("--vocab-size", type=int, default=64000, metavar="N", help="pieces (default: %(default)s)")
    add("--character-coverage", type=float, default=1.0, metavar="SHARE",
        help="share of the characters that get a piece, the rest is <unk> (default: %(default)s)")  # fmt: skip
    add("--normalization", choices=NORMALIZATIONS, default="identity", help="identity keeps the text but for odd white "
        "space; nmt_nfkc rewrites characters, which costs BLEU on raw references (default: %(default)s)")  # fmt: skip
    add("--temperature", type=float, default=5.0, metavar="T", help="of the sample SentencePiece sees: a language with "
        "n lines gets a part proportional to n^(1/T) (default: %(default)s)")  # fmt: skip
    add("--sample-lines", type=int, default=10_000_000, metavar="N",
        help="lines of that sample at most, all languages together (default: %(default)s)")  # fmt: skip
    add("--large-corpus", action="store_true", help="SentencePiece's train_extremely_large_corpus")
    add("--max-length", type=int, default=256, metavar="PIECES",
        help="longer train lines are left out; dev and test stay whole (default: %(default)s)")  # fmt: skip
    add("--tags", choices=sorted(TAG_SCHEMES), default="target", help="how the direction reaches the model; recorded "
        "for train and evaluate (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N", help="of the sample and of held-out lines (default: %(default)s)")
    add("--workers", type=int, default=usable_cores(), metavar="N", help="processes (default: cores, %(default)s)")
    add("--force", action="store_true", help="throw away what an earlier run with other options left in DATA")
    add("--dry-run", action="store_true", help="print the plan and write nothing")


def run(args: argparse.Namespace) -> None:
    """Make DATA, or finish it, or find that it is complete."""
    _check_options(args)
    with plain_os_errors(args.corpus):
        plan = make_plan(
            args.corpus.resolve(),
            args.pivot,
            _chosen_pairs(args),
            None if args.languages is None else split_list(args.languages),
            args.keep_untested,
            args.workers,
        )
    for notice in plan.notices:
        print(f"notice: {notice}", file=sys.stderr)
    with plain_os_errors(args.out):
        if args.dry_run:
            _print_dry_run(plan, args)
        else:
            _make(plan, args)


def _chosen_pairs(args: argparse.Namespace) -> Optional[List[str]]:
    if args.pairs is None and args.pairs_file is None:
        return None
    listed = [] if args.pairs_file is None else split_list(" ".join(read_lines(args.pairs_file)))
    return split_list(args.pairs or "") + listed


def _check_options(args: argparse.Namespace) -> None:
    check_at_least(args, vocab_size=8, sample_lines=1, max_length=1, workers=1, seed=0)
    if not 0 < args.character_coverage <= 1:
        raise UserError(f"--character-coverage {args.character_coverage} must be above 0 and at most 1")
    if args.temperature < 1:
        raise UserError(f"--temperature {args.temperature} must be at least 1 (1 keeps the natural proportions)")


def _subword_options(args: argparse.Namespace) -> SubwordOptions:
    return SubwordOptions(**{field: vars(args)[field] for field in SubwordOptions._fields})


def _print_dry_run(plan: Plan, args: argparse.Namespace) -> None:
    print_plan(plan)
    if args.vocabulary is not None:
        print(f"SentencePiece and dictionary of {args.vocabulary}")
        print(f"would write {args.out} with {args.workers} processes; nothing written (--dry-run)")
        return
    sample = sum(take for _, _, take in plan_sample(plan.train_files(), _subword_options(args)))
    print(f"SentencePiece: {args.model_type}, {args.vocab_size:,} pieces from {sample:,} lines, T={args.temperature:g}")
    print(f"would write {args.out} with {args.workers} processes; nothing written (--dry-run)")


def _make(plan: Plan, args: argparse.Namespace) -> None:
    options = _subword_options(args)._asdict()
    options.update(pivot=args.pivot, tags=args.tags, max_length=args.max_length)
    inputs = {"/".join(path.parts[-3:]): scan.sha256 for path, scan in plan.scans.items()}
    taken = None
    if args.vocabulary is not None:
        taken = read_vocabulary(args.vocabulary, plan.languages)
        inputs.update({f"{name} of --vocabulary": hashlib.sha256(data).hexdigest() for name, data in taken.files()})
    folder = DataFolder(args.out.resolve(), {"options": options, "inputs": inputs})
    if folder.open(args.force):
        print(f"{args.out} is complete and belongs to this corpus and these options; nothing to do")
        return
    (folder.path / "raw").mkdir(exist_ok=True)
    vocabulary = folder.finished("vocabulary", {"rows": whole_number})
    if vocabulary is None:
        found = taken or train_vocabulary(folder.state, plan, _subword_options(args))
        vocabulary = write_vocabulary(folder, found, plan.languages)
    records = _binarise_all(folder, plan, args)
    hashes = dict(vocabulary.pop("sha256"))
    for record in records.values():
        hashes.update(record["sha256"])
    hashes.update(_write_lists(folder.path, plan))
    manifest = {
        "format": FORMAT,
        "pivot": args.pivot,
        "languages": plan.languages,
        "tag_scheme": args.tags,
        "pairs": {name: {"kind": plan.kinds[name], **records[name]["counts"]} for name in plan.pairs},
        "vocabulary": vocabulary,
        "sha256": hashes,
        "versions": versions(),
    }
    folder.close(manifest)
    print_summary(manifest, args.out)


def versions() -> Dict[str, str]:
    """What wrote a folder, for its manifest."""
    import sentencepiece

    return {
        "fairseq_plugins": __version__,
        "python": platform.python_version(),
        "sentencepiece": sentencepiece.__version__,
    }


def binarise_job(job: PairJob, report: Report) -> Dict[str, Any]:
    """Write the files and the record of one pair."""
    with plain_os_errors(job.out):
        record = binarise_pair(job, loaded["encoder"], loaded["rows"], report)
        return loaded["folder"].record(job.name, record)


def _binarise_all(folder: DataFolder, plan: Plan, args: argparse.Namespace) -> Dict[str, Dict[str, Any]]:
    """Binarise every pair that is not finished, the largest first; pair -> record."""
    shape = {"counts": lambda counts: misfit(counts, {str: {str: whole_number}}) is None
             and all(_COUNTED <= set(counts[split]) for split in counts if split == "train")}  # fmt: skip
    records = {name: record for name in plan.pairs if (record := folder.finished(name, shape)) is not None}
    if records:
        print(f"{len(records)} of {len(plan.pairs)} pairs are finished already", file=sys.stderr)
    jobs = [
        PairJob(name, pair.languages, pair.files, folder.path, args.max_length,
                plan.hold_out(name), args.seed)
        for name, pair in plan.pairs.items()
        if name not in records
    ]  # fmt: skip
    jobs.sort(key=lambda job: plan.lines(job.name, "train"), reverse=True)
    total = sum(plan.lines(job.name, split) for job in jobs for split in job.files)
    progress = Progress("encoding", total, "line pairs")
    for job, record in run_all(binarise_job, jobs, args.workers, progress, (load_encoder, (folder, folder.path))):
        records[job.name] = record
    progress.finish()
    return records


def _write_lists(path: Path, plan: Plan) -> Dict[str, str]:
    """languages.txt and the two files of directions, comma separated as ``--lang-pairs FILE`` wants them."""
    texts = {
        "languages.txt": "".join(f"{language}\n" for language in plan.languages),
        "lang_pairs.txt": ",".join(plan.directions(zero_shot=False)) + "\n",
        "zero_shot_pairs.txt": ",".join(plan.directions(zero_shot=True)) + "\n",
    }
    return {name: write_whole(path / name, text.encode()) for name, text in texts.items()}


def print_summary(manifest: Dict[str, Any], out: Path) -> None:
    """Say what was made and what was left out."""
    pairs = manifest["pairs"].values()
    train = [pair["train"] for pair in pairs if "train" in pair]
    kinds = {kind: sum(pair["kind"] == kind for pair in pairs) for kind in (SUPERVISED, TRAIN_ONLY, ZERO_SHOT)}
    kept, blank, long = (sum(of[key] for of in train) for key in ("kept", "dropped_empty", "dropped_long"))
    print(
        f"{out}: {len(manifest['languages'])} languages, {kinds[SUPERVISED]} supervised, {kinds[TRAIN_ONLY]} "
        f"train-only and {kinds[ZERO_SHOT]} zero-shot pairs; {kept:,} train pairs kept, {blank:,} blank and "
        f"{long:,} over-long ones left out; {manifest['vocabulary']['rows']:,} dictionary rows"
    )
