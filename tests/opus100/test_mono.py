"""``mono``: what it writes, that valid lines and DATA's dev and test stay out of train, that stock tasks read it."""

import json
import shutil

import pytest
import sentencepiece

import fairseq_plugins
from fairseq_plugins.data.symbols import read_dictionary
from fairseq_plugins.opus100.data_folder import DataFolder
from fairseq_plugins.opus100.files import sha256_of
from tests.opus100.corpora import read_all, sentences
from tests.opus100.road import verb
from tests.opus100.test_prepare import stock_task

FILES = {"de": ["de.txt"], "en": ["en.1", "en.2"]}


def unlike_lines(language, count):
    """Lines of which no two are the same."""
    return list(dict.fromkeys(sentences(language, 2 * count, 5)))[:count]


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """300 lines of German in one file, 120 and 80 of English in two."""
    folder = tmp_path_factory.mktemp("text")
    english = unlike_lines("en", 200)
    for name, lines in {"de.txt": unlike_lines("de", 300), "en.1": english[:120], "en.2": english[120:]}.items():
        write_lines(folder / name, lines)
    return folder


def mono(data, out, *words, **files):
    flags = [word for language, names in files.items() for word in ("--text", f"{language}={names}")]
    return verb("mono", "--data", data, *flags, "--out", out, "--workers", 1, *words)


def of(text):
    return {language: ",".join(str(text / name) for name in names) for language, names in FILES.items()}


@pytest.fixture(scope="module")
def made(prepared, text, tmp_path_factory):
    """OUT with 12 valid lines a language; not to be changed."""
    out = tmp_path_factory.mktemp("mono") / "out"
    assert mono(prepared, out, "--valid-lines", 12, **of(text)) == 0
    return out


def read_split(data, out, language, split):
    """The sentences of a shard as text, read by fairseq; each must end with </s>."""
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(out / language / "dict.txt"))
    model = sentencepiece.SentencePieceProcessor(model_file=str(data / "sentencepiece.model"))
    shard = data_utils.load_indexed_dataset(str(out / language / split), dictionary, "mmap")
    lines = [row.tolist() for row in shard]
    assert all(line.index(dictionary.eos()) == len(line) - 1 for line in lines)
    return [model.decode([dictionary[row] for row in line[:-1]]) for line in lines]


def counts_of(out, language):
    return json.loads((out / "manifest.json").read_text())["text"][language]


@pytest.mark.parametrize("language", sorted(FILES))
def test_every_line_is_in_train_or_in_valid(prepared, made, text, language):
    given = [line for name in FILES[language] for line in (text / name).read_text("utf-8").splitlines()]
    train, valid = (read_split(prepared, made, language, split) for split in ("train", "valid"))
    assert len(valid) == 12 and sorted(train + valid) == sorted(given)
    assert [line for line in given if line in set(train)] == train, "in the order of the files"


def test_the_manifest_tells_what_was_made_and_from_what(prepared, made, text):
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["languages"] == ["de", "en"] == (made / "languages.txt").read_text().split()
    train = {"lines": 188, "kept": 188, "dropped_empty": 0, "dropped_long": 0}
    valid = {"lines": 12, "kept": 12, "dropped_empty": 0, "dropped_long": 0}
    assert manifest["text"]["en"] == {"lines": 200, "blank": 0, "in_dev_or_test": 0, "like_valid": 0,
                                      "train": train, "valid": valid}  # fmt: skip
    dictionaries = [made / "dict.txt", made / "de/dict.txt", made / "en/dict.txt", prepared / "dict.txt"]
    assert len({path.read_bytes() for path in dictionaries}) == 1
    inputs = manifest["mono"]["inputs"]
    assert inputs["en text 2 (en.2)"] == sha256_of(text / "en.2")
    assert inputs["sentencepiece.model"] == sha256_of(prepared / "sentencepiece.model")
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} - {"manifest.json"}
    assert manifest["sha256"] == {name: sha256_of(made / name) for name in files}


def test_valid_lines_and_datas_dev_and_test_are_not_trained_on(prepared, tmp_path):
    """However the lines are spaced, and however often they stand in the text."""
    lines = unlike_lines("de", 60)
    test = [line for line in (prepared / "raw/test.de-en.de").read_text("utf-8").split("\n") if line]
    dev = (prepared / "raw/dev.de-en.de").read_text("utf-8").splitlines()
    spaced = [f"  {line.replace(' ', chr(0xA0) + ' ')} " for line in lines]
    write_lines(tmp_path / "text", [*lines, "", "   ", *spaced, test[0], f" {dev[2]}"])
    out = tmp_path / "out"
    assert mono(prepared, out, de=tmp_path / "text") == 0
    train, valid = (read_split(prepared, out, "de", split) for split in ("train", "valid"))
    assert not set(train) & {*valid, test[0], dev[2]} and set(train) | set(valid) == set(lines)
    counts = counts_of(out, "de")
    assert (counts["blank"], counts["in_dev_or_test"]) == (2, 2) and len(set(valid)) == len(valid) <= 12
    assert counts["like_valid"] == len(valid) and counts["train"]["kept"] == 120 - 2 * len(valid)


def test_over_long_lines_are_left_out_of_both(prepared, tmp_path):
    lines = unlike_lines("de", 100)
    write_lines(tmp_path / "text", [*lines, *(f"{line} " * 30 for line in lines)])
    assert mono(prepared, tmp_path / "out", "--max-length", 40, de=tmp_path / "text") == 0
    counts = counts_of(tmp_path / "out", "de")
    assert counts["train"]["dropped_long"] + counts["valid"]["dropped_long"] == 100
    train, valid = (read_split(prepared, tmp_path / "out", "de", split) for split in ("train", "valid"))
    assert counts["valid"]["dropped_long"] > 0 and sorted(train + valid) == sorted(lines)


def test_the_seed_alone_decides_which_lines_are_valid(prepared, made, text, tmp_path):
    for name, words in {"again": [], "two": ["--workers", 2], "other": ["--seed", 2]}.items():
        assert mono(prepared, tmp_path / name, "--valid-lines", 12, *words, **of(text)) == 0
    assert read_all(tmp_path / "again") == read_all(tmp_path / "two") == read_all(made)
    valid = [set(read_split(prepared, out, "de", "valid")) for out in (made, tmp_path / "other")]
    assert valid[0] != valid[1]


def test_the_same_command_again_does_nothing_and_mends_what_is_damaged(prepared, made, text, tmp_path, capsys):
    out = shutil.copytree(made, tmp_path / "out")
    assert mono(prepared, out, "--valid-lines", 12, **of(text)) == 0
    assert "nothing to do" in capsys.readouterr().out
    (out / "en/train.bin").write_bytes(b"damaged")
    assert mono(prepared, out, "--valid-lines", 12, **of(text)) == 0
    assert read_all(out) == read_all(made)


@pytest.mark.parametrize("step", ["de", "en"])
def test_a_stop_after_any_language_does_not_show(prepared, made, text, tmp_path, monkeypatch, step):
    record, begun, again = DataFolder.record, [], []

    def stop(self, name, value):
        begun.append(name)
        if name == step:
            raise KeyboardInterrupt
        return record(self, name, value)

    monkeypatch.setattr(DataFolder, "record", stop)
    assert mono(prepared, tmp_path / "out", "--valid-lines", 12, **of(text)) == 130
    (tmp_path / "out" / step / ".train.bin.1.tmp").write_bytes(b"of a killed run")
    monkeypatch.setattr(DataFolder, "record", lambda self, name, value: again.append(name) or record(self, name, value))
    assert mono(prepared, tmp_path / "out", "--valid-lines", 12, **of(text)) == 0
    assert set(again) & set(begun) == {step}, "finished languages are not done again"
    assert read_all(tmp_path / "out") == read_all(made)


def test_other_text_is_refused_until_forced_and_leaves_no_language_behind(prepared, made, text, tmp_path, capsys):
    """A folder without a shard would stop multilingual_masked_lm, which takes every folder for a language."""
    out, only = shutil.copytree(made, tmp_path / "out"), {"en": of(text)["en"]}
    (out / "notes.txt").write_text("mine")
    assert mono(prepared, out, "--valid-lines", 12, **only) == 2
    assert "de text 1 (de.txt)" in capsys.readouterr().err
    assert mono(prepared, out, "--valid-lines", 12, "--force", **only) == 0
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["en"] and (out / "notes.txt").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--text", "de"], "--text de is not understood"),
        (["--text", "de="], "--text de= is not understood"),
        (["--text", "ja={good}"], "no symbol __ja__, but __de__ __en__ __fr__"),
        (["--text", "d-e={good}"], "language code 'd-e'"),
        (["--text", "de={folder}/none"], "none is not a file"),
        (["--text", "de={good},{good}"], "is given twice"),
        (["--text", "de={empty}"], "empty is empty"),
        (["--text", "de={blank}"], "--text de=... has 0 usable lines"),
        (["--text", "de={latin}"], "latin line 2 is not UTF-8"),
        (["--text", "de={good}", "--max-length", "1"], "nothing is left of valid: 0 lines are blank and"),
        (["--text", "de={good}", "--valid-lines", "0"], "--valid-lines 0 must be at least 1"),
        (["--text", "de={good}", "--out", "{folder}"], "is not empty and was not made by mono"),
        (["--text", "de={good}", "--data", "{no_model}"], "sentencepiece.model is missing"),
        (["--text", "de={good}", "--data", "{folder}"], "holds no manifest.json"),
    ],
)
def test_bad_input_is_one_sentence(prepared, tmp_path, capsys, words, said):
    places = {name: tmp_path / name for name in ("good", "empty", "blank", "latin", "no_model")}
    write_lines(places["good"], unlike_lines("de", 40))
    places["empty"].touch()
    places["blank"].write_text("\n \n" * 20)
    places["latin"].write_bytes("Haus\nStraße\n".encode("latin-1"))
    shutil.copytree(prepared, places["no_model"])
    (places["no_model"] / "sentencepiece.model").unlink()
    words = [word.format(folder=tmp_path, **places) for word in words]
    assert verb("mono", "--data", prepared, "--out", tmp_path / "out", "--workers", 1, *words) == 2
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert error.startswith("error: ") and said in error
    assert not list((tmp_path / "out").glob("*.txt")) + list((tmp_path / "out").glob("*.json"))


# ---- stock tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, folder", [("multilingual_masked_lm", "."), ("masked_lm", "de")])
def test_masked_language_models_of_fairseq_read_it(prepared, made, name, folder):
    fairseq_plugins.register()
    task = stock_task(name, made / folder, "--tokens-per-sample", "64", "--sample-break-mode", "eos")
    for split, lines in {"train": {"de": 288, "en": 188}, "valid": {"de": 12, "en": 12}}.items():
        task.load_dataset(split)
        data = task.dataset(split)
        parts = data.values() if isinstance(data, dict) else [data]
        assert sum(map(len, parts)) == (sum(lines.values()) if folder == "." else lines["de"])
    dictionary = task.dictionary if name == "multilingual_masked_lm" else task.source_dictionary
    assert dictionary.symbols == read_dictionary(prepared / "dict.txt"), "<mask> has its row already"
