"""How far do updates move a model, by depth, and which residual schemes diverge? DeepNet (arXiv 2203.00555), Figure 5.

    depth-study DATA --output study                                              the paper's recipe, its first updates
    depth-study DATA --output stability --warmup-updates 0 --updates 100 --lr 5e-4 2e-3 1e-2      where does it break?

DATA is a folder of `opus100 prepare`. Narrow models of every scheme and depth are trained on the same batches from the
same seed. Each is written to OUTPUT/cells as soon as it is finished, so the same command goes on where it was stopped,
and other schemes, depths, rates and seeds add to what is there. Writes results.json, table.md and picture.svg.

Scheme "stock" is the post-norm of fairseq's own --arch transformer, whose attention starts at gain 1/sqrt(2): "post"
starts everything at 1.
"""

import argparse
import functools
import gc
import math
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

from fairseq_plugins import __version__, register
from fairseq_plugins._verbs import LARGEST, UserError
from fairseq_plugins.opus100.files import (
    Progress,
    misfit,
    number,
    number_or_none,
    plain_os_errors,
    read_json,
    whole_number,
    write_json,
    write_whole,
)
from fairseq_plugins.opus100.run_folder import BOUND_FILES, make_folder, only_one, quiet_engine, read_manifest
from fairseq_plugins.opus100.training_command import longest_kept

SCHEMES = ("post", "pre", "deepnorm", "subln", "stock")
_LOOK = {"updates": whole_number, "loss": number_or_none, "update_norm": number_or_none}
_CELL = {"residual": lambda value: value in list(SCHEMES), "layers": whole_number, "lr": number, "seed": whole_number,
         "losses": [number_or_none], "unigram_loss": number, "settings": dict,
         "evaluations": lambda value: bool(value) and misfit(value, [_LOOK]) is None}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder written by opus100 prepare")
    add("--output", type=Path, required=True, metavar="OUTPUT", help="folder for cells, table and picture")
    cells = parser.add_argument_group("cells: every combination is trained")
    cells.add_argument("--residual", nargs="+", default=list(SCHEMES), metavar="SCHEME",
                       help=f"of {', '.join(SCHEMES)} (default: all)")  # fmt: skip
    cells.add_argument("--layers", nargs="+", type=int, default=[6, 18, 50, 100], metavar="N",
                       help="of the encoder, and as many of the decoder (default: 6 18 50 100)")  # fmt: skip
    cells.add_argument("--lr", nargs="+", type=float, default=[5e-4], help="peak (default: 5e-4, the paper's Table 4)")
    cells.add_argument("--seed", nargs="+", type=int, default=[1], metavar="N",
                       help="of weights and dropout; several give a median (default: 1)")  # fmt: skip
    recipe = parser.add_argument_group("what all cells share (DeepNet, Table 4)")
    recipe.add_argument("--updates", type=int, default=32, metavar="N", help="default: %(default)s")
    recipe.add_argument("--warmup-updates", type=int, default=4000, metavar="N",
                        help="of the inverse square root; the paper's 4000 show the very first steps; 0 = the "
                             "peak rate throughout, which breaks models soon (default: %(default)s)")  # fmt: skip
    recipe.add_argument("--shape", default="64-128-2", metavar="D-F-H",
                        help="width, feed-forward, heads (default: %(default)s, the paper's for Figure 5)")  # fmt: skip
    recipe.add_argument("--dropout", type=float, default=0.4, metavar="P", help="default: %(default)s")
    recipe.add_argument("--max-tokens", type=int, default=1024, metavar="N",
                        help="pieces per batch, padding included; the paper's 4000 cost four times as much (default: "
                             "%(default)s)")  # fmt: skip
    add("--at", type=int, metavar="N",
        help="draw the norms after so many updates: 1, 2, 4, 8, ... or the last (default: the last)")  # fmt: skip
    add("--cpu", action="store_true", help="do not use a GPU (the default where none is found)")


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then write the results.

    Raises:
        UserError: bad options, DATA that is not prepared, OUTPUT with cells of other settings.
    """
    shape = check(args)
    settings = study_settings(args, shape, read_manifest(args.data))
    make_folder(args.output / "cells", "--output")
    with plain_os_errors(args.output), only_one(args.output):
        with quiet_engine():
            train_missing(args, settings)
        results = gather(args.output, settings, args.at or args.updates)
        from fairseq_plugins.cli._depth_picture import picture
        from fairseq_plugins.cli._depth_results import table

        write_json(args.output / "results.json", results)
        write_whole(args.output / "table.md", table(results).encode())
        write_whole(args.output / "picture.svg", picture(results).encode())
    print(table(results), end="")
    print(f"wrote results.json, table.md and picture.svg in {args.output}")


def check(args: argparse.Namespace) -> List[int]:
    """Refuse what is out of range; returns width, feed-forward and heads.

    Raises:
        UserError: one sentence that names the flag.
    """
    for scheme in args.residual:
        if scheme not in SCHEMES:
            raise UserError(f"--residual {scheme} is unknown; known are {', '.join(SCHEMES)}")
    for flag, numbers, least, most in (
        ("layers", args.layers, 1, 10_000),
        ("seed", args.seed, 0, LARGEST),
        ("updates", [args.updates], 1, 1_000_000),
        ("warmup-updates", [args.warmup_updates], 0, LARGEST),
        ("max-tokens", [args.max_tokens], 1, LARGEST),
    ):
        for value in numbers:
            if not least <= value <= most:
                raise UserError(f"--{flag} {value} must be at least {least} and at most {most:,}")
    for rate in args.lr:
        if not 0 < rate < math.inf:
            raise UserError(f"--lr {rate:g} must be above 0")
    if not 0 <= args.dropout < 1:
        raise UserError(f"--dropout {args.dropout:g} must be at least 0 and below 1")
    if args.at is not None and args.at not in looks(args.updates):
        offered = ", ".join(map(str, looks(args.updates)))
        raise UserError(f"--at {args.at}: with --updates {args.updates} models are looked at after {offered} updates")
    try:
        width, hidden, heads = shape = [int(number) for number in args.shape.split("-")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1 or max(shape) > 65_536 or width % heads or width % 2:
        raise UserError(f"--shape {args.shape} is not understood; give width-feedforward-heads such as 64-128-2, the "
                        "width even and a multiple of the heads")  # fmt: skip
    return shape


def looks(updates: int) -> List[int]:
    """Numbers of updates after which a model is looked at: powers of two, and the last."""
    return [*(1 << power for power in range((updates - 1).bit_length())), updates]


def study_settings(args: argparse.Namespace, shape: List[int], manifest: Dict[str, Any]) -> Dict[str, Any]:
    """What all cells of one OUTPUT have in common.

    Raises:
        UserError: a batch could not hold the longest sentence.
    """
    longest = longest_kept(manifest)
    if args.max_tokens < longest:
        raise UserError(f"--max-tokens {args.max_tokens} is less than the longest sentence of {args.data} may have, "
                        f"{longest} pieces; give more")  # fmt: skip
    return {
        "data": {name: manifest["sha256"][name] for name in BOUND_FILES},
        "pairs": sorted(manifest["pairs"]),
        "shape": shape,
        "updates": args.updates,
        "warmup_updates": args.warmup_updates,
        "dropout": args.dropout,
        "max_tokens": args.max_tokens,
        "label_smoothing": 0.1,  # these two are the paper's
        "weight_decay": 1e-4,
        "sampling": "temperature:5",
    }


def train_missing(args: argparse.Namespace, settings: Dict[str, Any]) -> None:
    """Train every cell of the command that OUTPUT lacks, the cheap ones first."""
    wanted = [
        {"residual": residual, "layers": layers, "lr": rate, "seed": seed}
        for layers in sorted(set(args.layers))
        for rate in dict.fromkeys(args.lr)
        for seed in dict.fromkeys(args.seed)
        for residual in dict.fromkeys(args.residual)
    ]
    missing = [cell for cell in wanted if finished(args.output, cell, settings) is None]
    if len(missing) < len(wanted):
        say(f"{len(wanted) - len(missing)} of {len(wanted)} cells are finished in {args.output}")
    if not missing:
        return
    register()
    from fairseq_plugins.cli import _depth_training as training  # late: torch takes seconds to import
    from fairseq_plugins.cli._depth_results import loss_of, short
    from fairseq_plugins.opus100.decoding import find_devices

    device = find_devices(args.cpu)[0]
    first = training.configuration(args.data, settings, {**missing[0], "seed": 1})  # the same batches for every seed
    study = training.load_study(first, args.updates, device)
    progress = Progress("training", args.updates * sum(cell["layers"] for cell in missing), "layers x updates")
    done = 0
    for cell in missing:
        configuration = training.configuration(args.data, settings, cell)
        start = time.process_time()
        report = functools.partial(show, progress, done, cell["layers"])
        found = training.train_cell(study, configuration, device, report)
        gc.collect()
        done += args.updates * cell["layers"]
        facts = {"cpu_seconds": round(time.process_time() - start, 2), "device": device, "version": __version__}
        record = {**cell, **found, **facts, "unigram_loss": study.unigram_loss, "settings": settings}
        write_json(cell_path(args.output, cell), record)
        new, *_, last = found["evaluations"]
        say(f"{cell_path(args.output, cell).stem}: update norm {short(last['update_norm'])}, loss {loss_of(new)} -> "
            f"{loss_of(last)}")  # fmt: skip
    progress.finish()


def show(progress: Progress, before: int, layers: int, updates: int) -> None:
    """A deep model's update costs as many times a shallow one's as it has layers."""
    progress.show(before + layers * updates)


def say(words: str) -> None:
    """A line on stderr, over a status line if there is one."""
    print(f"\r\033[K{words}" if sys.stderr.isatty() else words, file=sys.stderr, flush=True)


def cell_path(output: Path, cell: Dict[str, Any]) -> Path:
    """Where a cell is kept."""
    name = "{residual}-{layers}-{layers}-lr{lr:g}-seed{seed}.json".format(**cell)
    return output / "cells" / name


def finished(output: Path, cell: Dict[str, Any], settings: Dict[str, Any]) -> Any:
    """A cell that an earlier command finished, or None.

    Raises:
        UserError: the file is damaged, or of other settings.
    """
    path = cell_path(output, cell)
    record = read_json(path)
    return None if record is None else checked(record, path, settings)


def checked(record: Dict[str, Any], path: Path, settings: Dict[str, Any]) -> Dict[str, Any]:
    """`record`, after seeing that it was measured under these settings."""
    if (where := misfit(record, _CELL)) is not None:
        raise UserError(f"{path} is no cell of depth-study ({where}); remove it")
    theirs = record["settings"]
    for name, value in settings.items():
        if theirs.get(name) != value:
            what = f"{name.replace('_', ' ')} {theirs.get(name)}, not {value}"
            what = "other data" if name in ("data", "pairs") else what
            raise UserError(f"{path} was measured with {what}; give the same, or another --output")
    return record


def gather(output: Path, settings: Dict[str, Any], at: int) -> Dict[str, Any]:
    """Everything that results.json holds: all cells of OUTPUT, also those of earlier commands."""
    from fairseq_plugins.cli._depth_results import judge

    cells = []
    for path in (output / "cells").glob("*.json"):
        record = checked(read_json(path) or {}, path, settings)
        cells.append({name: value for name, value in record.items() if name != "settings"})
    cells.sort(key=lambda cell: (SCHEMES.index(cell["residual"]), cell["lr"], cell["layers"], cell["seed"]))
    return {
        "format": 1,
        "at": at,
        "settings": settings,
        "cells": [{**cell, "verdict": judge(cell)} for cell in cells],
    }
