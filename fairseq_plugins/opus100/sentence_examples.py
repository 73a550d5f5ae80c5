"""The best and worst sentences of every direction by sentence-level chrF, and how a page shows them."""

import html
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_plugins.opus100.files import Progress
from fairseq_plugins.opus100.html_page import folded
from fairseq_plugins.opus100.scoring import hypothesis_path, read_pair, reference_path
from fairseq_plugins.opus100.workers import run_all, usable_cores

LONGEST = 300  # characters of a line that are shown
SCORED = 500  # sentences of a direction that are scored: about a third of a millisecond each, for every system


class Job(NamedTuple):
    """A direction to choose examples of."""

    direction: str
    sources: Path
    references: Path
    hypotheses: Tuple[Optional[Path], ...]  # of every system, None where it has none
    count: int  # examples of each kind at most


class Example(NamedTuple):
    """A sentence with what every system made of it."""

    line: int  # of the test set, from 1
    source: str
    reference: str
    hypotheses: Tuple[Optional[Tuple[str, float]], ...]  # of every system: text and chrF; None where it has none


class Examples(NamedTuple):
    """Of one direction."""

    best: List[Example]  # the best first
    worst: List[Example]  # the worst first


def find_examples(data: Path, subset: str, folders: Sequence[Path], directions: Sequence[str], count: int,
                  workers: Optional[int] = None) -> Dict[str, Examples]:  # fmt: skip
    """Examples of every direction that some system has hypotheses of.

    Args:
        data: folder of ``prepare``.
        subset: test or dev.
        folders: of every system's hypotheses.
        directions: in the order of the result.
        count: sentences of each kind and direction at most.
        workers: processes (default: one per core).
    Raises:
        UserError: a file of DATA is missing, or there is not one hypothesis per reference.
    """
    jobs = []
    for direction in directions:
        paths = (hypothesis_path(folder, direction) for folder in folders)
        there = tuple(path if path.is_file() else None for path in paths)
        if any(there):
            backwards = "-".join(reversed(direction.split("-")))
            sources, references = (reference_path(data, subset, name) for name in (backwards, direction))
            jobs.append(Job(direction, sources, references, there, count))
    if not jobs:
        return {}
    progress = Progress("choosing examples", len(jobs), "directions")
    chosen = run_all(read_examples, jobs, workers or usable_cores(), progress)
    found = {job.direction: examples for job, examples in chosen}
    progress.finish()
    return {job.direction: found[job.direction] for job in jobs}


def read_examples(job: Job, report: Callable[[int], None]) -> Examples:
    """Score the sentences of one direction and choose: a job for ``workers.run_all``."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    sources, references = (lines[:SCORED] for lines in read_pair(job.sources, job.references))
    systems: List[Optional[List[Tuple[str, float]]]] = []
    for path in job.hypotheses:
        pairs = zip(read_pair(path, job.references)[0][:SCORED], references, strict=True) if path else None
        systems.append(pairs and [(text, chrf.sentence_score(text, [wanted]).score) for text, wanted in pairs])
    scored = [system for system in systems if system]
    means = [sum(score for _, score in outputs) / len(outputs) for outputs in zip(*scored, strict=True)]
    best, worst = choose(means, list(zip(sources, references, strict=True)), job.count)
    report(1)
    return Examples(*([
        Example(line + 1, sources[line], references[line], tuple(system and system[line] for system in systems))
        for line in lines] for lines in (best, worst)))  # fmt: skip


def choose(scores: Sequence[float], pairs: Sequence[Tuple[str, str]], count: int) -> Tuple[List[int], List[int]]:
    """Which sentences are the best, the best first, and which the worst, the worst first; none is both.

    Of equal scores the longer reference goes first: perfect translations of one word say little. Copies of a pair
    count once, and pairs with a blank side do not count.

    Args:
        scores: of every sentence.
        pairs: source and reference of every sentence.
        count: of each kind at most.
    """
    first = {pair: number for number, pair in reversed(list(enumerate(pairs))) if all(map(str.strip, pair))}
    numbers = sorted(first.values())
    best = sorted(numbers, key=lambda i: (-scores[i], -len(pairs[i][1])))[: min(count, (len(numbers) + 1) // 2)]
    rest = set(numbers) - set(best)
    worst = sorted(sorted(rest), key=lambda i: (scores[i], -len(pairs[i][1])))[: min(count, len(numbers) // 2)]
    return best, worst


def examples_html(found: Dict[str, Examples], names: Sequence[str], notes: Dict[str, str]) -> str:
    """One folded part per direction.

    Args:
        found: by direction.
        names: of the systems.
        notes: by direction: what its summary says beside its name.
    """
    parts = [
        folded(
            f"{direction} {notes[direction]}",
            "".join(f"<h3>{kind}</h3>{''.join(_example(direction, one, names) for one in examples)}"
                    for kind, examples in its._asdict().items() if examples),
        )
        for direction, its in found.items()
    ]  # fmt: skip
    return f'<div class="examples">{"".join(parts)}</div>'


def _example(direction: str, example: Example, names: Sequence[str]) -> str:
    source, target = direction.split("-")
    rows = [(f"source, line {example.line}", source, example.source), ("reference", target, example.reference)]
    for name, its in zip(names, example.hypotheses, strict=True):
        if its:
            rows.append((f"{name}, chrF {its[1]:.1f}", target, its[0]))
    shown = (f'<dt>{html.escape(what)}</dt><dd lang="{html.escape(language)}" dir="auto">{html.escape(cut(text))}</dd>'
             for what, language, text in rows)  # fmt: skip
    return f"<dl>{''.join(shown)}</dl>\n"


def cut(text: str, longest: int = LONGEST) -> str:
    """A line as a page shows it: its beginning where it is long, and a word where it is empty."""
    if not text.strip():
        return "(empty)"
    return text if len(text) <= longest else f"{text[:longest]} [{len(text) - longest} more characters]"
