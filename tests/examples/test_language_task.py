"""examples/unilmv2/language_task.py: no line of dev or test is in train, labels stay in step, a seed says which."""

import subprocess
import sys

from tests.helpers import REPOSITORY, environment
from tests.opus100.corpora import corpus_file
from tests.opus100.road import write_parallel_corpus

SCRIPT = REPOSITORY / "examples" / "unilmv2" / "language_task.py"


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def make(corpus, out, *words):
    command = [sys.executable, str(SCRIPT), "--corpus", str(corpus), "--out", str(out), *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def examples(out, split):
    return list(zip(lines(out / f"{split}.label"), lines(out / f"{split}.txt"), strict=True))


def test_the_task(tmp_path):
    corpus = write_parallel_corpus(tmp_path / "corpus")
    dev = corpus_file(corpus, "de-en", "dev", "de")
    dev.write_text("".join(f"{line}\n" for line in lines(corpus_file(corpus, "de-en", "train", "de"))[:10]))
    done = make(corpus, tmp_path / "out", "--train-lines", "50", "--valid-lines", "5", "--test-lines", "6")
    assert done.returncode == 0, done.stderr
    made = {split: examples(tmp_path / "out", split) for split in ("train", "valid", "test")}
    for split, most, theirs in (("train", 50, "train"), ("valid", 5, "dev"), ("test", 6, "test")):
        labels = [label for label, _ in made[split]]
        assert labels == sorted(["de", "en", "fr"] * most) and len(set(made[split])) == len(labels)
        for label, pair in (("de", "de-en"), ("fr", "en-fr")):
            known = set(lines(corpus_file(corpus, pair, theirs, label)))
            if split == "test":  # zero-shot pairs have one too
                known |= set(lines(corpus_file(corpus, "de-fr", "test", label, "zero-shot")))
            assert {text for language, text in made[split] if language == label} <= known
    held_out = set(lines(dev))
    assert held_out.isdisjoint(text for _, text in made["train"])
    again = make(corpus, tmp_path / "again", "--train-lines", "50", "--valid-lines", "5", "--test-lines", "6")
    other = make(corpus, tmp_path / "other", *again.args[-6:], "--seed", "2")
    assert again.stdout == other.stdout == done.stdout
    assert examples(tmp_path / "again", "train") == made["train"] != examples(tmp_path / "other", "train")


def test_languages_that_are_left_out(tmp_path):
    corpus = write_parallel_corpus(tmp_path / "corpus")
    assert make(corpus, tmp_path / "out", "--leave-out", "fr").returncode == 0
    assert {label for label, _ in examples(tmp_path / "out", "train")} == {"de", "en"}
    unknown = make(corpus, tmp_path / "out", "--leave-out", "xx")
    assert unknown.returncode == 1 and unknown.stderr == "error: --leave-out xx: the corpus has no such language\n"


def test_no_corpus_is_one_sentence(tmp_path):
    done = make(tmp_path, tmp_path / "out")
    assert done.returncode == 1 and "has no supervised/ folder" in done.stderr and "Traceback" not in done.stderr
