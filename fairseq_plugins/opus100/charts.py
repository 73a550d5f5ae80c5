"""Inline SVG: lines over updates and horizontal bars. Sizes are in SVG units; the page scales them to its width."""

import html
import math
from typing import Dict, List, Optional, Sequence, Tuple

from fairseq_plugins.opus100.curves import Series

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 8, 26  # around the frame of curves
LABEL, BAR, GAP = 60, 14, 5  # width of the labels of bars, height of a bar, space between rows
COLOURS = ("#3366cc", "#dc6912", "#109618", "#990099", "#0099c6", "#b82e2e")
MOST_POINTS = 800  # of a line; more cannot be seen and make the page heavy


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def line_chart(title: str, lines: Dict[str, Series]) -> str:
    """Curves over updates in one frame.

    Args:
        title: what is drawn, for screen readers.
        lines: legend -> points; the legend itself is left to the page, colours follow the order.
    """
    points = [point for series in lines.values() for point in series]
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> Tuple[float, float]:
        across = (x - low_x) / (high_x - low_x or 1)
        up = (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        _, y = place(low_x, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{short_number(tick)}</text>')
    for x, anchor in ((low_x, "start"), (high_x, "end")):
        parts.append(f'<text x="{place(x, low)[0]:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{x:,}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle">updates</text>')
    for number, (name, series) in enumerate(lines.items()):
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in thin(series))
        if len(series) == 1:
            x, y = place(*series[0])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour(number)}"/>')
        parts.append(f'<polyline fill="none" stroke="{colour(number)}" stroke-width="1.5" points="{path}">'
                     f"<title>{html.escape(name)}</title></polyline>")
    return _svg(title, HEIGHT, parts)


def bar_chart(title: str, rows: Sequence[Tuple[str, Sequence[Optional[float]]]], most: float) -> str:
    """Horizontal bars, one group per row and one bar per value; a value of None leaves a gap.

    Args:
        title: what is drawn, for screen readers.
        rows: (label, values), values in the order of the runs.
        most: value at the right edge, so that charts side by side compare.
    """
    height = sum(len(values) * BAR + GAP for _, values in rows) + GAP
    parts, top = [], float(GAP)
    for label, values in rows:
        middle = top + len(values) * BAR / 2 + 4
        parts.append(f'<text x="{LABEL - 6}" y="{middle:.1f}" text-anchor="end">{html.escape(label)}</text>')
        for number, value in enumerate(values):
            if value is not None:
                length = max(0.0, value / most) * (WIDTH - LABEL - 42)
                parts.append(f'<rect x="{LABEL}" y="{top:.1f}" width="{length:.1f}" height="{BAR - 2}" '
                             f'fill="{colour(number)}"/>')
                parts.append(f'<text x="{LABEL + 3 + length:.1f}" y="{top + BAR - 3:.1f}">{value:.1f}</text>')
            top += BAR
        top += GAP
    return _svg(title, height, parts)


def _svg(title: str, height: float, parts: List[str]) -> str:
    name = html.escape(title, quote=True)
    return (f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}"><title>{name}</title>'
            + "".join(parts) + "</svg>")


def thin(series: Series) -> Series:
    """At most ``MOST_POINTS`` points, evenly chosen, first and last among them."""
    if len(series) <= MOST_POINTS:
        return series
    last = len(series) - 1
    return [series[round(i * last / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def nice_ticks(low: float, high: float) -> List[float]:
    """Four to seven round numbers that enclose [low, high]."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, low + (abs(low) or 1) / 2
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def short_number(value: float) -> str:
    """At most about six characters: 0.0005 -> 5e-4, 12.50 -> 12.5."""
    if value and abs(value) < 0.01:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"
