"""``prepare`` as a whole: what it writes, that a kill does not show, that stock tasks read it."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from fairseq_plugins.data.symbols import TAG_SCHEMES, read_dictionary
from fairseq_plugins.opus100.__main__ import main
from fairseq_plugins.opus100.tables import evaluated_directions
from tests.helpers import REPOSITORY, environment, run_fairseq, succeeded
from tests.opus100.corpora import corpus_file, read_all, sides_of, write_corpus, write_pair, write_split

ALWAYS = ("--vocab-size", "150", "--workers", "1")


def prepare(root, out, *words):
    return main(["prepare", "--corpus", str(root), "--out", str(out), *ALWAYS, *words])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(corpus, DATA) of a plain run; not to be changed."""
    folder = tmp_path_factory.mktemp("prepare")
    write_corpus(folder / "corpus")
    assert prepare(folder / "corpus", folder / "data") == 0
    return folder / "corpus", folder / "data"


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


def test_the_manifest_tells_what_was_made(made):
    manifest = manifest_of(made[1])
    assert (manifest["format"], manifest["pivot"], manifest["tag_scheme"]) == (1, "en", "target")
    assert manifest["languages"] == ["de", "en", "fr", "ru"]
    counts = {"lines": 300, "kept": 300, "dropped_empty": 0, "dropped_long": 0}
    assert manifest["pairs"]["de-en"] == {
        "kind": "supervised", "train": counts, "dev": {"lines": 12}, "test": {"lines": 15}
    }  # fmt: skip
    assert manifest["pairs"]["de-fr"] == {"kind": "zero-shot", "test": {"lines": 9}}
    vocabulary = manifest["vocabulary"]
    assert vocabulary["sample_lines"] == 2 * (300 + 200 + 60)
    assert vocabulary["rows"] == len(read_dictionary(made[1] / "dict.txt"))


def test_the_manifest_hashes_every_file_but_itself(made):
    files = read_all(made[1])
    del files["manifest.json"]
    assert manifest_of(made[1])["sha256"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_the_lists_are_what_fairseq_reads(made):
    assert (made[1] / "languages.txt").read_text() == "de\nen\nfr\nru\n"
    assert (made[1] / "lang_pairs.txt").read_text() == "de-en,en-de,en-fr,fr-en,en-ru,ru-en\n"
    assert (made[1] / "zero_shot_pairs.txt").read_text() == "de-fr,fr-de,fr-ru,ru-fr\n"


def test_raw_files_are_byte_copies_and_binarised_ones_have_as_many_lines(made):
    corpus, data = made
    for pair, kind in (("en-ru", "supervised"), ("de-fr", "zero-shot")):
        for language in pair.split("-"):
            raw = (data / f"raw/test.{pair}.{language}").read_bytes()
            assert raw == corpus_file(corpus, pair, "test", language, kind).read_bytes()
            assert raw.count(b"\n") == len(sides_of(data, "test", pair)[0])


def test_test_lines_decode_to_the_raw_text(made):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(made[1] / "sentencepiece.model"))
    rows = read_dictionary(made[1] / "dict.txt")
    encoded = sides_of(made[1], "test", "en-ru")[1]
    decoded = [model.decode_pieces([rows[row] for row in line[:-1]]) for line in encoded]
    assert decoded == (made[1] / "raw/test.en-ru.ru").read_text().split("\n")[:-1]


def test_the_same_command_again_does_nothing(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made[1].rglob("*")}
    assert prepare(*made) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made[1].rglob("*")} == before


def test_a_damaged_file_is_made_again(made, tmp_path, capsys):
    prepare(made[0], tmp_path / "data")
    (tmp_path / "data" / "train.de-en.de.bin").write_bytes(b"damaged")
    (tmp_path / "data" / "dict.ru.txt").unlink()
    assert prepare(made[0], tmp_path / "data") == 0
    assert "2 files are missing or changed" in capsys.readouterr().err
    assert read_all(tmp_path / "data") == read_all(made[1])


def test_processes_and_folders_do_not_show_in_the_files(made, tmp_path):
    write_corpus(tmp_path / "elsewhere")
    assert prepare(tmp_path / "elsewhere", tmp_path / "data", "--workers", "2") == 0
    assert read_all(tmp_path / "data") == read_all(made[1])


def test_dictionaries_are_one_file(made):
    inodes = {path.stat().st_ino for path in made[1].glob("dict*.txt")}
    assert len(inodes) == 1


@pytest.mark.parametrize("step", ["vocabulary", "de-en", "fr-ru"])
def test_a_stop_after_any_step_does_not_show(made, tmp_path, monkeypatch, step):
    from fairseq_plugins.opus100.data_folder import DataFolder

    record, begun = DataFolder.record, []

    def stop(self, name, value):
        begun.append(name)
        if name == step:
            raise KeyboardInterrupt  # before the record is there: the step's files are, and count for nothing
        return record(self, name, value)

    monkeypatch.setattr(DataFolder, "record", stop)
    assert prepare(made[0], tmp_path / "data") == 130
    assert not (tmp_path / "data" / "manifest.json").exists()
    again = []
    monkeypatch.setattr(DataFolder, "record", lambda self, name, value: again.append(name) or record(self, name, value))
    assert prepare(made[0], tmp_path / "data") == 0
    assert set(again) & set(begun) == {step}, "finished steps are not done again"
    assert read_all(tmp_path / "data") == read_all(made[1])


# In the order in which they appear in DATA: each means that a certain piece of work has begun.
BEGUN = (
    ".prepare/plan.json",  # about to train SentencePiece
    ".prepare/tmp*",  # SentencePiece at work, in a process of its own
    "sentencepiece.model",  # about to write the dictionaries
    ".prepare/step.vocabulary.json",  # about to start the workers
    ".train.*.tmp",  # in the middle of a shard
    ".prepare/step.*-*.json",  # the first pair is finished, the others are not
)


def test_kill_9_at_any_time_does_not_show(tmp_path):
    for pair, lines in (("de-en", 30_000), ("en-fr", 20_000), ("en-ru", 20_000)):  # a second of work
        write_pair(tmp_path, pair, {"train": lines, "dev": 5, "test": 5})
    out, options = tmp_path / "killed", ["--sample-lines", "3000", "--workers", "2"]
    words = ["prepare", "--corpus", str(tmp_path), "--out", str(out), *ALWAYS[:2], *options]
    command = [sys.executable, "-m", "fairseq_plugins.opus100", *words]
    for pattern in BEGUN:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (begun := list(out.glob(pattern))) and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        assert begun and process.wait() == -signal.SIGKILL, f"not killed when {pattern} appeared"
        assert not (out / "manifest.json").exists()
    succeeded(subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=120))
    assert prepare(tmp_path, tmp_path / "data", *options[:2]) == 0
    assert read_all(out) == read_all(tmp_path / "data")


def test_other_input_or_options_are_refused_until_forced(made, tmp_path, capsys):
    out = tmp_path / "data"
    prepare(made[0], out)
    assert prepare(made[0], out, "--max-length", "5") == 2
    assert "--max-length was 256 and is 5" in capsys.readouterr().err
    assert prepare(made[0], out, "--pairs", "de-en") == 2
    assert "en-fr" in capsys.readouterr().err
    (out / "notes.bin").write_bytes(b"mine")
    assert prepare(made[0], out, "--pairs", "de-en,en-fr", "--force") == 0
    assert not list(out.glob("*ru*")) and (out / "train.en-fr.fr.idx").exists()
    assert (out / "notes.bin").exists(), "only files of prepare are removed"


def test_a_folder_of_something_else_is_refused(made, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("x")
    for words in ([], ["--force"]):
        assert prepare(made[0], tmp_path, *words) == 2
        assert "was not made by prepare" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]


def test_a_first_try_with_a_hopeless_size_does_not_block_the_next(made, tmp_path, capsys):
    assert prepare(made[0], tmp_path / "data", "--vocab-size", "9") == 2
    assert "raise it" in capsys.readouterr().err
    assert prepare(made[0], tmp_path / "data") == 0


def test_a_dry_run_prints_the_plan_and_writes_nothing(made, tmp_path, capsys):
    assert prepare(made[0], tmp_path / "data", "--dry-run", "--sample-lines", "100") == 0
    out = capsys.readouterr().out
    assert "de-en       supervised           300          12          15" in out
    assert re.search(r"from (9[5-9]|100) lines", out)
    assert not (tmp_path / "data").exists()


def test_pairs_in_a_file(made, tmp_path, capsys):
    (tmp_path / "pairs").write_text("en-de\nfr-en,\n")
    assert prepare(made[0], tmp_path / "data", "--dry-run", "--pairs-file", str(tmp_path / "pairs")) == 0
    assert "3 languages: de en fr" in capsys.readouterr().out
    assert prepare(made[0], tmp_path / "data", "--dry-run", "--pairs-file", str(tmp_path / "none")) == 2
    assert "none: No such file" in capsys.readouterr().err


def test_blank_and_over_long_train_lines_are_dropped_and_counted(tmp_path):
    write_pair(tmp_path, "de-en", {"train": 50, "dev": 5, "test": 5})
    lines = [corpus_file(tmp_path, "de-en", "train", side).read_text().split("\n")[:-1] for side in ("de", "en")]
    lines[0][3], lines[1][8], lines[0][20] = "", "  ", "der Hund " * 40
    write_split(tmp_path, "de-en", "train", {"de": lines[0], "en": lines[1]})
    write_split(tmp_path, "de-en", "test", {"de": ["", "Hund", "die\rMaus"], "en": ["dog", "", "the\u2028mouse"]})
    assert prepare(tmp_path, tmp_path / "data", "--max-length", "60") == 0
    counts = manifest_of(tmp_path / "data")["pairs"]["de-en"]["train"]
    assert counts == {"lines": 50, "kept": 47, "dropped_empty": 2, "dropped_long": 1}
    assert [len(side) for side in sides_of(tmp_path / "data", "test", "de-en")] == [3, 3]


@pytest.fixture
def untested(tmp_path):
    """en-ru has train only, as an, dz, hy, mn and yo have in OPUS-100."""
    write_pair(tmp_path, "de-en", {"train": 50, "dev": 5, "test": 5})
    write_pair(tmp_path, "en-ru", {"train": 70})
    write_pair(tmp_path, "de-ru", {"test": 5}, kind="zero-shot")
    return tmp_path


def test_pairs_without_test_are_left_out_with_a_notice(untested, capsys):
    assert prepare(untested, untested / "data") == 0
    notices = capsys.readouterr().err
    assert "left out (--keep-untested trains on them): en-ru" in notices
    assert "zero-shot pairs of a language without training data, left out: de-ru" in notices
    assert list(manifest_of(untested / "data")["pairs"]) == ["de-en"]


def test_pairs_without_test_are_trained_on_when_asked(untested):
    assert prepare(untested, untested / "data", "--keep-untested") == 0
    pair = manifest_of(untested / "data")["pairs"]["en-ru"]
    assert pair["kind"] == "train-only" and pair["dev"] == {"lines": 7} and "test" not in pair
    assert pair["train"]["lines"] == 70 == pair["train"]["kept"] + pair["train"]["held_out"]
    assert (untested / "data" / "lang_pairs.txt").read_text() == "de-en,en-de,en-ru,ru-en\n"
    assert len(sides_of(untested / "data", "valid", "en-ru")[0]) == 7
    assert not list((untested / "data").glob("test.en-ru*"))


def test_a_pair_without_dev_gets_one_from_train_and_is_evaluated(tmp_path, capsys):
    write_pair(tmp_path, "de-en", {"train": 50, "dev": 5, "test": 5})
    write_pair(tmp_path, "en-ru", {"train": 70, "test": 6})
    assert prepare(tmp_path, tmp_path / "data") == 0
    assert "without dev, up to 200 of their train pairs become it: en-ru" in capsys.readouterr().err
    pair = manifest_of(tmp_path / "data")["pairs"]["en-ru"]
    assert (pair["kind"], pair["dev"], pair["test"]) == ("supervised", {"lines": 7}, {"lines": 6})
    assert pair["train"]["held_out"] >= 7 and pair["train"]["kept"] == 70 - pair["train"]["held_out"]
    valid, train = ([*zip(*sides_of(tmp_path / "data", split, "en-ru"), strict=True)] for split in ("valid", "train"))
    assert len(valid) == 7 and not [line for line in valid if line in train]
    assert len((tmp_path / "data/raw/dev.en-ru.ru").read_bytes().split(b"\n")[:-1]) == 7
    assert "en-ru" in evaluated_directions(manifest_of(tmp_path / "data"), "test")


def test_a_supervised_pair_without_the_pivot_is_named(tmp_path, capsys):
    for pair in ("de-en", "de-fr"):
        write_pair(tmp_path, pair, {"train": 50, "dev": 5, "test": 5})
    assert prepare(tmp_path, tmp_path / "data", "--dry-run") == 0
    assert "notice: without the pivot en, in no average from or into it: de-fr\n" in capsys.readouterr().err


@pytest.mark.parametrize("lines, counts", [(["der Hund " * 40] * 30, "0 line pairs are blank and 30 have"),
                                           ([" ", ""] * 15, "30 line pairs are blank and 0 have")])  # fmt: skip
def test_a_pair_of_which_nothing_is_left_is_one_sentence(tmp_path, capsys, lines, counts):
    write_pair(tmp_path, "en-fr", {"train": 50, "dev": 5, "test": 5})
    write_pair(tmp_path, "de-en", {"train": 30, "dev": 5, "test": 5})
    write_split(tmp_path, "de-en", "train", {"de": lines})
    assert prepare(tmp_path, tmp_path / "data", "--max-length", "60") == 2
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert error.startswith("error: nothing is left of train.de-en.de and train.de-en.en: ") and counts in error
    assert not list((tmp_path / "data").glob("train.de-en*")) and not (tmp_path / "data/manifest.json").exists()


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_without_lines_is_one_sentence(tmp_path, capsys, split):
    write_pair(tmp_path, "de-en", {"train": 30, "dev": 5, "test": 5})
    write_split(tmp_path, "de-en", split, {"de": [], "en": []})
    assert prepare(tmp_path, tmp_path / "data") == 2
    assert f"opus.de-en-{split}.de has no lines; remove the files of that {split} set" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_full_disk_is_one_sentence(made, tmp_path, monkeypatch, capsys):
    import errno

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fairseq_plugins.opus100.files.os.fsync", full)
    assert prepare(made[0], tmp_path / "data") == 2
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert error.startswith("error: the disk of") and "run the same command again" in error


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--vocab-size", "3"], "--vocab-size 3 must be at least 8"),
        (["--temperature", "0.5"], "--temperature 0.5 must be at least 1"),
        (["--character-coverage", "1.5"], "--character-coverage 1.5 must be"),
        (["--workers", "0"], "--workers 0 must be at least 1"),
    ],
)
def test_impossible_options_are_refused(made, tmp_path, capsys, words, sentence):
    assert prepare(made[0], tmp_path / "data", *words) == 2
    assert sentence in capsys.readouterr().err


# ---- stock tasks -----------------------------------------------------------------------------------------------------


def stock_task(name, data, *words):
    from fairseq import options, tasks

    parser = options.get_training_parser(name)
    args = options.parse_args_and_arch(parser, [str(data), "--task", name, "--arch", "transformer", *words])
    return tasks.setup_task(args)


@pytest.mark.parametrize("scheme", sorted(TAG_SCHEMES))
def test_translation_multi_simple_epoch_adds_no_row_and_finds_the_tags(made, scheme):
    pairs = str(made[1] / "lang_pairs.txt")
    words = ("--lang-pairs", pairs, "--max-source-positions", "256", "--max-target-positions", "256")
    task = stock_task("translation_multi_simple_epoch", made[1], *words, *TAG_SCHEMES[scheme])
    rows = read_dictionary(made[1] / "dict.txt")
    first_tag = rows.index("__de__")
    assert rows[first_tag : first_tag + 4] == ["__de__", "__en__", "__fr__", "__ru__"]
    for language in ("de", "en", "fr", "ru"):
        assert task.dicts[language].symbols == rows
    task.load_dataset("valid")
    assert len(task.dataset("valid")) == 6 * 12
    sample = task.dataset("valid")[0]  # de -> en
    if scheme == "target":
        assert sample["source"][0] == rows.index("__en__")
    else:
        assert (sample["source"][0], sample["target"][0]) == (rows.index("__de__"), rows.index("__en__"))


@pytest.mark.parametrize("source, target", [("de", "en"), ("en", "de")])
def test_one_folder_serves_both_directions_of_translation(made, source, target):
    task = stock_task("translation", made[1], "-s", source, "-t", target)
    task.load_dataset("train")
    german, english = sides_of(made[1], "train", "de-en")
    sides = {"de": german, "en": english}
    first = task.dataset("train")[0]
    assert first["source"].tolist() == sides[source][0] and first["target"].tolist() == sides[target][0]


@pytest.mark.parametrize("name", ["masked_lm", "language_modeling"])
def test_one_side_of_a_pair_is_data_for_language_models(made, name):
    task = stock_task(name, made[1], "--tokens-per-sample", "64", "--sample-break-mode", "complete")
    task.load_dataset("valid.de-en.de")
    tokens = sum(map(len, sides_of(made[1], "valid", "de-en")[0]))
    assert len(task.dataset("valid.de-en.de")) >= tokens // 64
    dictionary = task.dictionary if name == "language_modeling" else task.source_dictionary
    assert dictionary.symbols == read_dictionary(made[1] / "dict.txt"), "<mask> has its row already"


def test_stock_training_runs_on_all_directions(made, tmp_path):
    words = "--task translation_multi_simple_epoch --encoder-langtok tgt --arch transformer --encoder-layers 1 "
    words += "--decoder-layers 1 --encoder-embed-dim 8 --decoder-embed-dim 8 --encoder-ffn-embed-dim 8 "
    words += "--decoder-ffn-embed-dim 8 --encoder-attention-heads 1 --decoder-attention-heads 1 --max-tokens 300 "
    words += "--optimizer adam --share-all-embeddings --max-update 2 --no-save --log-format json --log-interval 1"
    lists = ["--lang-pairs", made[1] / "lang_pairs.txt", "--save-dir", tmp_path]
    done = succeeded(run_fairseq("train", made[1], *words.split(), *lists))
    assert '"num_updates": "2"' in done.stdout + done.stderr
