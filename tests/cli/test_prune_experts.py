"""`python -m fairseq_plugins prune-experts` on checkpoints of fairseq-train, compared by fairseq-generate."""

import json
import re
import shutil

import pytest
import torch

from fairseq_plugins.__main__ import main
from tests.helpers import checkpoint, run_fairseq, succeeded, train_words

MODEL = (
    "--arch deepnet_mt_tiny --encoder-layers 2 --decoder-layers 2 --dropout 0 --criterion "
    "label_smoothed_cross_entropy_with_moe --encoder-embed-dim 16 --encoder-ffn-embed-dim 16 "
    "--encoder-attention-heads 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 2 "
    "--moe-experts 4 --moe-freq 2 --moe-capacity-factor 0 --moe-gate sigmoid --disable-validation"
).split()
PRUNE = "--moe-prune eager --moe-prune-updates 8 --moe-prune-windows 2 --moe-prune-gate-one".split()


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A pre-trained model in `pretrained`, and the same fine-tuned to one expert per layer in `tuned`."""
    folder = tmp_path_factory.mktemp("runs")
    start = folder / "pretrained" / "checkpoint_last.pt"
    for run, updates, words in (("pretrained", 40, []), ("tuned", 8, ["--finetune-from-model", start, *PRUNE])):
        succeeded(run_fairseq("train", *train_words(data, folder / run, updates, *words, model=MODEL)))
    return folder


@pytest.fixture(scope="module")
def dense(runs):
    path = runs / "dense.pt"
    assert prune_experts(runs / "tuned" / "checkpoint_last.pt", path) == 0
    return path


def prune_experts(path, output):
    return main(["prune-experts", str(path), "--output", str(output)])


def hypotheses(data, path):
    """(number, tokens) and scores of every hypothesis that fairseq-generate prints."""
    words = [data, "-s", "de", "-t", "en", "--path", path, "--beam", 3, "--nbest", 2, "--max-tokens", 300]
    printed = succeeded(run_fairseq("generate", *words)).stdout
    found = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", printed, re.M)
    return [(number, text) for number, _, text in found], torch.tensor([float(score) for _, score, _ in found])


def test_generation_is_the_same(data, runs, dense):
    texts, scores = hypotheses(data, runs / "tuned" / "checkpoint_last.pt")
    dense_texts, dense_scores = hypotheses(data, dense)
    assert len(texts) == 22 and dense_texts == texts and len(set(text for _, text in texts)) > 2
    torch.testing.assert_close(dense_scores, scores, atol=1e-6, rtol=0)


def test_the_result_is_a_dense_checkpoint(runs, dense):
    tuned, pruned = checkpoint(runs / "tuned"), checkpoint(runs, "dense.pt")
    assert not [name for name in pruned["model"] if ".router." in name or ".experts." in name or ".pruning." in name]
    model = pruned["cfg"]["model"]
    assert model["moe_experts"] == 0 and model["moe_freq"] == 0 and model["moe_prune"] == "none"
    unchanged = {name: value for name, value in model.items() if not name.startswith("moe_")}
    assert unchanged == {name: tuned["cfg"]["model"][name] for name in unchanged} and model["residual"] == "deepnorm"
    assert "last_optimizer_state" not in pruned and "expert_shard" not in pruned["extra_state"]


def test_the_result_says_which_data_it_was_trained_from(runs, tmp_path):
    """As `opus100 train` leaves it beside its checkpoints, so that `opus100 evaluate` can compare."""
    bound = {"sha256": {"dict.txt": "d", "sentencepiece.model": "m"}, "tag_scheme": "target"}
    shutil.copy(runs / "tuned" / "checkpoint_last.pt", tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(bound))
    (tmp_path / "elsewhere").mkdir()
    assert prune_experts(tmp_path / "checkpoint_last.pt", tmp_path / "elsewhere" / "dense.pt") == 0
    assert checkpoint(tmp_path / "elsewhere", "dense.pt")["extra_state"]["fairseq_plugins"] == bound


def test_the_result_can_be_trained_on(data, dense, tmp_path):
    shape = MODEL[: MODEL.index("--moe-experts")]
    words = train_words(data, tmp_path, 1, "--finetune-from-model", dense, "--disable-validation", model=shape)
    assert "--moe-freq" not in words
    succeeded(run_fairseq("train", *words))
    assert checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"] == 1


def spoil(runs, folder):
    """One checkpoint per reason to refuse."""
    state = checkpoint(runs / "tuned")
    options = state["cfg"]["model"]
    for name, change in (
        ("free", {}),
        ("capacity", {"moe_eval_capacity_factor": 2.0}),
        ("stock", None),
    ):
        model = {**options, **(change or {})}
        if change is None:
            model = {key: value for key, value in model.items() if not key.startswith("moe_")}
        parameters = dict(state["model"])
        if name == "free":
            parameters = {
                key: torch.tensor(False) if key.endswith("gate_is_one") else value for key, value in parameters.items()
            }
        torch.save({**state, "model": parameters, "cfg": {**state["cfg"], "model": model}}, folder / f"{name}.pt")


@pytest.mark.parametrize(
    "path, says",
    [
        ("{runs}/pretrained/checkpoint_last.pt", "encoder.layers.1 has 4 experts left: fine-tune with --moe-prune"),
        ("{folder}/free.pt", "encoder.layers.1 has a sigmoid gate"),
        ("{folder}/capacity.pt", "drops tokens over its --moe-eval-capacity-factor 2.0"),
        ("{folder}/stock.pt", "is no checkpoint with --moe-experts"),
        ("{runs}/dense.pt", "dense already"),
        ("{folder}/absent.pt", "absent.pt does not exist"),
    ],
)
def test_what_cannot_become_dense_is_one_sentence_and_writes_nothing(runs, dense, tmp_path, capsys, path, says):
    spoil(runs, tmp_path)
    path = path.format(runs=runs, folder=tmp_path)
    assert prune_experts(path, tmp_path / "out.pt") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and path in error and error.count("\n") == 1 and says in error
    assert not (tmp_path / "out.pt").exists()
