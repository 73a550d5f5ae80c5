"""What `depth-study` concludes from its cells: verdicts, the ratios of DeepNet's Figure 5, tables."""

import statistics
from typing import Any, Dict, List, Optional, Sequence

Cell = Dict[str, Any]
BASELINES = ("post", "stock")  # post-norm under Xavier, and as stock fairseq starts it
PAPER = "deepnorm"
NEAR = 0.1  # nats per token around the unigram loss; what stays there for good has learnt nothing else


def verdict(
    training_losses: Sequence[Optional[float]], start: Optional[float], end: Optional[float], unigram: float
) -> str:
    """What became of a training, in one word.

    Args:
        training_losses: of every batch, in any unit; None where it was not finite.
        start: loss of a fixed batch before the first update, nats per token.
        end: the same after the last. None, as above, for either.
        unigram: loss there of a model that knows nothing but the frequency of each symbol.
    Returns:
        "diverged": a loss is not finite, or the end is not below the start;
        "falls": it is, but the end is above `unigram` by more than NEAR: too few updates to tell;
        "stuck": at most NEAR from `unigram`: all models pass there, and those that do not train stay there;
        "learns": below that.
    """
    if start is None or end is None or None in training_losses or end >= start:
        return "diverged"
    return "falls" if end > unigram + NEAR else "stuck" if end >= unigram - NEAR else "learns"


def judge(cell: Cell) -> str:
    """`verdict` of a cell."""
    looks = cell["evaluations"]
    return verdict(cell["losses"], looks[0]["loss"], looks[-1]["loss"], cell["unigram_loss"])


def looks_of(cells: Sequence[Cell]) -> List[int]:
    """Numbers of updates after which every cell was looked at, but for cells that ended early."""
    longest = max(cells, key=lambda cell: len(cell["evaluations"]))
    return [look["updates"] for look in longest["evaluations"] if look["updates"]]


def norm_after(cells: Sequence[Cell], updates: int, **wanted: Any) -> Optional[float]:
    """Update norm after so many updates of the cells with these values, the median over seeds; None without any."""
    found = [
        look["update_norm"]
        for cell in cells
        if all(cell[name] == value for name, value in wanted.items())
        for look in cell["evaluations"]
        if look["updates"] == updates and look["update_norm"] is not None
    ]
    return statistics.median(found) if found else None


def values(cells: Sequence[Cell], name: str) -> List[Any]:
    """What `name` takes in the cells: numbers in order of size, schemes in order of appearance."""
    found = list(dict.fromkeys(cell[name] for cell in cells))
    return found if name == "residual" else sorted(found)


def table(results: Dict[str, Any]) -> str:
    """The study in Markdown.

    Args:
        results: what results.json holds.
    """
    settings, cells = results["settings"], results["cells"]
    width, hidden, heads = settings["shape"]
    warmup = f"warm-up {settings['warmup_updates']:,}" if settings["warmup_updates"] else "no warm-up"
    lines = [
        "# Model update and stability against depth",
        "",
        f"Width {width}, feed-forward {hidden}, {heads} heads; batches of at most {settings['max_tokens']:,} pieces, "
        f"Adam, {warmup}, dropout {settings['dropout']:g}; {settings['updates']:,} updates; seeds "
        f"{', '.join(map(str, values(cells, 'seed')))}.",
        "Update norm: decoder output before the vocabulary projection on a batch never trained on, without dropout; L2 "
        "norm of the change of each token, mean over tokens. `stock` is the post-norm of `--arch transformer`.",
    ]
    for rate in values(cells, "lr"):
        chosen = [cell for cell in cells if cell["lr"] == rate]
        after = f"{results['at']} update{'s' * (results['at'] != 1)}"
        lines += ["", f"## Update norm after {after}, learning rate {rate:g}", "", *norms(chosen, results["at"])]
        lines += ["", "The paper's two ratios, by number of updates:", "", *ratios(chosen)]
    return "\n".join([*lines, "", *stability(cells)]) + "\n"


def norms(cells: Sequence[Cell], updates: int) -> List[str]:
    """Scheme by depth."""
    depths = values(cells, "layers")
    rows = []
    for scheme in values(cells, "residual"):
        found = [norm_after(cells, updates, residual=scheme, layers=layers) for layers in depths]
        rows.append([scheme, *map(short, found), short(divide(found[-1], found[0]))])
    return markdown(["scheme", *map(both, depths), f"{both(depths[-1])} over {both(depths[0])}"], rows)


def ratios(cells: Sequence[Cell]) -> List[str]:
    """deepnorm's growth with depth (paper: about 4), and post-norm over deepnorm at every depth (paper: 10 to 60)."""
    depths = values(cells, "layers")
    baselines = [scheme for scheme in BASELINES if scheme in values(cells, "residual")]
    head = ["updates", f"{PAPER} {both(depths[-1])} over {both(depths[0])}"]
    head += [f"{scheme} over {PAPER}, {both(layers)}" for scheme in baselines for layers in depths]
    rows = []
    for updates in looks_of(cells):
        ours = {layers: norm_after(cells, updates, residual=PAPER, layers=layers) for layers in depths}
        row = [f"{updates}", short(divide(ours[depths[-1]], ours[depths[0]]))]
        for scheme in baselines:
            for layers in depths:
                row.append(short(divide(norm_after(cells, updates, residual=scheme, layers=layers), ours[layers])))
        rows.append(row)
    return markdown(head, rows)


def stability(cells: Sequence[Cell]) -> List[str]:
    """Which schemes diverge, by learning rate and depth."""
    depths = values(cells, "layers")
    rows = []
    for scheme in values(cells, "residual"):
        for rate in values(cells, "lr"):
            row = [scheme, f"{rate:g}"]
            for layers in depths:
                place = (scheme, rate, layers)
                here = [cell for cell in cells if (cell["residual"], cell["lr"], cell["layers"]) == place]
                row.append("; ".join(f"{judge(cell)} {loss_of(cell['evaluations'][-1])}" for cell in here) or "-")
            rows.append(row)
    unigram = cells[0]["unigram_loss"]
    return [
        "## Stability",
        "",
        "Loss of the fixed batch after the last update, nats per token. diverged: a loss was not finite, or the last "
        f"one is not below the first; stuck: within {NEAR:g} of {unigram:.2f}, the loss of a model that knows nothing "
        "but how often each symbol occurs; learns: below that; falls: above, too few updates to tell.",
        "",
        *markdown(["scheme", "learning rate", *map(both, depths)], rows),
    ]


def loss_of(look: Dict[str, Any]) -> str:
    """In nats per token, as far as it is a number."""
    return "nan" if look["loss"] is None else f"{look['loss']:.2f}"


def both(layers: int) -> str:
    """6 -> 6-6, as the paper writes an encoder and a decoder of 6 layers."""
    return f"{layers}-{layers}"


def divide(above: Optional[float], below: Optional[float]) -> Optional[float]:
    return above / below if above is not None and below else None


def short(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> List[str]:
    """A Markdown table as lines."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
