"""From words to a line of text."""

from typing import Iterable, List


def flatten(*parts) -> List[str]:
    """Words of nested lists in order; None and empty parts vanish."""
    words: List[str] = []
    for part in parts:
        if isinstance(part, str):
            words.extend(part.split())
        elif part is not None:
            words.extend(flatten(*part))
    return words


def line(words: Iterable[str], mark: str, capital=str.upper) -> str:
    """Joins words (a comma is a word of its own), sets the capital and the closing mark."""
    out: List[str] = []
    for word in words:
        if word == "," and (not out or out[-1].endswith(",")):
            continue
        if word == ",":
            out[-1] += ","
        else:
            out.append(word)
    text = " ".join(out).rstrip(",")
    return capital(text[0]) + text[1:] + mark
