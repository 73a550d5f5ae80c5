"""Join the checkpoints of expert-parallel ranks into one, or divide one checkpoint for another number of ranks.

    merge-experts run/checkpoint_best.pt --output best.pt       from run/checkpoint_best-rank-0.pt, -rank-1.pt, ...
    merge-experts a-rank-0.pt a-rank-1.pt --output a.pt         exactly these
    merge-experts run/checkpoint_last.pt --ranks 4 --output new/checkpoint_last.pt
                                                                new/checkpoint_last-rank-0.pt to -rank-3.pt

The joined file is one of ordinary training on one device: generate, validate, average, train on. The optimiser's state
comes along, so training goes on where it stopped, with any number of ranks. Memory: the parameters of the whole model,
and what the optimiser keeps for them.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.checkpoint_files import load_checkpoint, sound, write_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which checkpoints, for how many ranks, and where to write."""
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="CHECKPOINT", help="one whole checkpoint, or those of all ranks"
    )
    parser.add_argument("--ranks", type=int, default=1, metavar="W", help="ranks that share the experts (default: 1)")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.pt", help="what to write; for W ranks FILE-rank-0.pt and on"
    )
    parser.add_argument(
        "--weights-only", action="store_true", help="without the optimiser's state: enough for all but resuming"
    )


def run(args: argparse.Namespace) -> None:
    """Read, join, divide, write.

    Raises:
        UserError: files that are missing, damaged or do not fit together, or experts that cannot be divided so.
    """
    from fairseq_plugins.checkpoints.expert_shards import merge_checkpoints, split_checkpoint  # late: torch is slow

    if not 1 <= args.ranks <= 100_000:
        raise UserError(f"--ranks {args.ranks} must be at least 1 and at most 100,000")
    inputs = [path for given in args.inputs for path in _files(given)]
    outputs = [args.output] if args.ranks == 1 else [_of_rank(args.output, rank) for rank in range(args.ranks)]
    overwritten = {path.resolve() for path in outputs} & {path.resolve() for path in inputs}
    if overwritten:
        raise UserError(f"--output would overwrite {min(overwritten)}, which is being read; write to another folder")
    checkpoints = [load_checkpoint(path) for path in inputs]
    if args.weights_only:
        checkpoints = [_without_optimizer(checkpoint) for checkpoint in checkpoints]
    names = ", ".join(map(str, inputs))
    try:
        with sound(names, ValueError):
            whole = merge_checkpoints(checkpoints)
        for rank, path in enumerate(outputs):
            with sound(names, ValueError):
                part = whole if args.ranks == 1 else split_checkpoint(whole, rank, args.ranks)
            write_checkpoint(part, path)
    except ValueError as error:
        hint = "; --weights-only leaves it out" if "optimiser" in str(error) else ""
        raise UserError(f"{names}: {error}{hint}") from None
    print(f"{outputs[0]}{'' if len(outputs) == 1 else f' to {outputs[-1].name}'}: the experts of {names}")


def _files(given: Path) -> List[Path]:
    """`given`, or the checkpoints of all ranks that training wrote in its place."""
    if given.exists():
        return [given]
    ranks = sorted(given.parent.glob(f"{given.stem}-rank-*{given.suffix}"))
    return ranks or [given]  # reading it will say that it does not exist


def _of_rank(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.stem}-rank-{rank}{path.suffix}")


def _without_optimizer(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in checkpoint.items() if key != "last_optimizer_state"}
