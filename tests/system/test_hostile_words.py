"""Names that are paths, pairs that are none, URLs that nobody has, archives that write elsewhere, options of models."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile_support import FIXED, World, snapshot

PATHS = ["../x", "/etc", "a/b", "..", ".", "", " ", "-", "a-", "x y", "de\u2028", "\u0441", "a\nb", "\\", "~", "*",
         "9x", "__de__", "\U0001f600", "x" * 5000]  # fmt: skip
NAMES = st.one_of(st.sampled_from(PATHS), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
PAIRS = st.one_of(
    NAMES, st.builds("{}-{}".format, NAMES, NAMES), st.sampled_from(["de", "de-", "-en", "de--en", "de-en-fr"])
)
NO_NAMES = NAMES.filter(lambda name: name.split() not in (["de"], ["en"], ["fr"]))
KNOWN = {"de-en", "en-de", "en-fr", "fr-en"}
NO_PAIRS = PAIRS.filter(lambda pair: not pair.strip(" ,") or not KNOWN.issuperset(pair.replace(",", " ").split()))


@pytest.mark.parametrize("name", ["prepare", "audit"])
@settings(max_examples=12, **FIXED)
@given(word=NO_NAMES, pair=NO_PAIRS)
def test_languages_and_pairs_of_a_corpus(world, name, word, pair):
    assert "--pairs" in world.refused(name, world.words(name, f"--pairs={pair}"))
    assert "--pivot" in world.refused(name, world.words(name, f"--pivot={word}")) or "NUL" in word
    if word.replace(",", " ").split():
        assert "--languages" in world.refused(name, world.words(name, f"--languages={word}"))


@settings(max_examples=12, **FIXED)
@given(pair=NO_PAIRS)
def test_pairs_of_a_file(world, tmp_path_factory, pair):
    path = tmp_path_factory.mktemp("pairs") / "pairs"
    path.write_text(pair, encoding="utf-8")
    world.refused("prepare", world.words("prepare", f"--pairs-file={path}"))


@pytest.mark.parametrize("how", [[], ["--parquet", "--parquet-url", "{archives}"]], ids=["archives", "parquet"])
@settings(max_examples=25, **FIXED)
@given(pair=NO_PAIRS)
def test_pairs_that_would_be_paths_are_never_fetched(world, how, pair):
    words = [word.format(archives=world.root / "archives") for word in how]
    world.refused("download", world.words("download", f"--pairs={pair}", *words))
    below = {name.split("/")[1] for name in snapshot(world.out) if name.count("/") == 1}
    assert below <= {".download"}


@settings(max_examples=12, **FIXED)
@given(word=NO_NAMES)
def test_languages_of_a_model_and_of_text(world, word):
    assert "--tgt" in world.refused("translate", world.words("translate", f"--tgt={word}"))
    assert "--src" in world.refused("translate", world.words("translate", f"--src={word}"))
    assert "--text" in world.refused("mono", world.words("mono", f"--text={word}={world.root}/text.txt"))
    if word.replace(",", " ").split():
        world.refused("add-symbols", world.words("add-symbols", f"--languages={word}/"))


@settings(max_examples=12, **FIXED)
@given(word=NO_PAIRS.filter(lambda word: word not in ("de-fr", "fr-de", "supervised", "zero-shot")))
def test_directions_and_names_of_systems(world, word):
    for name in ("evaluate", "compare", "moe-inspect"):
        assert "--directions" in world.refused(name, world.words(name, f"--directions={word}"))
    for name, flag in (("compare", "--baseline"), ("compare", "--gain-of"), ("report", "--baseline")):
        if word:
            assert flag in world.refused(name, world.words(name, f"{flag}={word}"))


@pytest.mark.parametrize(
    "name, flag, words",
    [
        ("train", "--sampling", ["", "x", "temperature", "temperature:", "temperature:0", "temperature:inf", "concat:1",
                                 "temperature:nan", "ramp:1:inf:5", "ramp:5:1:5", "ramp:1:5:\u00b2", "ramp:1:5:-1"]),
        ("train", "--arch", ["", "../x", "a b", "a\nb", "-"]),
        ("depth-study", "--shape", ["", "8", "8-8", "8-8-3", "7-8-1", "0-0-0", "a-b-c", "-1-8-2", "9999998-8-2"]),
        ("depth-study", "--residual", ["", "x", "../post"]),
        ("mono", "--text", ["", "de", "de=", "=x", "de=/", "de=a,,b", "de=/dev/null/x"]),
        ("show-batch", "--split", ["", "../train", "x"]),
        ("download", "--base-url", ["", "http://[", "http://h:x/", "http://127.0.0.1:99999", "http://a b", "gopher://x",
                                    "http://127.0.0.1:1", "file://", "file:///etc", "http://\u2028/", "://"]),
    ],
)  # fmt: skip
def test_words_with_a_form_of_their_own(world, name, flag, words):
    for word in words:
        words_of_verb = [of for of in world.words(name) if not (name == "mono" and of.startswith("de="))]
        if name == "mono":
            words_of_verb.remove("--text")
        cut = words_of_verb.index("--") if "--" in words_of_verb else len(words_of_verb)
        world.refused(name, [*words_of_verb[:cut], f"{flag}={word}", *words_of_verb[cut:]])


# ---- archives --------------------------------------------------------------------------------------------------------

GOOD_NAME = "opus-100-corpus/v1.0/supervised/de-en/opus.de-en-train.de"


def member(name, kind=tarfile.REGTYPE, link=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
    return found


def archive_of(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for found in members:
            tar.addfile(found, io.BytesIO(b"x\n") if found.size else None)
    return out.getvalue()


def unpacking(world: World, tmp_path, data):
    """Download from a folder that holds these bytes as the corpus."""
    folder = tmp_path / "from"
    folder.mkdir(exist_ok=True)
    (folder / "opus-100-corpus-v1.0.tar.gz").write_bytes(data)
    before = snapshot(tmp_path)
    said = world.refused("download", ["--out", f"{world.out}/c", "--base-url", str(folder)])
    assert snapshot(tmp_path) == before
    return said


@pytest.mark.parametrize(
    "hostile",
    [member("../../opus.de-en-train.de"), member("a/../../../../opus.de-en-train.de"),
     member("x", tarfile.SYMTYPE, "/etc/passwd"), member(GOOD_NAME, tarfile.SYMTYPE, "../../../../../../etc/passwd"),
     member(GOOD_NAME, tarfile.LNKTYPE, "/etc/passwd"), member(GOOD_NAME, tarfile.LNKTYPE, "../../../../../x"),
     member(GOOD_NAME, tarfile.CHRTYPE), member(GOOD_NAME, tarfile.BLKTYPE), member(GOOD_NAME, tarfile.FIFOTYPE),
     member("opus-100-corpus/link", tarfile.SYMTYPE, ".")],
    ids=["up", "down and up", "symlink", "symlink up", "hard link", "hard link up", "device", "block device", "pipe",
         "link inside"],
)  # fmt: skip
def test_members_that_reach_elsewhere(world, tmp_path, hostile):
    said = unpacking(world, tmp_path, archive_of(member(GOOD_NAME), hostile))
    assert "is not to be trusted" in said
    assert not any(path.is_symlink() for path in world.out.rglob("*"))


def test_an_absolute_path_lands_in_the_layout(world, tmp_path):
    """Python's own filter makes it a relative one; only its last name decides where it goes."""
    folder = tmp_path / "from"
    folder.mkdir()
    found = member(f"{tmp_path}/elsewhere/opus.de-en-train.de")
    (folder / "opus-100-corpus-v1.0.tar.gz").write_bytes(archive_of(found))
    assert world.call("download", ["--out", f"{world.out}/c", "--base-url", str(folder)]).status == 0
    assert (world.out / "c" / GOOD_NAME).read_bytes() == b"x\n" and not (tmp_path / "elsewhere").exists()


@settings(max_examples=15, **FIXED)
@given(share=st.floats(0, 0.99), place=st.floats(0, 0.99), byte=st.integers(0, 255), packed=st.booleans())
def test_archives_that_are_cut_off_or_noise(world, tmp_path_factory, share, place, byte, packed):
    data = bytearray(archive_of(*[member(GOOD_NAME.replace("train", split)) for split in ("train", "dev")]))
    if not packed:
        data = bytearray(b"\x00" * 100 + bytes(data))
    data[int(place * len(data))] ^= byte or 1
    unpacking(world, tmp_path_factory.mktemp("noise"), bytes(data[: int(share * len(data))]))
