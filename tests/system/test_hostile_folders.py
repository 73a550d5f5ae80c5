"""Folders that verbs wrote, damaged or tampered with, also where all hashes were made to fit again."""

import hashlib
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile_support import FIXED, JUNK, tampered

SCORE = "--directions de-en --identifier script --workers 1 --cpu --score-only".split()
SEARCH = "--directions de-en --subset dev --beam 1 --max-len 2 --identifier script --workers 1 --cpu".split()
# who reads DATA, and in which words
DATA_READERS = {
    "translate": "--tgt de --model {run}/checkpoint_best.pt --data {data} --cpu",
    "evaluate": "--data {data} --output {out}/e --run {run} " + " ".join(SEARCH),
    "compare": "--data {data} --results {results} --samples 100 --directions de-en",
    "train": "--data {data} --run {out}/r --dry-run --cpu --arch transformer",
    "mono": "--data {data} --text de={root}/text.txt --out {out}/m --workers 1",
    "encode": "--data {data} --inputs {root}/text.txt --outputs {out}/pieces",
    "add-symbols": "--data {data} --out {out}/n --languages xx",
    "prepare": "--corpus {corpus} --out {out}/p --vocabulary {data} --workers 1",
    "export": "{run}/checkpoint_best.pt --to ctranslate2 --data {data} --output {out}/x",
}


@pytest.fixture
def copy(world, tmp_path):
    """DATA, to be damaged."""
    return shutil.copytree(world.root / "data", tmp_path / "data")


def reading(world, name, data):
    there = {of: world.root / of for of in ("run", "results", "corpus")}
    return DATA_READERS[name].format(root=world.root, out=world.out, data=data, **there).split()


def reseal(data, name, content):
    """Write a file of DATA and make its manifest say that it is the right one."""
    (data / name).unlink(missing_ok=True)  # which may be one file with another
    (data / name).write_bytes(content)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (data / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", [name for name in DATA_READERS if name not in ("encode", "add-symbols")])
@pytest.mark.parametrize("content", ["[]", "{}", "[" * 10_000, "", "null", '{"sha256": []}', "\udc80", '{"a": NaN'])
def test_a_manifest_that_is_none(world, copy, name, content):
    (copy / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    said = world.refused(name, reading(world, name, copy))
    assert "manifest.json" in said or "--vocabulary" in said


@pytest.mark.parametrize("name", list(DATA_READERS))
@settings(max_examples=6, **FIXED)
@given(data=st.data())
def test_a_manifest_with_something_else_in_it(world, tmp_path_factory, name, data):
    """Not all of it is read by all, so that it may still be taken."""
    copy = shutil.copytree(world.root / "data", tmp_path_factory.mktemp("tampered") / "data")
    good = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(data.draw(tampered(good))))
    world.call(name, reading(world, name, copy))


@pytest.mark.parametrize("name", [name for name in DATA_READERS if name not in ("compare", "train")])
@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"a 1\na 1\n", b"word\n", b"a b c\n", b"<s> 1\n", b"a \xd9\xa1\x00\n", b"a --5\n",
     b"\xe2\x80\xa8 x\n", b"a 1\n" + b"x" * 100_000],
    ids=["bytes", "twice", "no count", "words", "special", "digits", "minus", "separator", "long"],
)  # fmt: skip
def test_a_dictionary_that_is_none(world, copy, name, content):
    reseal(copy, "dict.txt", content)
    said = world.refused(name, reading(world, name, copy))
    assert "dict." in said or "checkpoint" in said or "sentencepiece.model" in said or "--vocabulary" in said


@pytest.mark.parametrize("name", ["translate", "evaluate", "mono", "encode", "prepare"])
@settings(max_examples=6, **FIXED)
@given(share=st.sampled_from([0, 0.2, 0.999]), junk=st.binary(max_size=20))
def test_a_sentencepiece_model_that_is_none(world, tmp_path_factory, name, share, junk):
    copy = shutil.copytree(world.root / "data", tmp_path_factory.mktemp("pieces") / "data")
    whole = (copy / "sentencepiece.model").read_bytes()
    reseal(copy, "sentencepiece.model", junk + whole[: int(share * len(whole))])
    world.refused(name, reading(world, name, copy))


@pytest.mark.parametrize("content", ["", "de", "de-", "-", "de-en-fr", "de-en,,../x-y", "\0-x", "de-en\u2028x"])
def test_pairs_that_are_none(world, copy, content):
    (copy / "lang_pairs.txt").write_text(content)
    assert "lang_pairs.txt" in world.refused("train", reading(world, "train", copy))


@pytest.mark.parametrize("end", ["idx", "bin"])
@settings(max_examples=4, **FIXED)
@given(
    share=st.sampled_from([0, 0.3, 0.9, 1]),
    place=st.floats(0, 0.999),
    byte=st.integers(0, 255),
    tail=st.binary(max_size=9),
)
def test_binarised_files_that_are_damaged(world, tmp_path_factory, end, share, place, byte, tail):
    copy = shutil.copytree(world.root / "data", tmp_path_factory.mktemp("shard") / "data")
    path = copy / f"valid.de-en.de.{end}"
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] ^= byte or 1
    path.write_bytes(bytes(whole[: int(share * len(whole))]) + tail)
    for name in ("evaluate", "add-symbols"):
        ended = world.call(name, reading(world, name, copy))
        assert ended.status or name == "evaluate"  # which reads the sources alone, and no hashes
    words = ["--split", "valid", "--", copy, "--task", "translation", "-s", "de", "-t", "en", "--max-tokens", "500"]
    world.call("show-batch", [str(word) for word in words])


# ---- what verbs leave for themselves ---------------------------------------------------------------------------------


def whole_files(good):
    """The text of a JSON file of another shape."""
    return st.one_of(tampered(good).map(json.dumps), JUNK.map(json.dumps), st.text(max_size=9))


@settings(max_examples=60, **FIXED)
@given(data=st.data())
def test_results_of_another_shape(world, data):
    good = json.loads((world.root / "results" / "results.json").read_text())
    text = data.draw(whole_files(good)).encode("utf-8", "replace")
    words = ["--results", f"{world.out}/in/results.json", "--output", f"{world.out}/r.html"]
    world.call("report", words, {"in/results.json": text})


@settings(max_examples=15, **FIXED)
@given(data=st.data())
def test_the_record_of_a_direction_of_another_shape(world, data):
    there = {f"e/{path.name}": path.read_bytes() for path in (world.root / "results").glob("hyp.*")}
    good = json.loads(there["e/hyp.de-en.json"])
    there["e/hyp.de-en.json"] = data.draw(whole_files(good)).encode("utf-8", "replace")
    world.call("evaluate", reading(world, "evaluate", world.root / "data"), there)


_made = {}  # verb -> what is in the folder of output of its good command, by path


@pytest.mark.parametrize(
    "name, there",
    [("sample", "s/recipe.json"), ("prepare", "p/manifest.json"), ("mono", "m/manifest.json"),
     ("depth-study", "d/cells/post-1-1-lr0.0005-seed1.json"), ("prepare", "p/.prepare/plan.json"),
     ("prepare", "p/.prepare/step.vocabulary.json"), ("download", "c/download.json")],
)  # fmt: skip
@settings(max_examples=4, **FIXED)
@given(data=st.data())
def test_what_a_verb_wrote_for_itself_of_another_shape(world, name, there, data):
    words = world.words(name)
    if name == "download":
        files, good = {}, {"opus-100-corpus-v1.0.tar.gz": {"url": "x", "files": {"a": 1}}}
    else:
        if name not in _made:
            assert world.call(name, words).status == 0
            _made[name] = {str(path.relative_to(world.out)): path.read_bytes()
                          for path in world.out.rglob("*") if path.is_file()}  # fmt: skip
        files = dict(_made[name])
        manifest = json.loads(files.get("p/manifest.json", b"{}"))
        if ".prepare" in there:  # as a killed command leaves its folder
            del files["p/manifest.json"]
            files["p/.prepare/plan.json"] = json.dumps(manifest["prepare"]).encode()
            names = ["dict.txt", "sentencepiece.model"]
            step = {"rows": 8, "sha256": {of: manifest["sha256"][of] for of in names}}
            files["p/.prepare/step.vocabulary.json"] = json.dumps(step).encode()
        good = json.loads(files[there])
    files[there] = data.draw(whole_files(good)).encode("utf-8", "replace")
    world.call(name, words, files)
