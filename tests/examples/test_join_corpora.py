"""examples/unilmv2/join_corpora.py: two corpora read as one, a language has one name, texts and pairs are told."""

import subprocess
import sys

from fairseq_plugins.opus100.corpus import find_pairs
from tests.helpers import REPOSITORY
from tests.opus100.corpora import write_split
from tests.opus100.road import write_parallel_corpus

SCRIPT = REPOSITORY / "examples" / "unilmv2" / "join_corpora.py"


def join(*words):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True)


def other_corpus(root):
    for pair, first in (("afr-eng", "afr"), ("de-eng", "de")):
        for split in ("train", "dev", "test"):
            sides = {first: [f"{first} {split} {n}" for n in range(3)], "eng": [f"x {n}" for n in range(3)]}
            write_split(root, pair, split, sides)
    return root


def test_two_corpora(tmp_path):
    first, second = write_parallel_corpus(tmp_path / "first"), other_corpus(tmp_path / "second")
    for _ in range(2):  # once more is no error
        done = join("--corpus", first, "--corpus", second, "--rename", "eng=en", "--out", tmp_path / "both")
        assert done.returncode == 0, done.stderr
    pairs, own = find_pairs(tmp_path / "both"), find_pairs(first)
    assert set(pairs) == {*own, "afr-en"} and "afr-en" not in own and "de-en" in own
    for name, pair in own.items():
        assert {split: [path.resolve() for path in files] for split, files in pairs[name].files.items()} == {
            split: [path.resolve() for path in files] for split, files in pair.files.items()
        }
    assert [path.read_text().split("\n")[0] for path in pairs["afr-en"].files["dev"]] == ["afr dev 0", "x 0"]
    assert (tmp_path / "both/pairs.txt").read_text() == "afr-en\n"
    for language in ("de", "en", "fr"):
        wanted = set()
        for pair in own.values():
            if language in pair.languages and "train" in pair.files:
                text = pair.files["train"][pair.languages.index(language)].read_text(encoding="utf-8")
                wanted |= set(text.splitlines())
        found = (tmp_path / "both/text" / language).read_text(encoding="utf-8").splitlines()
        assert set(found) == wanted and len(found) == len(wanted)


def test_two_pairs_that_become_one_are_refused(tmp_path):
    corpus = other_corpus(tmp_path / "corpus")
    for split in ("train", "dev", "test"):
        write_split(corpus, "deu-eng", split, {"deu": ["mehr"], "eng": ["more"]})
    words = ("--corpus", corpus, "--out", tmp_path / "out", "--rename")
    done = join(*words, "deu=de")
    says = f"--rename makes de-eng of {corpus}'s de-eng and of its deu-eng; leave one of the two out"
    assert done.returncode == 1 and done.stderr == f"error: {says}\n"
    done = join(*words, "afr=eng")
    says = f"--rename makes one language of both sides of {corpus}'s afr-eng; rename one of them"
    assert done.returncode == 1 and done.stderr == f"error: {says}\n"


def test_bad_words_are_one_sentence(tmp_path):
    done = join("--corpus", tmp_path, "--out", tmp_path / "both")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    done = join("--corpus", tmp_path, "--rename", "eng", "--out", tmp_path / "both")
    assert done.returncode == 1 and done.stderr == "error: --rename eng: give OLD=NEW, as eng=en\n"
