"""Turn a raw corpus into a fairseq data folder: SentencePiece model, dictionary and every pair binarised once.

One folder of pair a-b serves a->b and b->a, and every stock task (translation, translation_multi_simple_epoch,
language_modeling, masked_lm) reads it. The command can be stopped at any time and run again: finished pairs are kept,
and the files come out the same, byte for byte.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from fairseq_plugins import __version__
from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import TAG_SCHEMES, dictionary_rows, dictionary_text, read_dictionary
from fairseq_plugins.opus100.binarise import Encoder, PairJob, binarise_pair
from fairseq_plugins.opus100.corpus import (
    SPLITS,
    SUPERVISED,
    ZERO_SHOT,
    FileScan,
    Pair,
    check_same_length,
    find_pairs,
    scan_file,
    select_pairs,
    split_list,
)
from fairseq_plugins.opus100.files import (
    Progress,
    exit_with_parent,
    plain_os_errors,
    read_json,
    sha256_of,
    write_json,
    write_whole,
)
from fairseq_plugins.opus100.subwords import (
    MODEL_TYPES,
    NORMALIZATIONS,
    SubwordOptions,
    plan_sample,
    train_subwords,
)

FORMAT = 1  # of manifest.json
TRAIN_ONLY = "train-only"
HOLD_OUT = 200  # dev lines taken from train for a pair that has none (--keep-untested)
STATE = ".prepare"  # records of what is finished; gone when everything is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``prepare``."""
    add = parser.add_argument
    add("--corpus", type=Path, required=True, metavar="ROOT", help="folder that holds opus-100-corpus/ or supervised/")
    add("--out", "--data", type=Path, required=True, metavar="DATA", dest="out", help="folder to write")
    add("--pivot", default="en", metavar="LANG", help="language of every supervised pair (default: %(default)s)")
    add("--pairs", metavar="A-B,...", help="only these pairs, and zero-shot pairs of their languages")
    add("--pairs-file", type=Path, metavar="FILE", help="the same, from a file")
    add("--languages", metavar="A,B,...", help="only pairs of these languages (and the pivot)")
    add("--keep-untested", action="store_true", help=f"also train on pairs without dev or test; up to {HOLD_OUT} of "
        "their train pairs become their dev set and they are never evaluated")  # fmt: skip
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
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: cores, %(default)s)")
    add("--force", action="store_true", help="throw away what an earlier run with other options left in DATA")
    add("--dry-run", action="store_true", help="print the plan and write nothing")


class Plan(NamedTuple):
    """What will be made, before anything is written."""

    pairs: Dict[str, Pair]
    kinds: Dict[str, str]  # pair -> SUPERVISED, ZERO_SHOT or TRAIN_ONLY
    scans: Dict[Path, FileScan]
    notices: List[str]

    @property
    def languages(self) -> List[str]:
        return sorted({language for pair in self.pairs.values() for language in pair.languages})

    def lines(self, name: str, split: str) -> int:
        files = self.pairs[name].files.get(split)
        return self.scans[files[0]].lines if files else 0

    def total_lines(self) -> int:
        return sum(self.lines(name, split) for name in self.pairs for split in SPLITS)


def run(args: argparse.Namespace) -> None:
    """Make DATA, or finish it, or find that it is complete."""
    _check_options(args)
    with plain_os_errors(args.corpus):
        plan = make_plan(args)
    for notice in plan.notices:
        print(f"notice: {notice}", file=sys.stderr)
    if args.dry_run:
        return print_plan(plan, args)
    with plain_os_errors(args.out):
        _make(plan, args)


def _check_options(args: argparse.Namespace) -> None:
    for flag, low in (("vocab_size", 8), ("sample_lines", 1), ("max_length", 1), ("workers", 1), ("seed", 0)):
        if getattr(args, flag) < low:
            raise UserError(f"--{flag.replace('_', '-')} {getattr(args, flag)} must be at least {low}")
    if not 0 < args.character_coverage <= 1:
        raise UserError(f"--character-coverage {args.character_coverage} must be above 0 and at most 1")
    if args.temperature < 1:
        raise UserError(f"--temperature {args.temperature} must be at least 1 (1 keeps the natural proportions)")


def make_plan(args: argparse.Namespace) -> Plan:
    """Find the pairs, read every file once, decide what becomes of each pair.

    Raises:
        UserError: anything wrong with the corpus or with the choice of pairs.
    """
    names = split_list(args.pairs) if args.pairs is not None else None
    if args.pairs_file is not None:
        names = (names or []) + split_list(args.pairs_file.read_text(encoding="utf-8"))
    languages = split_list(args.languages) if args.languages is not None else None
    chosen = select_pairs(find_pairs(args.corpus.resolve(), args.pivot), names, languages, args.pivot)

    notices: List[str] = []
    kinds = {name: _kind(pair) for name, pair in chosen.items()}
    untested = [name for name, kind in kinds.items() if kind == TRAIN_ONLY]
    if untested and not args.keep_untested:
        notices.append(f"without dev or test, left out (--keep-untested trains on them): {' '.join(untested)}")
        kinds = {name: kind for name, kind in kinds.items() if kind != TRAIN_ONLY}
    trained = {lang for name, kind in kinds.items() if kind != ZERO_SHOT for lang in chosen[name].languages}
    if not trained:
        raise UserError("no pair with train, dev and test is left; --keep-untested trains on pairs without dev or test")
    lost = [name for name, kind in kinds.items() if kind == ZERO_SHOT and not trained.issuperset(chosen[name].languages)]
    if lost:
        notices.append(f"zero-shot pairs of a language without training data, left out: {' '.join(lost)}")
    pairs = {name: chosen[name] for name in kinds if name not in lost}

    paths = [path for pair in pairs.values() for files in pair.files.values() for path in files]
    scans = dict(zip(paths, _in_parallel(scan_file, paths, args.workers)))
    for pair in pairs.values():
        for files in pair.files.values():
            check_same_length(files, (scans[files[0]], scans[files[1]]))
    return Plan(pairs, {name: kinds[name] for name in pairs}, scans, notices)


def _kind(pair: Pair) -> str:
    if pair.kind == ZERO_SHOT:
        return ZERO_SHOT
    return SUPERVISED if set(SPLITS) <= set(pair.files) else TRAIN_ONLY


def _in_parallel(function, items: List, workers: int) -> List:
    if workers == 1 or len(items) < 2:
        return [function(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:  # hashing and decoding release the interpreter lock
        return list(pool.map(function, items))


def print_plan(plan: Plan, args: argparse.Namespace) -> None:
    """Print what would be made."""
    print(f"{len(plan.languages)} languages: {' '.join(plan.languages)}")
    print(f"{'pair':<12}{'kind':<12}" + "".join(f"{split:>12}" for split in SPLITS))
    for name in sorted(plan.pairs):
        print(f"{name:<12}{plan.kinds[name]:<12}" + "".join(f"{plan.lines(name, split):>12,}" for split in SPLITS))
    sample = sum(take for _, _, take in _sample_plan(plan, args))
    print(f"SentencePiece: {args.model_type}, {args.vocab_size:,} pieces, from {sample:,} lines at T={args.temperature}")
    print(f"would write {args.out} with {args.workers} processes; nothing written (--dry-run)")


def _sample_plan(plan: Plan, args: argparse.Namespace) -> List[Tuple[Path, int, int]]:
    files: Dict[str, Dict[Path, int]] = {}
    for name, pair in plan.pairs.items():
        if plan.kinds[name] != ZERO_SHOT:
            for language, path in zip(pair.languages, pair.files["train"]):
                files.setdefault(language, {})[path] = plan.scans[path].lines
    return plan_sample(files, _subword_options(args))


def _subword_options(args: argparse.Namespace) -> SubwordOptions:
    return SubwordOptions(**{field: getattr(args, field) for field in SubwordOptions._fields})


def _identity(plan: Plan, args: argparse.Namespace) -> Dict[str, Any]:
    """Everything that decides the bytes of the output."""
    options = {**_subword_options(args)._asdict(), "pivot": args.pivot, "tags": args.tags, "max_length": args.max_length}
    inputs = {f"{path.parent.parent.name}/{path.parent.name}/{path.name}": scan.sha256 for path, scan in plan.scans.items()}
    return {"options": options, "inputs": inputs}


def _make(plan: Plan, args: argparse.Namespace) -> None:
    out, identity = args.out.resolve(), _identity(plan, args)
    state = out / STATE
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {args.out} is a file; give a folder")
    if _begin(out, state, identity, args):
        print(f"{args.out} is complete and belongs to this corpus and these options; nothing to do")
        return
    vocabulary = _vocabulary(out, plan, args)
    records = _binarise_all(out, plan, args, vocabulary["size"])
    hashes = dict(vocabulary["sha256"])
    for record in records.values():
        hashes.update(record["sha256"])
    hashes.update(_write_lists(out, plan))
    write_json(out / "manifest.json", _manifest(plan, args, identity, vocabulary, records, hashes))
    shutil.rmtree(state)
    print_summary(read_json(out / "manifest.json"), args.out)


def _begin(out: Path, state: Path, identity: Dict[str, Any], args: argparse.Namespace) -> bool:
    """Compare with what is in ``out`` already. True if it is complete.

    Raises:
        UserError: the folder holds something else.
    """
    manifest = read_json(out / "manifest.json")
    started = read_json(state / "plan.json")
    if args.force and (manifest or started) and (manifest or {}).get("prepare") != identity and started != identity:
        _clear(out)
        manifest = started = None
    if manifest is not None:
        _refuse_changes(manifest.get("prepare", {}), identity, out)
        damaged = [name for name, digest in manifest["sha256"].items() if sha256_of(out / name) != digest]
        if not damaged:
            if state.exists():  # killed between the manifest and the end
                shutil.rmtree(state)
            return True
        print(f"notice: {len(damaged)} files are missing or damaged and are made again", file=sys.stderr)
    elif started is not None:
        _refuse_changes(started, identity, out)
    elif out.is_dir() and any(entry.name != STATE for entry in out.iterdir()):
        raise UserError(f"--out {out} is not empty and was not made by prepare; give a new folder")
    (out / "raw").mkdir(parents=True, exist_ok=True)
    state.mkdir(exist_ok=True)
    _warn_if_tight(out, identity)
    write_json(state / "plan.json", identity)
    return False


def _warn_if_tight(out: Path, identity: Dict[str, Any]) -> None:
    del identity
    free = shutil.disk_usage(out).free
    if free < 1 << 28:
        print(f"notice: only {free >> 20} MB are free in {out}", file=sys.stderr)


def _refuse_changes(old: Dict[str, Any], new: Dict[str, Any], out: Path) -> None:
    changed = []
    for part, flag in (("options", True), ("inputs", False)):
        before, after = old.get(part, {}), new[part]
        keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        for key in keys:
            changed.append(f"--{key.replace('_', '-')} {before.get(key)} -> {after.get(key)}" if flag else key)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{out} was made from other input ({'; '.join(changed[:3])}{more}); give another --out, or --force to redo it"
        )


def _clear(out: Path) -> None:
    """Remove what ``prepare`` writes and nothing else."""
    for pattern in ("manifest.json", "dict.txt", "dict.*.txt", "sentencepiece.*", "*.bin", "*.idx", "languages.txt",
                    "lang_pairs.txt", "zero_shot_pairs.txt", "raw/*"):  # fmt: skip
        for path in out.glob(pattern):
            path.unlink()
    shutil.rmtree(out / STATE, ignore_errors=True)


def _finished(out: Path, record_path: Path) -> Optional[Dict[str, Any]]:
    """The record of a finished step if all its files are there unchanged."""
    record = read_json(record_path)
    if record and all(sha256_of(out / name) == digest for name, digest in record["sha256"].items()):
        return record
    return None


def _vocabulary(out: Path, plan: Plan, args: argparse.Namespace) -> Dict[str, Any]:
    """SentencePiece model and dictionaries: {"size", "sample_lines", "sha256"}."""
    record_path = out / STATE / "vocabulary.json"
    if record := _finished(out, record_path):
        return record
    options = _subword_options(args)
    progress = Progress("SentencePiece", 1, "model")
    print(f"training SentencePiece ({options.model_type}, {options.vocab_size:,} pieces)", file=sys.stderr, flush=True)
    with _pool(1) as pool:
        model, sample_lines = _result(pool.submit(train_subwords, out / STATE, _sample_plan(plan, args), options))
    progress.finish()
    hashes = {"sentencepiece.model": write_whole(out / "sentencepiece.model", model)}

    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = processor.get_piece_size()
    if size < options.vocab_size:
        print(f"notice: the corpus is too small for {options.vocab_size:,} pieces; it gave {size:,}", file=sys.stderr)
    table = "".join(f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in range(size))
    hashes["sentencepiece.vocab"] = write_whole(out / "sentencepiece.vocab", table.encode())

    pieces = [
        processor.id_to_piece(i) for i in range(size) if not (processor.is_control(i) or processor.is_unknown(i))
    ]
    rows = dictionary_rows(pieces, plan.languages)
    text = dictionary_text(rows).encode()
    hashes["dict.txt"] = write_whole(out / "dict.txt", text)
    for language in plan.languages:
        name = f"dict.{language}.txt"
        link_or_copy(out / "dict.txt", out / name)
        hashes[name] = hashes["dict.txt"]
    record = {"size": size, "rows": len(rows), "sample_lines": sample_lines, "sha256": hashes}
    write_json(record_path, record)
    return record


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``; a copy where the file system has no hard links."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # rename does nothing when both names are the same file already


_worker: Dict[str, Any] = {}  # of this worker process


def _start_worker(out: Optional[Path] = None, encoded: Any = None) -> None:
    exit_with_parent()
    if out is not None:
        _worker.update(_load(out), encoded=encoded)


def _load(out: Path) -> Dict[str, Any]:
    rows = read_dictionary(out / "dict.txt")
    return {"encoder": Encoder(out / "sentencepiece.model", rows), "rows": len(rows)}


def _run_job(job: PairJob) -> Dict[str, Any]:
    def count(lines: int) -> None:
        with _worker["encoded"].get_lock():
            _worker["encoded"].value += lines

    with plain_os_errors(job.out):
        return _finish_job(job, _worker, count)


def _finish_job(job: PairJob, loaded: Dict[str, Any], count) -> Dict[str, Any]:
    record = binarise_pair(job, loaded["encoder"], loaded["rows"], count)
    write_json(job.out / STATE / f"{job.name}.json", record)
    return record


def _pool(workers: int, *initial: Any) -> concurrent.futures.ProcessPoolExecutor:
    # spawn: a fork of a process that has run threads (torch, SentencePiece) can hang
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, initial)


def _result(future: concurrent.futures.Future) -> Any:
    try:
        return future.result()
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely for want of memory; run the same command with fewer --workers "
            "or fewer --sample-lines"
        ) from None


def _binarise_all(out: Path, plan: Plan, args: argparse.Namespace, size: int) -> Dict[str, Dict[str, Any]]:
    """Binarise every pair that is not finished, the largest first; pair -> record."""
    del size
    records: Dict[str, Dict[str, Any]] = {}
    jobs: List[PairJob] = []
    for name in sorted(plan.pairs, key=lambda name: -plan.lines(name, "train")):
        if record := _finished(out, out / STATE / f"{name}.json"):
            records[name] = record
            continue
        pair = plan.pairs[name]
        files = pair.files if plan.kinds[name] != TRAIN_ONLY else {k: v for k, v in pair.files.items() if k != "test"}
        files = files if plan.kinds[name] != ZERO_SHOT else {"test": files["test"]}
        hold_out = HOLD_OUT if plan.kinds[name] == TRAIN_ONLY and "dev" not in files else 0
        jobs.append(PairJob(name, pair.languages, files, out, args.max_length, hold_out, args.seed))
    if records:
        print(f"{len(records)} of {len(plan.pairs)} pairs are finished already", file=sys.stderr)
    total = sum(plan.lines(job.name, split) for job in jobs for split in job.files)
    progress = Progress("encoding", total, "line pairs")
    if args.workers == 1 or len(jobs) < 2:
        loaded, done = _load(out) if jobs else {}, 0

        def count(lines: int) -> None:
            nonlocal done
            done += lines
            progress.show(done)

        records.update((job.name, _finish_job(job, loaded, count)) for job in jobs)
    else:
        encoded = multiprocessing.get_context("spawn").Value("q", 0)
        with _pool(min(args.workers, len(jobs)), out, encoded) as pool:
            waiting = {pool.submit(_run_job, job): job.name for job in jobs}
            try:
                while waiting:
                    finished, _ = concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_COMPLETED)
                    for future in finished:
                        records[waiting.pop(future)] = _result(future)
                    progress.show(encoded.value)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    progress.finish()
    return records


def _write_lists(out: Path, plan: Plan) -> Dict[str, str]:
    """languages.txt and the two files of directions, comma separated as ``--lang-pairs FILE`` wants them."""

    def directions(zero_shot: bool) -> str:
        names = sorted(name for name, kind in plan.kinds.items() if (kind == ZERO_SHOT) == zero_shot)
        return ",".join(direction for name in names for direction in plan.pairs[name].directions) + "\n"

    texts = {
        "languages.txt": "".join(f"{language}\n" for language in plan.languages),
        "lang_pairs.txt": directions(zero_shot=False),
        "zero_shot_pairs.txt": directions(zero_shot=True),
    }
    return {name: write_whole(out / name, text.encode()) for name, text in texts.items()}


def _manifest(plan, args, identity, vocabulary, records, hashes) -> Dict[str, Any]:
    import sentencepiece

    return {
        "format": FORMAT,
        "pivot": args.pivot,
        "languages": plan.languages,
        "tag_scheme": args.tags,
        "pairs": {name: {"kind": plan.kinds[name], **records[name]["counts"]} for name in plan.pairs},
        "vocabulary": {
            "model_type": args.model_type,
            "requested_size": args.vocab_size,
            "size": vocabulary["size"],
            "rows": vocabulary["rows"],
            "character_coverage": args.character_coverage,
            "normalization": args.normalization,
            "temperature": args.temperature,
            "sample_lines": vocabulary["sample_lines"],
            "seed": args.seed,
        },
        "prepare": identity,
        "sha256": hashes,
        "versions": {
            "fairseq_plugins": __version__,
            "sentencepiece": sentencepiece.__version__,
            "python": platform.python_version(),
        },
    }


def print_summary(manifest: Dict[str, Any], out: Path) -> None:
    """Say what was made and what was left out."""
    pairs = manifest["pairs"].values()
    train = [pair["train"] for pair in pairs if "train" in pair]
    kinds = {kind: sum(pair["kind"] == kind for pair in pairs) for kind in (SUPERVISED, TRAIN_ONLY, ZERO_SHOT)}
    print(
        f"{out}: {len(manifest['languages'])} languages, {kinds[SUPERVISED]} supervised, {kinds[TRAIN_ONLY]} train-only, "
        f"{kinds[ZERO_SHOT]} zero-shot pairs; {sum(t['kept'] for t in train):,} train pairs kept, "
        f"{sum(t['dropped_empty'] for t in train):,} blank and {sum(t['dropped_long'] for t in train):,} over-long left out; "
        f"{manifest['vocabulary']['rows']:,} dictionary rows"
    )
