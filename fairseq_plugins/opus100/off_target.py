"""The share of translations that are not in the language asked for (off-target), seen by two identifiers.

``langid`` is py3langid, a naive Bayes classifier whose model comes with the package; it chooses among the languages of
the corpus. ``script`` compares writing systems, and cannot tell languages apart that share one. Where langid does not
know a target language, that direction is seen by script.
"""

import functools
from importlib.metadata import PackageNotFoundError, version
from typing import Any, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence

import numpy as np

from fairseq_plugins._verbs import UserError
from fairseq_plugins.opus100.language_codes import short_code
from fairseq_plugins.opus100.scripts import NAMES, dominant_scripts

IDENTIFIERS = ("langid", "script")
# macrolanguages that OPUS-100 has beside their members (ISO 639-3): a member in place of another is not off-target
_FAMILIES = (frozenset({"bs", "hr", "sh", "sr"}), frozenset({"nb", "nn", "no"}))
_ALSO_WRITTEN = 0.1  # a script of this share of the references is one of the target language's
_INSTALL = "pip install 'py3langid>=0.4'"


class OffTarget(NamedTuple):
    """Shares in percent of the lines that have letters, None where no line has any."""

    hypotheses: Optional[float]
    references: Optional[float]  # what the identifier says of lines that are right: its own error
    identifier: str  # of IDENTIFIERS


def installed_langid() -> Optional[str]:
    """The version of py3langid, None where it is missing or too old (its first models know 97 languages)."""
    try:
        found = version("py3langid")
    except PackageNotFoundError:
        return None
    return found if tuple(int(part) for part in found.split(".")[:2]) >= (0, 4) else None


def choose_identifier(wanted: Optional[str]) -> str:
    """The identifier to use: the wanted one, or langid where it is installed.

    Raises:
        UserError: langid is wanted and not installed.
    """
    if wanted == "langid" and installed_langid() is None:
        raise UserError(f"--identifier langid needs a Python package: {_INSTALL}; --identifier script needs none")
    return wanted or ("langid" if installed_langid() else "script")


def describe(identifier: str) -> str:
    """What a table says about the identifier."""
    if identifier == "script":
        return f"by script alone; {_INSTALL} tells languages apart"
    return f"py3langid {installed_langid()} among the languages of the data; by script where it lacks the target"


def off_target(
    hypotheses: Sequence[str], references: Sequence[str], target: str, languages: Iterable[str], identifier: str
) -> OffTarget:
    """How much of one direction is in another language.

    Args:
        hypotheses, references: lines.
        target: language asked for.
        languages: all languages of the corpus; langid chooses among those that it knows.
        identifier: of IDENTIFIERS.
    """
    lines = [*hypotheses, *references]
    scripts = dominant_scripts(lines)
    wrong = None
    if identifier == "langid":
        wrong = _wrong_language(lines, short_code(target), frozenset(map(short_code, languages)))
    seen_by = "script" if wrong is None else "langid"
    if wrong is None:
        wrong = _wrong_script(scripts, scripts[len(hypotheses) :])
    written = scripts > 0
    parts = slice(None, len(hypotheses)), slice(len(hypotheses), None)
    return OffTarget(*(_percent(wrong[part][written[part]]) for part in parts), seen_by)


def _percent(wrong: np.ndarray) -> Optional[float]:
    return 100 * float(wrong.mean()) if len(wrong) else None


def _wrong_script(scripts: np.ndarray, references: np.ndarray) -> np.ndarray:
    """(lines,) bool: in a script that hardly any reference is written in."""
    counts = np.bincount(references[references > 0], minlength=len(NAMES))
    return ~np.isin(scripts, np.flatnonzero(counts >= max(1, _ALSO_WRITTEN * counts.sum())))


def _wrong_language(lines: List[str], target: str, languages: FrozenSet[str]) -> Optional[np.ndarray]:
    """(lines,) bool, None where langid knows the target not at all, or no other language of the corpus."""
    accepted = _family(target)
    identifier = _langid(languages | {target})
    labels = set(identifier.labels)
    if not labels & accepted or labels <= accepted:
        return None
    return np.array([identifier.classify(line)[0] not in accepted for line in lines], dtype=bool)


def _family(language: str) -> FrozenSet[str]:
    return next((family for family in _FAMILIES if language in family), frozenset({language}))


@functools.lru_cache(maxsize=1)
def _langid(languages: FrozenSet[str]) -> Any:
    """py3langid, choosing among the languages that it knows of these."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    wanted = frozenset().union(*map(_family, languages))
    identifier.set_languages(sorted(wanted.intersection(identifier.labels)))
    return identifier
