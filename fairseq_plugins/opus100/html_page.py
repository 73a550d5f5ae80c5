"""The frame of a page that needs nothing but itself, and its tables, all of it escaped."""

import base64
import hashlib
import html
from pathlib import Path
from typing import Any, Sequence

from fairseq_plugins import __version__

STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")


def page(title: str, body: Sequence[str]) -> str:
    """A whole page.

    Its policy lets the browser load nothing and run our script alone, known by its hash: nothing that a corpus or a
    model wrote can do more than be read.

    Args:
        title: plain text.
        body: HTML, part by part.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<p>Written by fairseq_plugins {html.escape(__version__)}.</p>\n"
        f"<script>{SCRIPT}</script>\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], kind: str = "") -> str:
    """An HTML table in a box of its own that scrolls where it is wider or higher than the window.

    Args:
        head: of the columns.
        rows: every cell is escaped, None is a dash and a float has two digits.
        kind: "sortable": its heads sort the rows, by click or keyboard; "text": cells are words and break.
    """
    def cell(tag: str, value: Any) -> str:
        text = "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
        return f"<{tag}>{html.escape(text)}</{tag}>"

    heads = "".join(cell("th", value) for value in head)
    lines = "".join(f"<tr>{''.join(cell('td', value) for value in row)}</tr>\n" for row in rows)
    return (f'<div class="wide" tabindex="0"><table class="{kind}"><thead><tr>{heads}</tr></thead>\n'
            f"<tbody>{lines}</tbody></table></div>")  # fmt: skip


def folded(summary: str, inside: str) -> str:
    """HTML that is read once its summary, plain text, is opened."""
    return f"<details><summary>{html.escape(summary)}</summary>{inside}</details>"
