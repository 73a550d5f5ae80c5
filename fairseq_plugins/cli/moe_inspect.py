"""Look inside a mixture of experts: which expert computes what, and the measures of X-MoE (arXiv 2204.09179).

    moe-inspect run/checkpoint_best.pt DATA                         load, usage per language, representation collapse
    moe-inspect run/checkpoint_2_2000.pt DATA --previous run/checkpoint_2_1500.pt       and routing fluctuation
    moe-inspect seed1/checkpoint_best.pt DATA --runs seed2/checkpoint_best.pt seed3/checkpoint_best.pt
                                                                    and consistency between runs

DATA is what the checkpoint was trained on: a folder of `opus100 prepare`, or one of its task's. Writes moe.json and
moe.svg. The same batches are read every time. docs/moe_inspect.md says what the numbers mean.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List

from fairseq_plugins import __version__
from fairseq_plugins._verbs import UserError
from fairseq_plugins.cli._moe_picture import picture
from fairseq_plugins.opus100.checkpoint_files import load_state, updates_of
from fairseq_plugins.opus100.files import Progress, plain_os_errors, sha256_of, write_json, write_whole
from fairseq_plugins.opus100.run_folder import make_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="the one to inspect")
    add("data", type=Path, metavar="DATA", help="folder of binarised data")
    add("--previous", type=Path, metavar="CHECKPOINT", help="an earlier one of the same training: routing fluctuation")
    add("--runs", type=Path, nargs="+", default=[], metavar="CHECKPOINT",
        help="of trainings with other seeds: inter-run consistency")  # fmt: skip
    add("--split", choices=["valid", "test"], default="valid", help="default: %(default)s")
    add("--directions", metavar="A-B,...",
        help="only these, or supervised, or zero-shot; languages for multilingual_masked_lm")  # fmt: skip
    add("--max-tokens", type=int, default=4096, metavar="N",
        help="tokens per batch, padding included (default: %(default)s)")  # fmt: skip
    add("--batches", type=int, default=100, metavar="N",
        help="batches in all, at least one per direction; 0 = everything (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, default=Path("moe-inspect"), metavar="FOLDER",
        help="receives moe.json and moe.svg (default: %(default)s)")  # fmt: skip
    add("--cpu", action="store_true", help="do not use a GPU (the default where none is found)")


def run(args: argparse.Namespace) -> None:
    """Read, run, write.

    Raises:
        UserError: bad options, checkpoints that are damaged, dense or do not fit together, data that are missing.
    """
    for flag, least in (("max_tokens", 1), ("batches", 0)):
        if vars(args)[flag] < least:
            raise UserError(f"--{flag.replace('_', '-')} {vars(args)[flag]} must be at least {least}")
    make_folder(args.output, "--output")
    with plain_os_errors(args.output):
        results = inspect(args)
        write_json(args.output / "moe.json", results)
        write_whole(args.output / "moe.svg", picture(results).encode())
    print("\n".join(table(results)))
    print(f"wrote {args.output / 'moe.json'} and {args.output / 'moe.svg'}")


def inspect(args: argparse.Namespace) -> Dict[str, Any]:
    """Everything that moe.json holds."""
    from fairseq_plugins.cli._moe_inputs import load_inputs  # late: torch takes seconds to import
    from fairseq_plugins.cli._moe_statistics import Inspection
    from fairseq_plugins.opus100.decoding import find_devices

    paths = [args.checkpoint, *([args.previous] if args.previous else []), *args.runs]
    device = find_devices(args.cpu)[0]
    inputs = load_inputs(
        paths,
        args.data,
        split=args.split,
        directions=args.directions,
        max_tokens=args.max_tokens,
        batches=args.batches,
        device=device,
    )
    try:
        inspection = Inspection(inputs.models, args.previous is not None, device)
    except ValueError as error:
        raise UserError(f"{paths[error.args[0]]} and {paths[0]} have different mixture-of-experts layers or numbers of "
                        "experts, so they cannot be compared") from None
    progress = Progress("inspecting", len(inputs.batches), "batches")
    for number, batch in enumerate(inputs.batches):
        inspection.add(batch)
        progress.show(number + 1)
    progress.finish()
    return {
        "format": 1,
        "version": __version__,
        "checkpoint": describe(args.checkpoint),
        "previous": describe(args.previous) if args.previous else None,
        "runs": [describe(path) for path in args.runs],
        "split": args.split,
        "directions": sorted({batch.group for batch in inputs.batches}),
        "batches": len(inputs.batches),
        "max_tokens": args.max_tokens,
        "sentences": sum(len(batch.indices) for batch in inputs.batches),
        "sentences_too_long": inputs.left_out,
        "layers": inspection.result(),
    }


def describe(path: Path) -> Dict[str, Any]:
    return {"file": path.name, "sha256": sha256_of(path), "updates": updates_of(load_state(path))}


def table(results: Dict[str, Any]) -> List[str]:
    """Lines for the terminal, one per layer."""
    columns = {
        "load_max_over_mean": "max/mean",
        "load_entropy": "entropy",
        "gate_mean": "gate",
        "representation_collapse": "RC",
        "routing_fluctuation": "fluctuation",
        "inter_run_consistency": "consistency",
    }
    width = max(len(layer["name"]) for layer in results["layers"])
    lines = [f"{'layer':<{width}} {'used':>9} " + " ".join(f"{words:>11}" for words in columns.values())]
    for layer in results["layers"]:
        used = f"{sum(load > 0 for load in layer['load'])}/{layer['experts']}"
        cells = ("-" if layer[key] is None else f"{layer[key]:.4g}" for key in columns)
        lines.append(f"{layer['name']:<{width}} {used:>9} " + " ".join(f"{cell:>11}" for cell in cells))
    return lines
