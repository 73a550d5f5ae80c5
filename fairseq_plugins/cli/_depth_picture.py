"""The picture of `depth-study`: the model update against depth, log-log, a line per scheme and a panel per rate."""

import html
import math
from typing import Any, Dict, List, Sequence, Tuple

from fairseq_plugins.cli._depth_results import both, norm_after, values
from fairseq_plugins.opus100.charts import nice_ticks

PANEL, HEIGHT = 440, 300  # of the axes' frame, in SVG units
LEFT, GAP, TOP, BOTTOM, RIGHT = 66, 70, 84, 50, 24
# told apart by colour, and by dashes where there is none
STYLES = {
    "post": ("#b82e2e", ""),
    "stock": ("#dc6912", "7 3"),
    "pre": ("#990099", "2 3"),
    "subln": ("#109618", "9 3 2 3"),
    "deepnorm": ("#1f4fbf", ""),
}
STYLE = (
    "text { font-family: system-ui, sans-serif; font-size: 12px; fill: #222 } "
    ".title { font-size: 14px; font-weight: 600 } .grid { stroke: #ddd } .frame { fill: none; stroke: #888 }"
)


def picture(results: Dict[str, Any]) -> str:
    """One SVG file that needs nothing else.

    Args:
        results: what results.json holds; the norms after `results["at"]` updates are drawn.
    """
    cells, at = results["cells"], results["at"]
    rates = values(cells, "lr")
    low, high = bounds(cells, at)
    width = LEFT + len(rates) * PANEL + (len(rates) - 1) * GAP + RIGHT
    words = f"Model update ‖F(x, θ) − F(x, θ₀)‖ after {at} update{'s' * (at != 1)}"
    parts = [text(LEFT, 24, words, "title"), *legend(values(cells, "residual"))]
    for number, rate in enumerate(rates):
        chosen = [cell for cell in cells if cell["lr"] == rate]
        parts += panel(chosen, at, rate, LEFT + number * (PANEL + GAP), low, high)
    height = TOP + HEIGHT + BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def bounds(cells: Sequence[Dict[str, Any]], at: int) -> Tuple[float, float]:
    """Logarithms that enclose all norms, with a little room: the same axis for all panels."""
    found = [
        math.log10(norm)
        for cell in cells
        if (norm := norm_after([cell], at)) is not None and norm > 0
    ] or [0.0]  # fmt: skip
    return min(found) - 0.15, max(found) + 0.15


def legend(schemes: Sequence[str]) -> List[str]:
    parts, x = [], float(LEFT)
    for scheme in schemes:
        parts.append(f'<line {stroke(scheme)} x1="{x:g}" x2="{x + 24:g}" y1="44" y2="44"/>')
        parts.append(text(x + 29, 48, html.escape(scheme)))
        x += 50 + 8 * len(scheme)
    return parts


def panel(cells: Sequence[Dict[str, Any]], at: int, rate: float, left: float, low: float, high: float) -> List[str]:
    """Axes and lines of one learning rate."""
    depths = values(cells, "layers")
    span = math.log(depths[-1] / depths[0]) or 1.0

    def across(layers: int) -> float:
        return left + 20 + (PANEL - 40) * math.log(layers / depths[0]) / span

    def up(logarithm: float) -> float:
        return TOP + HEIGHT * (high - logarithm) / (high - low)

    parts = [text(left, TOP - 10, f"learning rate {rate:g}")]
    for tick in ticks(low, high):
        y = up(math.log10(tick))
        parts.append(f'<line class="grid" x1="{left}" x2="{left + PANEL}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(left - 6, y + 4, f"{tick:g}", anchor="end"))
    for layers in depths:
        x = across(layers)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + HEIGHT}"/>')
        parts.append(text(x, TOP + HEIGHT + 18, both(layers), anchor="middle"))
    parts.append(f'<rect class="frame" x="{left}" y="{TOP}" width="{PANEL}" height="{HEIGHT}"/>')
    parts.append(text(left + PANEL / 2, TOP + HEIGHT + 38, "encoder-decoder layers", anchor="middle"))
    for scheme in values(cells, "residual"):
        norms = {layers: norm_after(cells, at, residual=scheme, layers=layers) for layers in depths}
        places = [(across(layers), up(math.log10(norm))) for layers, norm in norms.items() if norm]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline fill="none" {stroke(scheme)} points="{points}"><title>{scheme}</title></polyline>')
        fill = STYLES[scheme][0]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{fill}"/>' for x, y in places]
    return parts


def ticks(low: float, high: float) -> List[float]:
    """1, 2 and 5 times powers of ten between two logarithms; powers alone where many, even steps where few."""
    if high - low < 0.5:
        return [tick for tick in nice_ticks(10**low, 10**high) if 10**low <= tick <= 10**high]
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [tick for power in powers for factor in factors if low <= math.log10(tick := factor * 10.0**power) <= high]


def stroke(scheme: str) -> str:
    colour, dashes = STYLES[scheme]
    return f'stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'
