"""One HTML page from one or several results: tables, bars per language, curves, examples, settings, commands.

The page needs nothing but itself: no network, and no scripts but one that sorts its tables. With several results, also
older ones, it compares each with a baseline; results on OPUS-100's own test sets it compares with published ones. With
--data it shows the best and worst sentences of every direction.
"""

import argparse
import html
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_plugins._verbs import UserError, check_at_least
from fairseq_plugins.opus100 import release
from fairseq_plugins.opus100.charts import bar_chart, colour, line_chart
from fairseq_plugins.opus100.corpus import ZERO_SHOT
from fairseq_plugins.opus100.curves import LOGGED, Log, described, read_log
from fairseq_plugins.opus100.files import misfit, plain_os_errors, read_json, write_whole
from fairseq_plugins.opus100.html_page import folded, page, table
from fairseq_plugins.opus100.published import AVERAGES_ALONE, published_bleu, release_averages
from fairseq_plugins.opus100.run_folder import BOUND_FILES, make_folder, read_manifest
from fairseq_plugins.opus100.sentence_examples import LONGEST, SCORED, Examples, examples_html, find_examples
from fairseq_plugins.opus100.tables import (
    AVERAGED,
    COLUMNS,
    HEADINGS,
    RESULTS_SHAPE,
    count_of,
    description,
    groups,
    not_averaged,
    release_part,
)
from fairseq_plugins.opus100.wins import TIE, count_wins


class System(NamedTuple):
    """One result with what is known about its training."""

    name: str
    results: Dict[str, Any]
    bleu: Dict[str, float]  # direction -> BLEU
    log: Optional[Log]
    command: Optional[str]  # command.sh
    manifest: Dict[str, Any]  # of the data that it was trained on
    folder: Path  # of its hypotheses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``report``."""
    add = parser.add_argument
    add("--results", type=Path, nargs="+", required=True, metavar="FILE",
        help="results.json, or the folder that holds it")  # fmt: skip
    add("--runs", type=Path, nargs="+", default=[], metavar="RUN",
        help="folders of train, in the order of --results: curves and commands")  # fmt: skip
    add("--names", nargs="+", metavar="NAME", help="in the order of --results (default: the folders' names)")
    add("--baseline", metavar="NAME", help="what the others are compared with (default: the first name)")
    add("--data", type=Path, metavar="DATA",
        help="folder of prepare: shows the best and worst sentences of every direction, by sentence-level chrF")
    add("--examples", type=int, default=2, metavar="N",
        help="how many of either kind --data shows for a direction (default: %(default)s)")
    add("--title", default="Multilingual translation", metavar="TEXT", help="heading (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="FILE", help="page to write, for example report.html")


def run(args: argparse.Namespace) -> None:
    """Read everything, check that it can be compared, write the page."""
    check_at_least(args, examples=1)
    systems = read_systems(args.results, args.runs, args.names)
    names = [system.name for system in systems]
    baseline = args.baseline or names[0]
    if baseline not in names:
        raise UserError(f"--baseline {baseline} is not among the names {', '.join(names)}")
    make_folder(args.output.parent, "--output")
    with plain_os_errors(args.output):
        examples = examples_of(args.data, systems, args.examples) if args.data else {}
        body = sections(args.title, systems, names.index(baseline), examples)
        write_whole(args.output, page(args.title, body).encode())
    print(f"wrote {args.output}")


def read_systems(results: Sequence[Path], runs: Sequence[Path], names: Optional[Sequence[str]]) -> List[System]:
    """The systems to show.

    Raises:
        UserError: a file is missing or damaged, counts do not match, or results that cannot be compared.
    """
    for flag, values in (("--runs", runs), ("--names", names)):
        if values and len(values) != len(results):
            raise UserError(f"{flag} has {len(values)} values for {len(results)} of --results; give one each")
    paths = [path / "results.json" if path.is_dir() else path for path in results]
    names = list(names or (path.absolute().parent.name for path in paths))
    if len(set(names)) != len(names):
        raise UserError(f"the names {', '.join(names)} are not different; give --names")
    systems = []
    for number, path in enumerate(paths):
        found = read_json(path)
        if found is None:
            raise UserError(f"--results {path} does not exist; give a results.json that evaluate wrote")
        if (where := misfit(found, RESULTS_SHAPE)) is not None:
            raise UserError(f"--results {path} is not a results.json that evaluate wrote ({where})")
        bleu = {row["direction"]: row["bleu"] for row in found["directions"]}
        log, command, manifest = _read_run(runs[number] if runs else None)
        systems.append(System(names[number], found, bleu, log, command, manifest, path.parent))
    for what in ("subset", "pivot"):
        if len({system.results[what] for system in systems}) > 1:
            raise UserError(f"--results differ in their {what}, so they cannot be compared")
    return systems


def _read_run(run: Optional[Path]) -> Tuple[Optional[Log], Optional[str], Dict[str, Any]]:
    """Curves, command and manifest of a folder of ``train``."""
    if run is None:
        return None, None, {}
    if not run.is_dir():
        raise UserError(f"--runs {run} is not a folder; give the one that train wrote")
    log, command = run / "train.log", run / "command.sh"
    return (
        read_log(log) if log.is_file() else None,
        command.read_text(encoding="utf-8", errors="replace") if command.is_file() else None,
        read_json(run / "manifest.json", {"vocabulary?": {}}) or {},
    )


def examples_of(data: Path, systems: Sequence[System], count: int) -> Dict[str, Examples]:
    """The best and worst sentences of every direction, by direction.

    Raises:
        UserError: DATA is not a folder of ``prepare``, or has not the test sets of the results, or nothing is there.
    """
    read_manifest(data)
    directions = list(dict.fromkeys(name for system in systems for name in system.bleu))
    folders = [system.folder for system in systems]
    found = find_examples(data, systems[0].results["subset"], folders, directions, count)
    if not found:
        raise UserError(f"--data {data} shows no examples: no hypotheses lie beside {folders[0] / 'results.json'}; "
                        "give --results as evaluate wrote them, or leave --data out")
    return found


def sections(title: str, systems: Sequence[System], baseline: int, examples: Dict[str, Examples]) -> List[str]:
    """The body of the page."""
    key = f"<p>{legend(systems)}</p>"
    parts = [("Averages", averages_table(systems))]
    if len(systems) > 1:
        parts.append((f"Against {systems[baseline].name}", wins_table(systems, baseline)))
    released = [system for system in systems if release_part(system.results)]
    if released:
        parts.append(("Against published results", published_tables(released)))
    parts += [("Every direction", directions_table(systems)), ("BLEU per language", key + language_bars(systems))]
    if any(system.log for system in systems):
        parts.append(("Training", key + training_charts(systems)))
    if examples:
        parts.append(("Examples", examples_part(systems, examples)))
    parts += [("Settings and environment", settings_table(systems)), ("Commands", commands(systems))]
    if any(system.manifest for system in systems):
        parts.append(("Data", manifests_part(systems)))
    links, body = [], []
    for number, (head, inside) in enumerate(parts):
        links.append(f'<a href="#part{number}">{html.escape(head)}</a>')
        body.append(f'<h2 id="part{number}">{html.escape(head)}</h2>\n{inside}')
    signatures = {system.results["signatures"]["bleu"] for system in systems}
    differ = "<p><strong>The BLEU signatures differ, so the numbers do not compare exactly.</strong></p>"
    about = f"<p>{html.escape(systems[0].results['subset'])} set. {legend(systems)}</p>"
    start = [f"<h1>{html.escape(title)}</h1>", about, *[differ] * (len(signatures) > 1)]
    return [*start, f"<nav>{' '.join(links)}</nav>", *body]


def legend(systems: Sequence[System]) -> str:
    return "".join(f'<span class="name"><span class="key" style="background:{colour(number)}"></span>'
                   f"{html.escape(system.name)}</span>"
                   for number, system in enumerate(systems))


def averages_table(systems: Sequence[System]) -> str:
    """Means over every group, for every system, and what the groups without one lack."""
    names = list(dict.fromkeys(group for system in systems for group in system.results["averages"]))
    found = [value for system in systems for value in system.results["averages"].values()]
    metrics = [metric for metric in AVERAGED if any(metric in value for value in found)]
    head = ["average over"] + [f"{system.name}\n{HEADINGS[metric]}" for system in systems for metric in metrics]
    rows = []
    for group in names:
        values = [system.results["averages"].get(group, {}) for system in systems]
        counts = dict.fromkeys(count_of(value) for value in values if value)
        cells = [value.get(metric) for value in values for metric in metrics]
        rows.append([f"{group} ({' / '.join(counts)} directions)", *cells])
    notes = [f"{system.name}: {sentence}." for system in systems for sentence in not_averaged(system.results)]
    return table(head, rows) + "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def wins_table(systems: Sequence[System], baseline: int) -> str:
    """How many directions each system wins, ties and loses against the baseline, and the mean difference."""
    other = systems[baseline]
    kinds = {row["direction"]: row["kind"] for row in other.results["directions"]}
    rows = []
    for group, directions in groups(kinds, other.results["pivot"]).items():
        for system in systems:
            wins = count_wins(system.bleu, other.bleu, directions)
            if system is other or wins is None:
                continue
            compared = count_of({"directions": wins.compared, "missing": len(directions) - wins.compared})
            rows.append([system.name, f"{group} ({compared})", wins.won, wins.tied, wins.lost, f"{wins.ratio:.1f}",
                         f"{wins.difference:+.2f}"])  # fmt: skip
    return table(["system", "directions", "won", f"tied (within {TIE} BLEU)", "lost", "win ratio %",
                  "mean difference"], rows, "sortable")  # fmt: skip


def published_tables(systems: Sequence[System]) -> str:
    """Results on OPUS-100's test sets beside published ones: averages over all 94 pairs, and win ratios.

    Args:
        systems: evaluated on those test sets.
    """
    published = published_bleu()
    ours = {system.name: release_averages(system.bleu) for system in systems}
    theirs = {name: release_averages(bleu) for name, bleu in published.items()}
    names = list(next(iter(theirs.values())))
    rows = [[name, *(means[group]["bleu"] for group in names)] for name, means in {**ours, **theirs}.items()]
    rows += [[name, *(means.get(group) for group in names)] for name, means in AVERAGES_ALONE.items()]
    counts = [next(iter(theirs.values()))[group]["directions"] for group in names]
    head = ["BLEU over", *(f"{group} ({count})" for group, count in zip(names, counts, strict=True))]
    halves = {half: directions for half, directions in groups(release.DIRECTIONS, release.PIVOT).items()
              if half in ("en-x", "x-en", ZERO_SHOT)}  # fmt: skip
    ratios = []
    for name, bleu in published.items():
        all_wins = [count_wins(system.bleu, bleu, directions) for system in systems for directions in halves.values()]
        ratios.append([name, *(wins and f"{wins.ratio:.1f} ({wins.compared})" for wins in all_wins)])
    over = ["win ratio % over", *(f"{system.name}\n{half}" for system in systems for half in halves)]
    return (
        "<p>Zhang et al. (2020), many-to-many with L layers on either side, from the authors' table per language, one "
        "decimal; DeepNet (2022), Table 2. Their BLEU is 13a's like ours, by older versions of sacreBLEU; Zhang et al. "
        "searched with beam 4 and another length penalty. An average is over all directions in brackets or not given, "
        "a win ratio over those in brackets.</p>"
        + table(head, rows) + table(over, ratios)
    )  # fmt: skip


def language_bars(systems: Sequence[System]) -> str:
    """BLEU by language into and out of the pivot, and by direction for zero-shot and other pairs without it."""
    pivot = systems[0].results["pivot"]
    kinds = {row["direction"]: row["kind"] for system in systems for row in system.results["directions"]}
    most = max([10.0, *(bleu for system in systems for bleu in system.bleu.values())])
    charts: Dict[str, List[Tuple[str, List[Optional[float]]]]] = {}
    for direction in sorted(kinds):
        source, target = direction.split("-")
        if kinds[direction] == ZERO_SHOT:
            title, label = "zero-shot", direction
        elif pivot not in (source, target):
            title, label = f"supervised without {pivot}", direction
        else:
            title, label = (f"into {pivot}", source) if target == pivot else (f"from {pivot}", target)
        charts.setdefault(title, []).append((label, [system.bleu.get(direction) for system in systems]))
    figures = [f"<figure><h3>{html.escape(title)}</h3>{bar_chart(f'BLEU {title}', rows, most)}</figure>"
               for title, rows in sorted(charts.items())]
    return f'<div class="charts">{"".join(figures)}</div>'


def training_charts(systems: Sequence[System]) -> str:
    """One chart per logged value, with what its name means."""
    figures = []
    more = {name for system in systems if system.log for name in system.log.series} - LOGGED.keys()
    for name in (*LOGGED, *sorted(more)):
        _, meaning = described(name) or ("", "")
        lines = {system.name: system.log.series.get(name, []) if system.log else [] for system in systems}
        if any(lines.values()):
            figures.append(f"<figure><h3>{name}</h3>{line_chart(name, lines)}"
                           f"<figcaption>{html.escape(meaning)}</figcaption></figure>")
    restarts = [f"{system.name} {system.log.restarts}" for system in systems if system.log and system.log.restarts]
    note = f"<p>Starts that repeated updates: {html.escape(', '.join(restarts))}.</p>" if restarts else ""
    return f'<div class="charts">{"".join(figures)}</div>{note}'


def directions_table(systems: Sequence[System]) -> str:
    """Scores, hypotheses, cut sources and seconds of every direction; only columns that some result has."""
    rows: Dict[str, List[Optional[Dict[str, Any]]]] = {}
    for number, system in enumerate(systems):
        for row in system.results["directions"]:
            rows.setdefault(row["direction"], [None] * len(systems))[number] = row
    every = [row for system in systems for row in system.results["directions"]]
    metrics = [name for name in COLUMNS[2:] if any(row.get(name) is not None for row in every)]
    head = ["direction", "kind"] + [f"{system.name}\n{HEADINGS[name]}" for name in metrics for system in systems]
    body = []
    for direction, its in rows.items():
        kind = next(row["kind"] for row in its if row)
        body.append([direction, kind] + [row and row.get(metric) for metric in metrics for row in its])
    cut = ", ".join(f"{system.name} {sum(row['truncated'] for row in known)}" for system in systems
                    if (known := [row for row in system.results["directions"] if row["truncated"] is not None]))
    note = f"<p>Sources cut to the longest input of the model, all directions: {html.escape(cut)}.</p>" if cut else ""
    return table(head, body, "sortable") + note


def examples_part(systems: Sequence[System], examples: Dict[str, Examples]) -> str:
    """The best and worst sentences of every direction, folded."""
    notes = {name: " / ".join(f"{system.bleu[name]:.1f}" if name in system.bleu else "-" for system in systems)
             for name in examples}  # fmt: skip
    said = (f"Of the first {SCORED} sentences of each direction those with the best and the worst chrF, as sacreBLEU "
            "scores one sentence"
            + ", in the mean over the systems" * (len(systems) > 1)
            + f"; behind the direction its BLEU. Copies count once, and {LONGEST} characters of a line are shown.")
    return f"<p>{said}</p>{examples_html(examples, [system.name for system in systems], notes)}"


def settings_table(systems: Sequence[System]) -> str:
    """What a reader must know beside the numbers."""
    described = []
    for system in systems:
        words = system.manifest.get("vocabulary", {})
        vocabulary = {"vocabulary": ", ".join(f"{name} {words[name]}" for name in sorted(words))} if words else {}
        described.append({**{k: v for k, v in description(system.results).items() if k != "command"}, **vocabulary})
    names = list(dict.fromkeys(name for one in described for name in one))
    return table(["setting"] + [system.name for system in systems],
                 [[name] + [one.get(name) for one in described] for name in names], "text")


def commands(systems: Sequence[System]) -> str:
    """The commands of every system as they were given."""
    parts = []
    for system in systems:
        for what, text in (("training", system.command), ("evaluation", system.results.get("command"))):
            if text:
                parts.append(f"<h3>{html.escape(system.name)}: {what}</h3><pre>{html.escape(text)}</pre>")
    return "\n".join(parts)


def manifests_part(systems: Sequence[System]) -> str:
    """What prepare wrote about the data of every training, folded; equal data once."""
    found: Dict[str, Tuple[List[str], Dict[str, Any]]] = {}
    for system in systems:
        if system.manifest:
            its = found.setdefault(json.dumps(system.manifest, sort_keys=True), ([], system.manifest))
            its[0].append(system.name)
    return "".join(folded(f"manifest.json of {', '.join(names)}", manifest_tables(manifest))
                   for names, manifest in found.values())


def manifest_tables(manifest: Dict[str, Any]) -> str:
    """Everything in a manifest but the hashes of single files of text, which are as many as there are pairs."""
    rest = {name: value for name, value in manifest.items() if name not in ("pairs", "sha256")}
    rest["sha256"] = {name: value for name, value in manifest.get("sha256", {}).items() if name in BOUND_FILES}
    rest["prepare"] = {name: value for name, value in rest.get("prepare", {}).items() if name != "inputs"}
    sizes = [{"kind": pair["kind"], **flat({name: value for name, value in pair.items() if name != "kind"})}
             for pair in manifest.get("pairs", {}).values()]
    heads = list(dict.fromkeys(name for pair in sizes for name in pair))
    rows = [[name, *(pair.get(head) for head in heads)]
            for name, pair in zip(manifest.get("pairs", {}), sizes, strict=True)]
    return table(["name", "value"], list(flat(rest).items()), "text") + table(["pair", *heads], rows, "sortable")


def flat(values: Dict[str, Any]) -> Dict[str, str]:
    """{"a": {"b": [1, 0.9995]}} -> {"a b": "1, 0.9995"}: in words, as a table would round numbers."""
    found: Dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found.update({f"{name} {inner}": its for inner, its in flat(value).items()})
        else:
            found[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found
