"""Average the parameters of several checkpoints of one training into one checkpoint for generation or fine-tuning.

    average checkpoints/ --last 5 --output averaged.pt      the last 5 saved, by number of updates
    average checkpoints/ --best 5 --output averaged.pt      the best 5 by --best-checkpoint-metric
    average a.pt b.pt c.pt --output averaged.pt             exactly these

The result holds no optimiser state and no moving average: generate from it, or train on with --finetune-from-model.
What `opus100 train` recorded about its data goes along, so that `opus100 evaluate` can compare the dictionaries.
"""

import argparse
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.checkpoint_files import load_checkpoint, sound, write_checkpoint
from fairseq_plugins.opus100.run_folder import BOUND_KEY, data_of_checkpoint, differences

# what fairseq saves during training; checkpoint_last and checkpoint_best are copies of one of these
SAVED = re.compile(r"checkpoint(\d+|_\d+_\d+|\.best_.+_-?\d+\.\d+)\.pt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which checkpoints, and where to write."""
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="one --save-dir, or checkpoint files")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the checkpoint to write")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--last", type=int, metavar="N", help="of the folder, the N with the most updates")
    choice.add_argument("--best", type=int, metavar="N", help="of the folder, the N with the best validation metric")


def run(args: argparse.Namespace) -> None:
    """Choose, check, average, write.

    Raises:
        UserError: files that are missing, damaged or do not fit together, or fewer than N.
    """
    from fairseq_plugins.checkpoints.average import average_state_dicts  # late: torch takes seconds to import

    paths = _choose(args)
    states = [load_checkpoint(path) for path in paths]
    with sound(paths[0]):
        data = _common_data(paths, states)
        _refuse_parts(paths, states)
    try:
        model = average_state_dicts([state["model"] for state in states], [str(path) for path in paths])
    except ValueError as error:
        raise UserError(f"these checkpoints cannot be averaged: {error}") from None
    result = {**states[0], "model": model}
    result.pop("last_optimizer_state", None)
    extra = {**(result.get("extra_state") or {}), "averaged": [path.name for path in paths]}
    for name in ("ema", "ema_fp32_params"):  # --store-ema's moving average, of the first checkpoint alone
        extra.pop(name, None)
    extra.pop(BOUND_KEY, None)
    result["extra_state"] = extra if data is None else {**extra, BOUND_KEY: data}
    write_checkpoint(result, args.output)
    print(f"{args.output}: the mean of {', '.join(path.name for path in paths)}")


def _choose(args: argparse.Namespace) -> List[Path]:
    """The checkpoints to average, the newest or the best first."""
    folders = [path for path in args.inputs if path.is_dir()]
    flag, count = ("--last", args.last) if args.best is None else ("--best", args.best)
    if count is None:
        if folders:
            raise UserError(f"{folders[0]} is a folder: say which of its checkpoints with --last N or --best N")
        return args.inputs
    if len(args.inputs) > 1 or not folders:
        raise UserError(f"{flag} chooses from one folder, so give exactly one --save-dir instead of files")
    if count < 1:
        raise UserError(f"{flag} {count} must be at least 1")
    folder = folders[0]
    facts = [_facts(path) for path in sorted(folder.iterdir()) if SAVED.fullmatch(path.name)]
    by_updates = {fact["updates"]: fact for fact in facts}  # an epoch's end is often saved under two names
    ranked = sorted(by_updates.values(), key=lambda fact: -fact["updates"])
    if flag == "--best":
        ranked = sorted((fact for fact in ranked if fact["metric"] is not None), key=_badness)
    if count > len(ranked):
        kind = "validated checkpoints" if flag == "--best" else "checkpoints"
        raise UserError(f"{flag} {count}: {folder} holds only {len(ranked)} {kind} of different updates")
    return [fact["path"] for fact in ranked[:count]]


def _facts(path: Path) -> Dict[str, Any]:
    state = load_checkpoint(path)
    history = state.get("optimizer_history") or [{}]
    return {
        "path": path,
        "updates": history[-1].get("num_updates", 0),
        "metric": (state.get("extra_state") or {}).get("val_loss"),  # fairseq's name for whatever metric was chosen
        "maximise": bool(((state.get("cfg") or {}).get("checkpoint") or {}).get("maximize_best_checkpoint_metric")),
    }


def _badness(fact: Dict[str, Any]) -> float:
    return -fact["metric"] if fact["maximise"] else fact["metric"]


def _refuse_parts(paths: List[Path], states: List[Dict[str, Any]]) -> None:
    """Raise UserError if two of the checkpoints hold different experts: those of two expert-parallel ranks."""
    whole = {"rank": 0, "ranks": 1}
    records = [(state.get("extra_state") or {}).get("expert_shard", whole) for state in states]
    for path, record in zip(paths, records, strict=True):
        if any(record[key] != records[0][key] for key in whole):
            raise UserError(
                f"{paths[0]} and {path} hold different experts, those of two ranks; join the files of each update with "
                "python -m fairseq_plugins merge-experts first"
            )


def _common_data(paths: List[Path], states: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """What `opus100 train` recorded about the data, None if not all of the checkpoints have such a record.

    Raises:
        UserError: two of the records differ.
    """
    records = [data_of_checkpoint(path, state) for path, state in zip(paths, states, strict=True)]
    known = [(path, record) for path, record in zip(paths, records, strict=True) if record is not None]
    for path, record in known[1:]:
        if differing := differences(known[0][1], record):
            raise UserError(f"{known[0][0]} and {path} were trained from different data: {' and '.join(differing)} "
                            "differ; average checkpoints of one training")
    return None if None in records else records[0]
