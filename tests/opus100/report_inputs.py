"""Small results, runs and test sets for the tests of report."""

import hashlib
import json

from fairseq_plugins.opus100.scoring import hypothesis_path, reference_path

KINDS = dict.fromkeys(["de-en", "en-de", "en-fr", "fr-en"], "supervised")
KINDS |= dict.fromkeys(["de-fr", "fr-de"], "zero-shot")



def write_results(folder, bleu, **more):
    """A results.json in which the direction number i has BLEU ``bleu[i]`` and chrF twice that."""
    folder.mkdir()
    rows = [
        {"direction": name, "kind": KINDS[name], "bleu": score, "chrf": 2 * score, "hypotheses": 2000,
         "truncated": number, "seconds": 1.5}  # fmt: skip
        for number, (name, score) in enumerate(zip(KINDS, bleu, strict=True))
    ]
    results = {
        "format": 1, "pivot": "en", "subset": "test", "tag_scheme": "target", "sampling": "temperature:5",
        "signatures": {"bleu": "tok:13a", "chrf": "nc:6"}, "versions": {"torch": "2.13.0"}, "machine": "a <machine>",
        "averages": {"supervised": {"bleu": sum(bleu[:4]) / 4, "chrf": 50.0, "directions": 4, "missing": 0},
                     "zero-shot": {"bleu": None, "chrf": None, "directions": 2, "missing": 28}},
        "directions": rows, "command": "evaluate --data 'a & b'", **more,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def log_line(update, loss):
    bands = {"encoder_grad_1of2": "0.25" if update < 40 else None, "other_grad_1of2": "1"}
    counts = {"epoch": 1, "num_updates": str(update)}
    return json.dumps({**counts, "loss": str(loss), "lr": "0.001", "gnorm": "0.5", **bands})


def write_run(folder):
    """A run that was killed after update 30 and went on from update 20; the engine wrote some lines twice."""
    folder.mkdir()
    valid = '{"valid_loss": "8.5", "valid_num_updates": "20"}'
    lines = ["text before", log_line(10, 9), log_line(10, 9), log_line(20, 8), valid, log_line(30, 99)]
    lines += [log_line(25, 50), '{"cut": ', log_line(30, 7), log_line(40, "nan"), log_line(50, 6)]
    (folder / "train.log").write_text("\n".join(lines) + "\n")
    (folder / "command.sh").write_text("fairseq-train --arch <x>\n")
    pairs = {"de-fr": {"kind": "zero-shot", "test": {"lines": 20}},
             "de-en": {"kind": "supervised", "test": {"lines": 20}, "train": {"lines": 200, "kept": 199}}}
    manifest = {"vocabulary": {"model_type": "bpe", "character_coverage": 0.9995}, "languages": ["de", "en", "fr"],
                "pairs": pairs,
                "sha256": {"dict.txt": "d1", "raw/test.de-en.de": "d2"},
                "prepare": {"options": {"seed": 1}, "inputs": {"x": "d3"}}}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_texts(folder, lines):
    """DATA of prepare with test sets for ``KINDS``: line i of language L is "L: " and ``lines[i]``."""
    (folder / "raw").mkdir(parents=True)
    for name in ("dict.txt", "sentencepiece.model"):
        (folder / name).write_text(name)
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("dict.txt", "sentencepiece.model")}
    manifest = {"sha256": hashes, "tag_scheme": "target", "languages": ["de", "en", "fr"], "pairs": {}, "pivot": "en"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for direction in KINDS:
        text = "".join(f"{direction[-2:]}: {line}\n" for line in lines)
        reference_path(folder, "test", direction).write_text(text, encoding="utf-8")
    return folder


def write_hypotheses(folder, lines, directions=tuple(KINDS)):
    """The same lines as hypotheses of every direction, beside a results.json."""
    for direction in directions:
        hypothesis_path(folder, direction).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
