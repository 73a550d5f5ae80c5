"""Damaged, foreign and tampered files: one sentence or, where nothing of it is read, none; never a lost file."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile_support import FIXED, options, tampered

INPUTS = [option for option in options() if option.action.type is Path and "out" not in option.action.dest
          and option.flag not in ("--run", "--picture")]  # fmt: skip
OUTPUTS = [option for option in options() if option.action.type is Path and option not in INPUTS]
# any text is text, a folder without hypotheses has none to score, and one without a log has no curves
TAKEN = {("encode", "--inputs", "empty"), ("encode", "--inputs", "list.json"), ("encode", "--inputs", "deep.json"),
         ("report", "--runs", "folder")}  # fmt: skip


def name_of(option):
    return f"{option.verb} {option.flag}"


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Files that no verb can use."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").touch()
    (folder / "noise").write_bytes(bytes(range(256)) * 40)
    (folder / "list.json").write_text("[1, 2, 3]")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "tensor.pt").write_bytes(b"")
    torch.save(torch.ones(3), folder / "tensor.pt")
    (folder / "folder").mkdir()
    (folder / "folder" / "manifest.json").write_text('{"sha256": {}}')
    (folder / "folder" / "dict.txt").write_text("\u2028\n")
    (folder / "folder" / "results.json").write_text('{"directions": 7}')
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("option", INPUTS, ids=name_of)
@pytest.mark.parametrize("kind", ["missing", "empty", "noise", "list.json", "deep.json", "tensor.pt", "folder", "loop"])
def test_what_is_read_is_something_else(world, bad, option, kind):
    words = world.with_value(option, str(bad / kind))
    ended = world.call(option.verb, words)
    assert (ended.status == 0) == ((option.verb, option.flag, kind) in TAKEN)


@pytest.mark.parametrize("option", OUTPUTS, ids=name_of)
def test_what_is_written_is_below_a_file(world, option):
    words = world.with_value(option, f"{world.root}/text.txt/below")
    world.refused(option.verb, [word for word in words if word not in ("--dry-run", "--cpu")])


# ---- checkpoints -----------------------------------------------------------------------------------------------------

QUICKLY = "--directions de-en --subset dev --beam 1 --max-len 2 --workers 1 --identifier script".split()
READERS = [
    ("average", lambda path: [path, path, "--output", "{out}/a.pt"]),
    ("export", lambda path: [path, "--to", "fairseq", "--output", "{out}/e.pt"]),
    ("export", lambda path: [path, "--to", "huggingface", "--output", "{out}/h"]),
    ("export", lambda path: [path, "--to", "ctranslate2", "--data", "{data}", "--output", "{out}/c"]),
    ("export", lambda path: [path, "--to", "generator", "--output", "{out}/g.pt"]),
    ("prune-experts", lambda path: [path, "--output", "{out}/p.pt"]),
    ("merge-experts", lambda path: [path, "--ranks", "2", "--output", "{out}/m.pt"]),
    ("moe-inspect", lambda path: [path, "{data}", "--output", "{out}/i", "--cpu"]),
    ("translate", lambda path: ["--tgt", "de", "--model", path, "--data", "{data}", "--cpu"]),
    ("evaluate", lambda path: ["--data", "{data}", "--checkpoint", path, "--output", "{out}/e", "--cpu", *QUICKLY]),
    ("add-symbols", lambda path: ["--data", "{data}", "--out", "{out}/n", "--checkpoint", path]),
    ("train", lambda path: ["--data", "{data}", "--run", "{out}/r", "--arch", "transformer", "--init-from", path]),
]
READER_NAMES = [f"{name} {number}" for number, (name, _) in enumerate(READERS)]


def reading(world, reader, path):
    name, words = reader
    return name, [word.format(out=world.out, data=world.root / "data") for word in words(str(path))]


class RunsCode:
    """What a hostile checkpoint holds: unpickled without care it makes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("reader", READERS, ids=READER_NAMES)
@pytest.mark.parametrize("how", ["torch", "pickle", "old torch"])
def test_a_checkpoint_that_would_run_code_runs_none(world, tmp_path, reader, how):
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    evil = {"model": {}, "cfg": {}, "extra_state": RunsCode(canary)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=how == "torch")
    said = world.refused(*reading(world, reader, path))
    assert not canary.exists()
    assert str(path) in said
    if how != "pickle":
        assert "could run code when loaded; nothing was loaded" in said


@pytest.mark.parametrize("reader", READERS, ids=READER_NAMES)
@settings(max_examples=4, **FIXED)
@given(share=st.floats(min_value=0, max_value=0.999), flipped=st.none() | st.integers(0, 255))
def test_a_checkpoint_that_is_cut_off(world, tmp_path_factory, reader, share, flipped):
    whole = (world.root / "moe" / "checkpoint_best.pt").read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.pt"
    data = bytearray(whole[: int(share * len(whole))])
    if flipped is not None and data:
        data[len(data) // 2] = flipped
    path.write_bytes(data)
    assert str(path) in world.refused(*reading(world, reader, path))


@pytest.mark.parametrize("reader", READERS, ids=READER_NAMES)
@settings(max_examples=6, **FIXED)
@given(data=st.data())
def test_a_checkpoint_with_something_else_in_it(world, tmp_path_factory, reader, data):
    """Some places are never read, so that it may still be taken."""
    kind = "moe" if reader[0] in ("prune-experts", "merge-experts", "moe-inspect") else "run"
    good = torch.load(world.root / kind / "checkpoint_best.pt", weights_only=False)
    good["last_optimizer_state"] = None
    path = tmp_path_factory.mktemp("tampered") / "checkpoint.pt"
    torch.save(data.draw(tampered(good)), path)
    name, words = reading(world, reader, path)
    world.call(name, [*words, *(["--dry-run"] if name == "train" else [])])
