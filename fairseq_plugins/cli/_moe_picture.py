"""The picture of `moe-inspect`, one SVG: for every layer bars of load and a heat map of expert usage per language."""

import html
from typing import Any, Dict, List, Sequence

WIDTH = 800
LEFT, RIGHT = 90, 30  # beside the maps
BARS, ROW, HEAD, FOOT = 60, 14, 42, 30  # heights: bars, one language, title of a layer, numbers of the experts
WIDEST_CELL = 36
LEVELS = 24  # shades; the cells of one shade are one path, which keeps pictures of many languages small
STRONGEST = 9.0  # times an even share that has the strongest shade
LIGHT, DARK, PRUNED = (255, 255, 255), (8, 48, 107), "#f6d5bf"

STYLE = (
    "text { font-family: system-ui, sans-serif; font-size: 11px; fill: #222 } "
    ".title { font-size: 13px; font-weight: 600 } .frame { fill: none; stroke: #888; stroke-width: .5 } "
    ".mean { stroke: #d0540a; stroke-dasharray: 4 3 } .cluster { stroke: #d0540a; stroke-width: .7 }"
)


def picture(results: Dict[str, Any]) -> str:
    """One SVG file that needs nothing else.

    Args:
        results: what moe.json holds.
    """
    parts, top = [_legend(results)], 64.0
    for layer in results["layers"]:
        panel, height = _panel(layer, top)
        parts += panel
        top += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" width="{WIDTH}" height="{top:g}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def shade(ratio: float) -> int:
    """Shade 0 to LEVELS of a cell that has `ratio` times an even share; steps are even in its square root."""
    return round(LEVELS * (min(ratio, STRONGEST) / STRONGEST) ** 0.5)


def colour(level: int) -> str:
    mixed = (round(light + (dark - light) * level / LEVELS) for light, dark in zip(LIGHT, DARK, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _legend(results: Dict[str, Any]) -> str:
    name = html.escape(results["checkpoint"]["file"])
    words = f"{name}, {results['checkpoint']['updates']:,} updates, {results['split']}"
    parts = [_text(LEFT, 20, words, "title"), _text(LEFT, 42, "share of a language's choices, in even shares:")]
    for number, ratio in enumerate((0, 0.25, 1, 2.25, 4, 6.25, STRONGEST)):
        x = LEFT + 260 + 58 * number
        parts.append(f'<rect class="frame" style="fill:{colour(shade(ratio))}" x="{x}" y="32" width="14" height="12"/>')
        parts.append(_text(x + 18, 42, f"{ratio:g}{'+' if ratio == STRONGEST else ''}"))
    if not all(all(layer["alive"]) for layer in results["layers"]):
        parts.append(f'<rect class="frame" style="fill:{PRUNED}" x="{LEFT}" y="50" width="14" height="12"/>')
        parts.append(_text(LEFT + 18, 60, "pruned"))
    return "".join(parts)


def _panel(layer: Dict[str, Any], top: float) -> "tuple[List[str], float]":
    """One layer, and how high it is."""
    experts, alive = layer["experts"], layer["alive"]
    cell = min(WIDEST_CELL, (WIDTH - LEFT - RIGHT) / experts)
    width = cell * experts
    parts = [_text(LEFT, top + 14, html.escape(layer["name"]), "title"), _text(LEFT, top + 30, _facts(layer))]
    bars = top + HEAD
    even = sum(layer["load"]) / sum(alive)
    tallest = max([*layer["load"], 1.25 * even])
    for expert, load in enumerate(layer["load"]):
        height = BARS * load / tallest
        parts.append(f'<rect fill="{colour(LEVELS * 2 // 3)}" x="{LEFT + cell * (expert + 0.1):.2f}" '
                     f'y="{bars + BARS - height:.2f}" width="{cell * 0.8:.2f}" height="{height:.2f}"/>')
    mean = bars + BARS * (1 - even / tallest)
    parts.append(f'<line class="mean" x1="{LEFT}" x2="{LEFT + width:.2f}" y1="{mean:.2f}" y2="{mean:.2f}"/>')
    parts.append(_text(LEFT - 6, mean + 4, "mean load", anchor="end"))
    first = bars + BARS + 6
    usage = layer["usage_by_language"]
    for row, language in enumerate(usage):
        parts.append(_text(LEFT - 6, first + ROW * (row + 0.75), html.escape(language), anchor="end"))
    parts += _cells(list(usage.values()), alive, first, cell)
    bottom = first + ROW * len(usage)
    parts.append(f'<rect class="frame" x="{LEFT}" y="{first}" width="{width:.2f}" height="{bottom - first:g}"/>')
    for cluster in range(1, layer["clusters"]):
        x = LEFT + width * cluster / layer["clusters"]
        parts.append(f'<line class="cluster" x1="{x:.2f}" x2="{x:.2f}" y1="{bars}" y2="{bottom}"/>')
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if step * cell >= 18)
    for expert in range(0, experts, step):
        parts.append(_text(LEFT + cell * (expert + 0.5), bottom + 13, f"{expert}", anchor="middle"))
    return parts, bottom + FOOT - top


def _facts(layer: Dict[str, Any]) -> str:
    facts = [f"{layer['tokens']:,} tokens", f"load max/mean {layer['load_max_over_mean']:.2f}"]
    for key, words, form in (
        ("representation_collapse", "RC", ".3g"),
        ("routing_fluctuation", "fluctuation", ".1%"),
        ("inter_run_consistency", "consistency of runs", ".3f"),
    ):
        if layer[key] is not None:
            facts.append(f"{words} {layer[key]:{form}}")
    return ", ".join(facts)


def _cells(rows: Sequence[Sequence[int]], alive: Sequence[bool], first: float, cell: float) -> List[str]:
    """The heat map: one path per shade."""
    paths: Dict[str, List[str]] = {}
    living = sum(alive)
    for row, load in enumerate(rows):
        total = max(sum(load), 1)
        for expert, count in enumerate(load):
            fill = colour(shade(count / total * living)) if alive[expert] else PRUNED
            corner = f"M{LEFT + cell * expert:.2f} {first + ROW * row:g}h{cell:.2f}v{ROW}h{-cell:.2f}z"
            paths.setdefault(fill, []).append(corner)
    return [f'<path fill="{fill}" d="{"".join(corners)}"/>' for fill, corners in sorted(paths.items())]


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{words}</text>'
