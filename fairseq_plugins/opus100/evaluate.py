"""Translate and score every direction of a prepared corpus with one model load per process.

Writes hyp.<source>-<target>.<target> for each direction and results.json, results.csv, results.md. BLEU (13a, with its
95 % interval, and with the language's own tokeniser) and chrF2 by sacreBLEU on the raw references; the share of
translations that are not in the language asked for. Over-long input is cut and counted, never skipped. Finished
directions are kept: the same command again goes on where it was stopped. Defaults: beam 5, length penalty 1.0; Zhang et
al. (2020) decode with --beam 4 --lenpen 0.6.
"""

import argparse
import multiprocessing
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.chosen_model import ENGINES, ChosenModel, check_model, choose_model, converted
from fairseq_plugins.opus100.decoding import (
    FILE_SPLIT,
    Sentence,
    find_devices,
    fit_batches,
    load_translator,
    make_batches,
    read_lengths,
    translate,
)
from fairseq_plugins.opus100.engines import Search, check_search_options
from fairseq_plugins.opus100.engines.exported_folder import QUANTIZATIONS
from fairseq_plugins.opus100.facts import Facts
from fairseq_plugins.opus100.files import (
    Progress,
    number,
    plain_os_errors,
    read_json,
    sha256_of,
    whole_number,
    write_json,
    write_whole,
)
from fairseq_plugins.opus100.off_target import IDENTIFIERS, choose_identifier, describe
from fairseq_plugins.opus100.run_folder import bound_data, make_folder, read_manifest
from fairseq_plugins.opus100.scoring import Job, Score, hypothesis_path, read_text, reference_path, score_files
from fairseq_plugins.opus100.tables import (
    averages,
    evaluated_directions,
    named,
    select_directions,
    train_lines_of,
    write_tables,
)
from fairseq_plugins.opus100.workers import run_all, usable_cores

_RECORD = {"identity": dict, "hypotheses": str, "lines": whole_number, "truncated": whole_number, "seconds": number,
           "processes": lambda value: whole_number(value) and value > 0, "device": str, "finished": number}  # fmt: skip
GROUP = {"cpu": 4000, "cuda": 40000}  # sentences sorted and batched together; a kill loses at most about one group


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evaluate``."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DATA", help="folder written by prepare")
    add("--run", type=Path, metavar="RUN", help="folder written by train; its checkpoint_best.pt is used")
    add("--checkpoint", type=Path, metavar="PATH",
        help="this checkpoint instead, an average for example, or a folder of export --to ctranslate2")  # fmt: skip
    add("--engine", choices=ENGINES,
        help="what searches (default: fairseq; ctranslate2 for a folder of export). ctranslate2 converts a checkpoint "
        "into a folder inside DIR first")  # fmt: skip
    add("--quantization", choices=QUANTIZATIONS, help="of --engine ctranslate2 (default: float32, or the folder's own)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for hypotheses and tables")
    add("--score-only", type=Path, metavar="HYP_DIR",
        help="score the hyp.<source>-<target>.<target> files of a folder, translate nothing")  # fmt: skip
    add("--subset", choices=sorted(FILE_SPLIT), default="test", help="default: %(default)s")
    add("--directions", metavar="A-B,...", help="only these, or supervised, or zero-shot (default: all)")
    add("--allow-missing", action="store_true", help="average groups although directions are missing")
    add("--identifier", choices=IDENTIFIERS,
        help="what sees that a translation is in another language (default: langid if installed)")  # fmt: skip
    add("--beam", type=int, default=5, metavar="N", help="default: %(default)s")
    add("--lenpen", type=float, default=1.0, metavar="A", help="length penalty (default: %(default)s)")
    add("--max-len", type=int, default=200, metavar="N", help="longest hypothesis in pieces (default: %(default)s)")
    add("--precision", choices=["fp32", "fp16", "bf16"], help="of the model with --engine fairseq (default: fp32)")
    add("--max-tokens", type=int, metavar="N",
        help="source pieces per batch, padding included (default: 2000 on CPU, 16000 on a GPU, less for decoders "
        "larger than 6 layers of width 512)")  # fmt: skip
    add("--batch-size", type=int, metavar="N",
        help="sentences per batch at most (default: 64 on CPU, 512 on a GPU, less in the same proportion)")  # fmt: skip
    add("--workers", type=int, metavar="N",
        help="processes side by side, one thread each on CPU (default: one per GPU, on CPU one per core)")  # fmt: skip
    add("--cpu", action="store_true", help="do not use a GPU (the default where none is found)")


def run(args: argparse.Namespace) -> None:
    """Translate what is not translated yet, score everything, write the tables."""
    with plain_os_errors(args.output):
        _run(args)


def _run(args: argparse.Namespace) -> None:
    check_search_options(vars(args))
    identifier = choose_identifier(args.identifier)
    manifest = read_manifest(args.data)
    known = evaluated_directions(manifest, args.subset)
    chosen = select_directions(known, args.directions)
    for direction in chosen:
        read_reference_count(args.data, args.subset, direction)
    model = None if args.score_only else find_model(args, manifest)
    make_folder(args.output, "--output")
    model = with_engine(args, model, manifest) if model else None
    speed = translate_missing(args, model, chosen) if model else None
    rows, signatures = score_directions(args, chosen, known, tuple(manifest["languages"]), identifier)
    results = {
        "format": 1,
        "data": {name: manifest["sha256"][name] for name in ("dict.txt", "sentencepiece.model")},
        "pivot": manifest["pivot"],
        "subset": args.subset,
        "tag_scheme": manifest["tag_scheme"],
        "signatures": signatures,
        "identifier": describe(identifier),
        "averages": averages(rows, known, manifest["pivot"], args.allow_missing, train_lines_of(manifest)),
        "directions": rows,
        "versions": versions(),
        "machine": machine(),
        "command": f"python -m fairseq_plugins.opus100 {' '.join(shlex.quote(word) for word in sys.argv[1:])}",
    }
    if model:
        results["sampling"] = model.facts.sampling
        results["model"] = {name: getattr(model.facts, name) for name in ("arch", "updates", "parameters")}
        results["checkpoint"] = model.checkpoint
        results["engine"] = model.engine
        results["search"] = search_of(args, model)._asdict()
        results["speed"] = speed
    write_tables(args.output, results)
    print((args.output / "results.md").read_text(encoding="utf-8"), end="")


def search_of(args: argparse.Namespace, model: ChosenModel) -> Search:
    """The search that the options ask for with this model."""
    precision = model.exported.quantization if model.exported else args.precision or "fp32"
    return Search(args.beam, args.lenpen, args.max_len, precision)


def find_model(args: argparse.Namespace, manifest: Dict[str, Any]) -> ChosenModel:
    """The model to use, after checking that it belongs to the data.

    Raises:
        UserError: none given, missing or damaged, of another dictionary, SentencePiece model or tag scheme, or options
            that do not go with its engine.
    """
    if not args.run and not args.checkpoint:
        raise UserError("give --run RUN, --checkpoint PATH or --score-only HYP_DIR")
    path = args.checkpoint or args.run / "checkpoint_best.pt"
    if not args.checkpoint and not path.exists():
        path = args.run / "checkpoint_last.pt"
        if not path.exists():
            raise UserError(f"--run {args.run} holds neither checkpoint_best.pt nor checkpoint_last.pt; train first")
    model = choose_model(path, args.engine)
    check_model(model, manifest, args.data, bound_data(args.run) if args.run else None)
    wanted = args.engine or model.engine
    if wanted == "ctranslate2" and args.precision:
        raise UserError(f"--precision {args.precision} is for --engine fairseq; CTranslate2 has --quantization")
    if wanted == "fairseq" and args.quantization:
        raise UserError(f"--quantization {args.quantization} needs --engine ctranslate2")
    if model.exported and args.quantization not in (None, model.exported.quantization):
        raise UserError(f"{path} was exported with --quantization {model.exported.quantization}, not "
                        f"{args.quantization}; export it again or leave the option out")
    return model


def with_engine(args: argparse.Namespace, model: ChosenModel, manifest: Dict[str, Any]) -> ChosenModel:
    """The model as the wanted engine reads it: for CTranslate2 a checkpoint is converted into a folder of DIR."""
    if args.engine != "ctranslate2" or model.exported:
        return model
    quantization = args.quantization or "float32"
    return converted(model, args.data, manifest, args.output / f"ctranslate2.{quantization}", quantization)


def read_reference_count(data: Path, subset: str, direction: str) -> int:
    """Lines to translate for a direction: its references, which must match the binarised source.

    Raises:
        UserError: a file is missing or the two sides have different numbers of lines.
    """
    path = reference_path(data, subset, direction)
    lines, sources = len(read_text(path)), len(read_lengths(data, subset, direction))
    if lines != sources:
        raise UserError(f"{path} has {lines} lines but the binarised source of {direction} has {sources}; run prepare "
                        "again")
    return lines


def record_path(folder: Path, direction: str) -> Path:
    return folder / f"hyp.{direction}.json"


def read_record(folder: Path, direction: str) -> Dict[str, Any]:
    """What was noted of a direction when it was translated; {} if nothing was.

    Raises:
        UserError: the file is damaged.
    """
    return read_json(record_path(folder, direction), _RECORD) or {}


def is_finished(args: argparse.Namespace, model: ChosenModel, direction: str) -> bool:
    """Whether the output folder holds this direction, translated by this checkpoint with this search."""
    record = read_record(args.output, direction)
    made = {"engine": "fairseq", **record.get("identity", {})}  # older records know no other
    same = made == identity(args, model, direction)
    return same and record["hypotheses"] == sha256_of(hypothesis_path(args.output, direction))


def identity(args: argparse.Namespace, model: ChosenModel, direction: str) -> Dict[str, Any]:
    """Everything that the hypotheses of a direction depend on."""
    pair, source = "-".join(sorted(direction.split("-"))), direction.split("-")[0]
    text = sha256_of(args.data / f"{FILE_SPLIT[args.subset]}.{pair}.{source}.bin")
    search = search_of(args, model)._asdict()
    return {"checkpoint": model.checkpoint["sha256"], "engine": model.engine, "search": search, "subset": args.subset,
            "source": text}  # fmt: skip


def translate_missing(args: argparse.Namespace, model: ChosenModel, chosen: List[str]) -> Dict[str, Any]:
    """Translate the directions that are not finished yet and return the speed over all of them."""
    todo = [direction for direction in chosen if not is_finished(args, model, direction)]
    if len(todo) < len(chosen):
        print(f"{len(chosen) - len(todo)} of {len(chosen)} directions are translated already", file=sys.stderr)
    if todo:
        devices = find_devices(args.cpu)
        workers = args.workers or (len(devices) if devices != ["cpu"] else usable_cores())
        translate_directions(args, model, todo, devices, workers)
    records = [read_record(args.output, direction) for direction in chosen]
    spent = sum(record["seconds"] / record["processes"] for record in records)
    last = max(records, key=lambda record: record["finished"])
    return {
        "sentences": sum(record["lines"] for record in records),
        "sentences_per_second": sum(record["lines"] for record in records) / max(spent, 1e-9),
        "device": last["device"],
        "processes": last["processes"],
    }


def translate_directions(
    args: argparse.Namespace, model: ChosenModel, todo: List[str], devices: List[str], workers: int
) -> None:
    """Translate directions in mixed batches; each is written as soon as its last sentence is there."""
    on_cpu = devices == ["cpu"]
    if on_cpu:
        os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the workers, before their torch starts
    batches = plan_batches(args, model.facts, todo, on_cpu)
    texts: Dict[str, List[Optional[str]]] = {}
    waiting, truncated, seconds = {}, dict.fromkeys(todo, 0), dict.fromkeys(todo, 0.0)
    for direction in todo:
        waiting[direction] = read_reference_count(args.data, args.subset, direction)
        texts[direction] = [None] * waiting[direction]
    progress = Progress("translating", sum(waiting.values()), "sentences")
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    for worker in range(workers):
        queue.put(devices[worker % len(devices)])
    load = (load_translator, (queue, model, args.data, args.subset, search_of(args, model)))
    for _, done in run_all(translate, batches, workers, progress, load):
        for (direction, line), text, cut in zip(done.sentences, done.texts, done.truncated, strict=True):
            texts[direction][line] = text
            truncated[direction] += cut
            seconds[direction] += done.seconds / len(done.sentences)
            waiting[direction] -= 1
            if not waiting[direction]:
                record = {"identity": identity(args, model, direction), "lines": len(texts[direction]),
                          "truncated": truncated[direction], "seconds": round(seconds[direction], 2),
                          "processes": workers, "device": device_name(devices[0]), "finished": time.time()}
                write_direction(args.output, direction, texts.pop(direction), record)
    progress.finish()
    if texts:
        raise RuntimeError(f"not every sentence came back: {', '.join(texts)}")


def plan_batches(args: argparse.Namespace, facts: Facts, todo: List[str], on_cpu: bool) -> List[List[Sentence]]:
    """Batches for all directions, group after group, so that directions finish on the way and not all at the end."""
    max_tokens, batch_size = fit_batches(facts.decoder_size, on_cpu)
    max_tokens, batch_size = args.max_tokens or max_tokens, args.batch_size or batch_size
    batches, group = [], {}
    for place, direction in enumerate(todo, 1):
        lengths = read_lengths(args.data, args.subset, direction)
        group.update(((direction, line), length) for line, length in enumerate(lengths))
        if len(group) >= GROUP["cpu" if on_cpu else "cuda"] or place == len(todo):
            batches += make_batches(group, max_tokens, batch_size)
            group = {}
    return batches


def write_direction(folder: Path, direction: str, texts: List[Optional[str]], record: Dict[str, Any]) -> None:
    """Hypotheses first, then the record that calls them finished."""
    missing = sum(text is None for text in texts)
    if missing:
        raise RuntimeError(f"{direction}: {missing} of {len(texts)} sentences have no hypothesis")
    data = "".join(f"{text}\n" for text in texts).encode()
    record["hypotheses"] = write_whole(hypothesis_path(folder, direction), data)
    write_json(record_path(folder, direction), record)


def score_directions(
    args: argparse.Namespace, chosen: List[str], known: Dict[str, str], languages: Tuple[str, ...], identifier: str
) -> Tuple[List[Dict[str, Any]], Dict[str, Any]]:
    """The rows of the table and sacreBLEU's signatures.

    Raises:
        UserError: hypotheses are missing, or not one per reference.
    """
    folder = args.score_only or args.output
    there = [direction for direction in chosen if hypothesis_path(folder, direction).is_file()]
    missing = [direction for direction in chosen if direction not in there]
    if missing and (not args.allow_missing or not there):
        raise UserError(f"{hypothesis_path(folder, missing[0])} is missing ({len(missing)} of {len(chosen)} directions "
                        f"are: {named(missing)}); --allow-missing scores the others")
    jobs = {direction: Job(hypothesis_path(folder, direction), reference_path(args.data, args.subset, direction),
                           direction.split("-")[1], languages, identifier)
            for direction in there}  # fmt: skip
    progress = Progress("scoring", sum(len(read_text(job.references)) for job in jobs.values()), "lines")
    scores = dict(run_all(score_files, list(jobs.values()), args.workers or usable_cores(), progress))
    rows = []
    signatures: Dict[str, Any] = {"bleu_own": {}}
    for direction in there:
        score = scores[jobs[direction]]
        record = {} if args.score_only else read_record(args.output, direction)
        more = {name: record.get(name) for name in ("truncated", "seconds")}
        rows.append({"direction": direction, "kind": known[direction], **row_of(score), **more})
        signatures["bleu_own"][score.tokenizer] = score.signatures["bleu_own"]
    return rows, {**score.signatures, **signatures}


def row_of(score: Score) -> Dict[str, Any]:
    """The columns of the table that come from scoring."""
    names = ("bleu", "bleu_low", "bleu_high", "chrf", "bleu_own", "tokenizer")
    seen = score.off_target
    return {**{name: getattr(score, name) for name in names}, "off_target": seen.hypotheses,
            "off_target_references": seen.references, "identifier": seen.identifier, "hypotheses": score.lines}


def versions() -> Dict[str, str]:
    """Versions of everything that can change a score."""
    found = {"python": platform.python_version()}
    for name in ("fairseq-plugins", "fairseq-fixed", "torch", "ctranslate2", "sentencepiece", "sacrebleu", "py3langid"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor and system in words, without the host's name."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        names = [line.partition(":")[2].strip() for line in about.split("\n") if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return f"{usable_cores()} cores, {names[0] if names else platform.machine()}, {platform.system()}"


def device_name(device: str) -> str:
    import torch

    return device if device == "cpu" else torch.cuda.get_device_name(device)
