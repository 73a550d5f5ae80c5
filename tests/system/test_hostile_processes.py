"""Bad input to real processes: the modules, the entries that pip installs, and the stock commands with this package."""

import pickle
import subprocess
import sys

import pytest
import torch

from tests.helpers import REPOSITORY, environment, fairseq_words
from tests.hostile_support import snapshot
from tests.system.test_hostile_files import RunsCode

pytestmark = pytest.mark.system

VERB = [sys.executable, "-m", "fairseq_plugins"]
ROAD = [sys.executable, "-m", "fairseq_plugins.opus100"]
CONSOLE = [sys.executable, "-c", "import sys; from fairseq_plugins.__main__ import main; sys.exit(main())"]
TRAIN = (
    "--task translation -s de -t en --arch transformer_mt --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 "
    "--decoder-embed-dim 16 --max-tokens 500 --optimizer adam --lr 0.001 --max-update 1 --cpu --save-dir {out}/r"
).split()
STOCK_TRAIN = fairseq_words("train", "{data}", *TRAIN)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Files that nobody should take."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "noise.pt").write_bytes(bytes(range(256)) * 99)
    torch.save({"model": {}, "args": RunsCode(folder / "canary")}, folder / "evil.pt")
    (folder / "pickle.pt").write_bytes(pickle.dumps(RunsCode(folder / "canary")))
    (folder / "list").mkdir()
    (folder / "list" / "manifest.json").write_text("[" * 10_000)
    return folder


def ended_badly(world, words, cwd, says):
    """Run a command; see that it ends with one sentence and leaves everything as it was."""
    there = {"{out}": world.out, **{f"{{{name}}}": world.root / name for name in ("data", "run", "corpus", "results")}}
    filled = []
    for word in map(str, words):
        for name, path in there.items():
            word = word.replace(name, str(path))
        filled.append(word)
    before = snapshot(cwd.parent)
    process = subprocess.run(
        filled, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=300
    )
    said = process.stderr.decode()
    assert process.returncode not in (0, -6, -9, -11) and "Traceback" not in said, said
    assert says in said.strip().splitlines()[-1], said
    assert snapshot(world.root) == world.files and snapshot(cwd.parent) == before


@pytest.mark.parametrize(
    "words, says",
    [
        ([*VERB], "VERB"),
        ([*VERB, "dance"], "'dance'"),
        ([*VERB, "average", "{bad}/evil.pt", "{bad}/evil.pt", "--output", "{out}/a.pt"], "could run code when loaded"),
        ([*VERB, "export", "{bad}/noise.pt", "--to", "fairseq", "--output", "{out}/e.pt"], "noise.pt is truncated"),
        ([*VERB, "translate", "--tgt", "../x", "--model", "{run}/checkpoint_best.pt", "--data", "{data}"],
         "--tgt ../x"),
        ([*VERB, "show-batch", "--", "/no/such", "--task", "translation", "-s", "de", "-t", "en"],
         "found no train data"),
        ([*VERB, "moe-inspect", "{run}/checkpoint_best.pt", "{data}", "--max-tokens", "nan"], "--max-tokens"),
        ([*CONSOLE, "merge-experts", "{bad}/pickle.pt", "--output", "{out}/m.pt"], "pickle.pt"),
        ([*ROAD, "prepare", "--corpus", "{corpus}", "--out", "{out}/p", "--temperature", "inf"], "--temperature"),
        ([*ROAD, "prepare", "--corpus", "{corpus}", "--out", "{data}/dict.txt/below"], "dict.txt"),
        ([*ROAD, "prepare", "--corpus", "{corpus}", "--out", b"\xff".decode("utf-8", "surrogateescape")], "not UTF-8"),
        ([*ROAD, "mono", "--data", "{bad}/list", "--text", "de=x", "--out", "{out}/m"], "x is not a file"),
        ([*ROAD, "evaluate", "--data", "{bad}/list", "--run", "{run}", "--output", "{out}/e"],
         "manifest.json is damaged"),
        ([*ROAD, "download", "--out", "{out}/c", "--pairs", "../x-en", "--parquet"], "--pairs '../x-en'"),
        ([*ROAD, "report", "--results", "{bad}/list/manifest.json", "--output", "{out}/r.html"], "manifest.json"),
        ([*ROAD, "train", "--data", "{data}", "--run", "{out}/r", "--max-positions", "40", "--arch", "no_such_arch"],
         "fairseq-train ended with status"),
        ([*STOCK_TRAIN, "--dropout", "nan"], "--dropout nan"),
        ([*STOCK_TRAIN, "--encoder-embed-dim", "-1"], "--encoder-embed-dim -1"),
        ([*STOCK_TRAIN, "--restore-file", "{bad}/evil.pt"], "could run code when loaded"),
        ([*fairseq_words("generate", "{data}", "--path", "{bad}/noise.pt", "--cpu")], "noise.pt is truncated"),
    ],
)  # fmt: skip
def test_a_process_ends_with_one_sentence(world, bad, tmp_path, words, says):
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    world.out.mkdir(exist_ok=True)
    ended_badly(world, [word.replace("{bad}", str(bad)) for word in words], cwd, says)
    assert not (bad / "canary").exists()


def test_the_entry_points_are_the_mains_that_are_tested():
    text = (REPOSITORY / "setup.py").read_text()
    assert '"fairseq-plugins=fairseq_plugins.__main__:main"' in text
    assert '"fairseq-opus100=fairseq_plugins.opus100.__main__:main"' in text
