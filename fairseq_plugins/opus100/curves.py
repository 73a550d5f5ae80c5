"""Training curves from train.log, the JSON lines of --log-format json."""

import json
import math
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

Series = List[Tuple[int, float]]  # (update, value), updates rising

# fairseq's name -> (name of the update counter in the same line, what it is)
LOGGED = {
    "loss": ("num_updates", "training: label-smoothed cross entropy, base 2, per token, mean since the last point"),
    "valid_loss": ("valid_num_updates", "the same on the dev sets of all directions together"),
    "valid_nll_loss": ("valid_num_updates", "cross entropy without smoothing on the dev sets, base 2, per token"),
    "lr": ("num_updates", "learning rate"),
    "gnorm": ("num_updates", "norm of the gradient of all parameters, before clipping; mean since the last point"),
}


class Log(NamedTuple):
    """What a train.log holds."""

    series: Dict[str, Series]  # by the names in LOGGED; only those that occur
    restarts: int  # times the counter of updates went back


def read_log(path: Path) -> Log:
    """Read a train.log.

    The file is appended to by every start. Where a start went back to an earlier checkpoint, its lines replace those
    of the updates it repeated. Lines the engine writes twice count once, lines that are no JSON are passed over, and
    so are values that are not finite.
    """
    series: Dict[str, Series] = {name: [] for name in LOGGED}
    restarts = 0
    with open(path, encoding="utf-8", errors="replace", newline="\n") as stream:
        for line in stream:
            entry = _parse(line)
            for name, (counter, _) in LOGGED.items():
                if name not in entry or counter not in entry:
                    continue
                update, points = int(entry[counter]), series[name]
                if name == "loss" and points and points[-1][0] > update:
                    restarts += 1
                while points and points[-1][0] >= update:
                    points.pop()
                if math.isfinite(entry[name]):
                    points.append((update, entry[name]))
    return Log({name: points for name, points in series.items() if points}, restarts)


def _parse(line: str) -> Dict[str, float]:
    """The numbers of one line; fairseq writes most of them as strings."""
    try:
        entry = json.loads(line)
        return {name: float(entry[name]) for name in entry if name in LOGGED or name.endswith("num_updates")}
    except (ValueError, TypeError):
        return {}
