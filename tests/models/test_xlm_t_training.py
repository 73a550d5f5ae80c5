"""xlm_t through the real commands: it starts from a masked language model, and never needs that file again."""

import shutil

import pytest
import torch

from tests.helpers import checkpoint, run_fairseq, succeeded

SHAPE = "--encoder-layers 3 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 4".split()
COMMON = "--optimizer adam --num-workers 0 --seed 1 --log-format json --log-interval 1 --max-tokens 400".split()


@pytest.fixture(scope="module")
def masked_lm(data, tmp_path_factory):
    """A `transformer_mlm` of two updates on the English side, beside the data that it was trained from."""
    folder = tmp_path_factory.mktemp("masked_lm")
    shutil.copy(data / "dict.en.txt", folder / "dict.txt")
    for split in ("train", "valid"):
        for kind in ("bin", "idx"):
            shutil.copy(data / f"{split}.de-en.en.{kind}", folder / f"{split}.{kind}")
    words = ["--task", "masked_lm", "--criterion", "masked_lm", "--arch", "transformer_mlm_base", *SHAPE, *COMMON]
    words += "--lr 0.01 --tokens-per-sample 64 --sample-break-mode complete --max-update 2".split()
    succeeded(run_fairseq("train", folder, *words, "--save-dir", folder))
    return folder


def words_of(data, run, updates, *words):
    """A multilingual training; the learning rate moves no weight visibly, so that one sees where they come from."""
    task = "--task translation_multi_simple_epoch --langs de,en --lang-pairs de-en --encoder-langtok tgt"
    model = "--arch xlm_t_tiny --max-source-positions 64 --max-target-positions 32 --lr 1e-9 --dropout 0.1"
    return [data, *task.split(), *model.split(), *COMMON, "--save-dir", run, "--max-update", updates, *words]


@pytest.mark.slow
@pytest.mark.parametrize("precision", [[], ["--bf16"]], ids=["float32", "bf16"])
def test_a_masked_lm_becomes_a_translation_model(data, masked_lm, tmp_path, precision):
    source, run = tmp_path / "source", tmp_path / "run"
    shutil.copytree(masked_lm, source)
    start = ["--init-encoder", source / "checkpoint_last.pt", "--init-decoder", source / "checkpoint_last.pt"]
    trained = succeeded(run_fairseq("train", *words_of(data, run, 2, *start, *precision)))
    assert "layers [0, 1, 2], rows of 47 of 50 symbols" in trained.stderr + trained.stdout  # not padding, nor two tags
    theirs = checkpoint(source)["model"]
    shutil.rmtree(source)

    def check_weights():
        ours = checkpoint(run)["model"]
        taken = [name for name in theirs if ".layers." in name or "layernorm_embedding" in name]
        assert len(taken) == 3 * 16 + 2
        for name in taken:
            for side in ("encoder", "decoder"):
                found = ours[name.replace("encoder.", f"{side}.", 1)]
                torch.testing.assert_close(found, theirs[name], atol=1e-5, rtol=1e-2 if precision else 1e-6)

    check_weights()
    resumed = succeeded(run_fairseq("train", *words_of(data, run, 3, *start, *precision)))
    assert "Loaded checkpoint" in resumed.stderr + resumed.stdout and checkpoint(run)["optimizer_history"][-1]
    check_weights()
    assert "not read" not in resumed.stderr + resumed.stdout
    tuning = ["--finetune-from-model", run / "checkpoint_last.pt"]
    tuned = succeeded(run_fairseq("train", *words_of(data, tmp_path / "tuned", 1, *start, *tuning, *precision)))
    assert "not read, as a checkpoint has given the model its weights" in tuned.stderr + tuned.stdout

    task = "--task translation_multi_simple_epoch --langs de,en --lang-pairs de-en --encoder-langtok tgt".split()
    words = [*task, "-s", "de", "-t", "en", "--path", run / "checkpoint_last.pt", "--gen-subset", "test", "--beam", "2"]
    generated = succeeded(run_fairseq("generate", data, *words, "--max-len-b", "10"))
    assert generated.stdout.count("\nH-") == 11

    refused = run_fairseq("train", *words_of(data, tmp_path / "fresh", 2, *start))
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    assert refused.stderr.strip().splitlines()[-1] == (
        f"--init-decoder {source / 'checkpoint_last.pt'} does not exist; give a checkpoint, or a folder that holds one"
    )
