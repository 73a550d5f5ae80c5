"""unilmv2_seq2seq through the real commands: it starts from a masked LM, and never needs that file again."""

import shutil

import pytest
import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from tests.helpers import checkpoint, run_fairseq, succeeded, training_losses
from tests.models_support import build, model_config
from tests.opus100.road import prepared_folder, verb

SHAPE = "--encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 --encoder-attention-heads 4".split()
COMMON = "--optimizer adam --num-workers 0 --seed 1 --log-format json --log-interval 1 --max-tokens 400".split()
NOISE = "--leave-unmasked-prob 0.1 --random-token-prob 0.1 --target-mask-prob 0.5".split()


def save_masked_lm(folder, words, positions):
    """PMLM.pt of random weights, and its dictionary, in `folder`."""
    flags = [*SHAPE, "--max-source-positions", str(positions)]
    torch.manual_seed(3)
    model = build("unilmv2_tiny", words, *flags, task="masked_lm")
    options = OmegaConf.to_container(model_config("unilmv2_tiny", *flags, task="masked_lm").model, enum_to_str=True)
    folder.mkdir()
    cfg = {"model": options, "task": {"_name": "pseudo_masked_lm"}}
    torch.save({"cfg": cfg, "model": model.state_dict()}, folder / "PMLM.pt")
    words.save(str(folder / "dict.txt"))
    return folder / "PMLM.pt"


@pytest.fixture(scope="module")
def pseudo_masked(data):
    """The data with both masks at the end of its dictionaries."""
    for language in ("de", "en"):
        with open(data / f"dict.{language}.txt", "a", encoding="utf-8") as file:
            file.write("<mask> 1\n<pseudo_mask> 1\n")
    return data


def words_of(data, run, updates, *words):
    model = ["--arch", "unilmv2_seq2seq_tiny", *SHAPE, "--max-source-positions", "31", "--max-target-positions", "32"]
    task = "--task translation -s de -t en --criterion label_smoothed_cross_entropy --label-smoothing 0.1".split()
    return [data, *task, *model, *COMMON, *NOISE, "--save-dir", run, "--max-update", updates, "--lr", "1e-9", *words]


@pytest.mark.slow
def test_fine_tuned_interrupted_resumed_and_translated(pseudo_masked, tmp_path):
    source = save_masked_lm(tmp_path / "pretrained", Dictionary.load(str(pseudo_masked / "dict.de.txt")), 64)
    start, run, other = ["--pretrained-checkpoint", source], tmp_path / "run", tmp_path / "other"
    trained = succeeded(
        run_fairseq("train", *words_of(pseudo_masked, run, 4, *start, "--save-interval-updates", "2"))
    )
    assert "PMLM.pt: 2 layers, rows of" in trained.stderr + trained.stdout
    theirs, ours = checkpoint(source.parent, "PMLM.pt")["model"], checkpoint(run)["model"]
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():  # the learning rate moves nothing visibly
        first = 2 if name == "encoder.embed_positions.weight" else 0  # rows before are never used
        torch.testing.assert_close(ours[name][first:], value[first:], atol=1e-6, rtol=1e-5)
    shutil.rmtree(source.parent)

    other.mkdir()
    shutil.copy(run / "checkpoint_1_2.pt", other / "checkpoint_last.pt")
    resumed = succeeded(run_fairseq("train", *words_of(pseudo_masked, other, 4, *start)))
    assert "not read" not in resumed.stderr + resumed.stdout
    losses = training_losses(trained)
    assert len(losses) == 4 and training_losses(resumed) == {update: losses[update] for update in (3, 4)}
    for name, value in checkpoint(other)["model"].items():
        assert torch.equal(value, ours[name]), name

    words = ["--path", run / "checkpoint_last.pt", "--gen-subset", "test", "--beam", "3", "--max-len-b", "10"]
    generated = succeeded(run_fairseq("generate", pseudo_masked, "-s", "de", "-t", "en", *words))
    assert generated.stdout.count("\nH-") == 11

    refused = run_fairseq("train", *words_of(pseudo_masked, tmp_path / "fresh", 2, *start))
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith(f"--pretrained-checkpoint {source} does not exist")


@pytest.mark.slow
@pytest.mark.parametrize("tags", ["target", "source+target"])
def test_train_and_evaluate(tmp_path, tags):
    """All directions of a prepared corpus, with tags before the source alone, or before the target too."""
    data = prepared_folder(tmp_path, vocab_size=200, tags=tags)
    source = save_masked_lm(tmp_path / "pretrained", Dictionary.load(str(data / "dict.txt")), 100)
    fairseq = [*SHAPE, "--pretrained-checkpoint", source]
    words = ["--data", data, "--run", tmp_path / "run", "--arch", "unilmv2_seq2seq_tiny", "--max-tokens", 500,
             "--max-positions", 40, "--save-interval-updates", 1000, "--threads", 1, "--cpu"]  # fmt: skip
    assert verb("train", *words, "--max-update", 4, "--", *fairseq) == 0
    shutil.rmtree(source.parent)
    assert verb("train", *words, "--max-update", 6, "--", *fairseq) == 0
    output = tmp_path / "evaluated"
    search = ["--max-len", 12, "--beam", 2, "--workers", 1, "--cpu", "--directions", "de-en"]
    assert verb("evaluate", "--data", data, "--run", tmp_path / "run", "--output", output, *search) == 0
    assert (output / "hyp.de-en.en").read_text().count("\n") == 20
