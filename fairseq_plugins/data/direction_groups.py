"""Which directions of translation are looked at together: by the language they share, and by their train lines."""

from collections import Counter
from typing import Dict, List, Mapping, Optional, Sequence

HIGH, LOW = 900_000, 100_000  # train lines: high from the first on, low below the second


def size_group(train_lines: int) -> str:
    """``high``, ``medium`` or ``low``, by the train lines of a pair (Zhang et al. 2020, arXiv 2004.11867)."""
    return "high" if train_lines >= HIGH else "low" if train_lines < LOW else "medium"


def direction_groups(
    directions: Sequence[str], train_lines: Optional[Mapping[str, int]] = None
) -> Dict[str, List[str]]:
    """Group -> its directions: ``macro`` has all, the others say something of their own or are left out.

    Args:
        directions: "de-en" and the like.
        train_lines: of their pairs; groups by size need them for all directions.
    Returns:
        ``macro``; ``from_L`` and ``into_L`` where all directions have language L in common; ``high``, ``medium`` and
        ``low`` where directions are of several sizes. A name never has a dash, so it is never that of a direction.
    """
    found: Dict[str, List[str]] = {"macro": list(directions)}
    ends = [direction.split("-") for direction in directions]
    counts = Counter(language for pair in ends for language in pair)
    shared = [language for language, count in counts.items() if count == len(directions)]
    if len(shared) == 1:  # one direction alone has two
        for way, place in (("from", 0), ("into", 1)):
            names = [name for name, pair in zip(directions, ends, strict=True) if pair[place] == shared[0]]
            found[f"{way}_{shared[0]}"] = names
    if train_lines is not None and all(name in train_lines for name in directions):
        for size in ("high", "medium", "low"):
            found[size] = [name for name in directions if size_group(train_lines[name]) == size]
    return {name: names for name, names in found.items() if name == "macro" or 0 < len(names) < len(directions)}
