"""Training curves from train.log, the JSON lines of --log-format json."""

import json
import math
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

Series = List[Tuple[int, float]]  # (update, value), updates rising

# what the routers of mixture-of-experts layers log: `moe_<name>` in training, `valid_moe_<name>` on the dev sets
MOE = {
    "balance": "balance loss of the routers, 1 where tokens and probabilities are spread evenly",
    "cluster": "variance term of clustered experts (MoEC), 0 without clusters",
    "dropped": "share of the routers' choices that no expert computed, for want of capacity",
    "load_max": "choices of the busiest expert over the mean, 1 where all get the same",
    "load_entropy": "entropy of the load over the experts, in nats, log(experts) where all get the same",
    "gate": "gate value of each token's first choice",
    "temperature": "temperature of cosine gates, 1 for linear ones",
}
# fairseq's name -> (name of the update counter in the same line, what it is)
LOGGED = {
    "loss": ("num_updates", "training: label-smoothed cross entropy, base 2, per token, mean since the last point"),
    "valid_loss": ("valid_num_updates", "the same on the dev sets of all directions together"),
    "nll_loss": ("num_updates", "training: cross entropy without smoothing, base 2, per token"),
    "valid_nll_loss": ("valid_num_updates", "cross entropy without smoothing on the dev sets, base 2, per token"),
    "lr": ("num_updates", "learning rate"),
    "gnorm": ("num_updates", "norm of the gradient of all parameters, before clipping; mean since the last point"),
    "loss_scale": ("num_updates", "what --fp16 or --amp multiplies the loss with; halved where gradients overflow"),
    "train_sampling_temperature": ("train_num_updates", "temperature with which an epoch's languages were drawn"),
}
LOGGED |= {
    f"{split}moe_{name}": (f"{split}num_updates", f"{meaning}; mean over the layers{when}")
    for name, meaning in MOE.items()
    for split, when in (("", " since the last point"), ("valid_", ", on the dev sets"))
}
BAND = re.compile(r"(encoder|decoder)_grad_(\d+)of(\d+)")  # of --gradient-bands
# of --valid-lines: means over groups of directions; those of single directions are too many to draw
GROUP = re.compile(r"valid_(macro|from_\w+?|into_\w+?|high|medium|low)_(nll_loss|bleu|sentence_chrf)")
_KINDS = {
    "nll_loss": "cross entropy without smoothing, base 2, per token",
    "bleu": "BLEU",
    "sentence_chrf": "mean chrF of a sentence",
}


def described(name: str) -> Optional[Tuple[str, str]]:
    """As in LOGGED, for any name: None for what is not drawn. Whatever this knows is read from logs and drawn."""
    group = GROUP.fullmatch(name)
    if group is not None:
        which, kind = group.groups()
        over = "all directions" if which == "macro" else f"the directions {which.replace('_', ' ')}"
        over = f"the directions of {which} train lines" if which in ("high", "medium", "low") else over
        return "valid_num_updates", f"{_KINDS[kind]} on the sample of dev lines, mean over {over}"
    band = BAND.fullmatch(name)
    if band is None:
        return LOGGED.get(name)
    side, number, count = band.groups()
    return "num_updates", f"gradient norm of the {side}'s layers in band {number} of {count} from the lowest, unclipped"


class Log(NamedTuple):
    """What a train.log holds."""

    series: Dict[str, Series]  # by fairseq's names, those that are `described` and occur
    restarts: int  # times the counter of updates went back


def read_log(path: Path) -> Log:
    """Read a train.log.

    The file is appended to by every start. Where a start went back to an earlier checkpoint, its lines replace those
    of the updates it repeated. Lines the engine writes twice count once, lines that are no JSON are passed over, and
    so are values that are not finite.
    """
    series: Dict[str, Series] = {}
    restarts = 0
    with open(path, encoding="utf-8", errors="replace", newline="\n") as stream:
        for line in stream:
            entry = _parse(line)
            for name, value in entry.items():
                counter = (described(name) or ("",))[0]
                if counter not in entry:
                    continue
                update, points = int(entry[counter]), series.setdefault(name, [])
                if name == "loss" and points and points[-1][0] > update:
                    restarts += 1
                while points and points[-1][0] >= update:
                    points.pop()
                if math.isfinite(value):
                    points.append((update, value))
    return Log({name: points for name, points in series.items() if points}, restarts)


def _parse(line: str) -> Dict[str, float]:
    """The numbers of one line; fairseq writes most of them as strings, and null for what is no longer measured."""
    try:
        entry = {name: value for name, value in json.loads(line).items() if value is not None}
        return {name: float(entry[name]) for name in entry if described(name) or name.endswith("num_updates")}
    except (ValueError, TypeError, AttributeError):
        return {}
