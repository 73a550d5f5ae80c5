"""examples/mt6/divide_corpus.py: every train line is in one part, and test sets come along."""

import subprocess
import sys

from tests.helpers import REPOSITORY
from tests.opus100.corpora import corpus_file
from tests.opus100.road import write_parallel_corpus

SCRIPT = REPOSITORY / "examples" / "mt6" / "divide_corpus.py"


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def divide(corpus, out, *words):
    command = [sys.executable, str(SCRIPT), "--corpus", str(corpus), "--out", str(out), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_parts(tmp_path):
    corpus = write_parallel_corpus(tmp_path / "corpus")
    done = divide(corpus, tmp_path / "out", "--fine-tune", "20", "--parallel", "50")
    assert done.returncode == 0, done.stderr
    rest = set()
    for pair in ("de-en", "en-fr"):
        for language in pair.split("-"):
            whole = corpus_file(corpus, pair, "train", language)
            place = whole.relative_to(corpus)
            assert lines(tmp_path / "out/fine_tune" / place) == lines(whole)[:20]
            assert lines(tmp_path / "out/parallel" / place) == lines(whole)[20:70]
            rest |= {(language, line) for line in lines(whole)[70:]}
            for part in ("fine_tune", "parallel"):
                for split in ("dev", "test"):
                    copied = corpus_file(corpus, pair, split, language).relative_to(corpus)
                    assert (tmp_path / "out" / part / copied).read_bytes() == (corpus / copied).read_bytes()
    mono = {path.stem: lines(path) for path in (tmp_path / "out/mono").glob("*.txt")}
    assert {(language, line) for language, own in mono.items() for line in own} == rest
    assert all(len(own) == len(set(own)) for own in mono.values())


def test_too_few_lines_is_one_sentence(tmp_path):
    corpus = write_parallel_corpus(tmp_path / "corpus")
    done = divide(corpus, tmp_path / "out", "--fine-tune", "100", "--parallel", "100")
    assert done.returncode == 2 and "has 200 lines; --fine-tune and --parallel take 200" in done.stderr
