"""The stock task `sentence_prediction` trains `transformer_mlm`, through the real commands."""

import json
import re
import shutil

import pytest
import torch
from fairseq import criterions, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from torch.testing import assert_close

import fairseq_plugins
from fairseq_plugins.models._build_moe import OptionError
from tests.helpers import checkpoint, run_fairseq, succeeded
from tests.models.classification_data import words_for, write_classification_data

fairseq_plugins.register()
NEW = ["--reset-optimizer", "--reset-dataloader", "--reset-meters"]
AS_TRAINED = "--task sentence_prediction --criterion sentence_prediction --valid-subset test --batch-size 32".split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_classification_data(tmp_path_factory.mktemp("texts") / "data")


@pytest.fixture(scope="module")
def pretrained(texts, tmp_path_factory):
    """The checkpoint of a language model of the same texts."""
    run = tmp_path_factory.mktemp("pretrained")
    task = ["--task", "masked_lm", "--criterion", "masked_lm", "--tokens-per-sample", "16", "--max-update", "10"]
    shape = words_for(texts)[words_for(texts).index("--arch") : words_for(texts).index("--log-format")]
    succeeded(run_fairseq("train", texts / "input0", *task, *shape, "--save-dir", run))
    return run / "checkpoint_last.pt"


def train(texts, run, *words):
    return run_fairseq("train", *words_for(texts, "--save-dir", run, *words))


def accuracies(process):
    """Update number -> accuracy on valid."""
    lines = re.findall(r"\| valid \| (\{.*\})", process.stdout + process.stderr)
    return {int(line["valid_num_updates"]): float(line["valid_accuracy"]) for line in map(json.loads, lines)}


def encoder_of(saved):
    return {name: value for name, value in saved["model"].items() if name.startswith("encoder.")}


@pytest.fixture(scope="module")
def classifier(texts, pretrained, tmp_path_factory):
    """(folder, what was printed) of ten epochs from the language model's weights."""
    run = tmp_path_factory.mktemp("classifier")
    return run, succeeded(train(texts, run, "--restore-file", pretrained, *NEW, "--max-epoch", 10))


def test_it_learns_and_goes_on_with_its_own_head(texts, classifier, tmp_path):
    run, first = classifier
    assert "starts at random" in first.stdout + first.stderr
    assert accuracies(first)[130] > 80 and checkpoint(run, "checkpoint_best.pt")["extra_state"]["best"] > 80
    shutil.copytree(run, tmp_path / "run")
    second = succeeded(train(texts, tmp_path / "run", "--max-epoch", 11))
    assert "starts at random" not in second.stdout + second.stderr
    assert list(accuracies(second)) == [143] and accuracies(second)[143] > 80


def test_a_probe_is_validated_by_the_stock_command(texts, pretrained, tmp_path):
    probe = ["--freeze-encoder", "--classification-head", "linear", "--finetune-from-model", pretrained]
    succeeded(train(texts, tmp_path, *probe, "--max-epoch", 1, "--dropout", "0.3", "--weight-decay", "0.1"))
    saved, start = checkpoint(tmp_path), torch.load(pretrained, weights_only=False)
    assert all(torch.equal(value, start["model"][name]) for name, value in encoder_of(saved).items())
    heads = saved["model"].keys() - start["model"].keys()
    assert heads == {f"classification_heads.sentence_classification_head.out_proj.{p}" for p in ("weight", "bias")}
    assert len(saved["last_optimizer_state"]["state"]) == 2
    path = ["--path", tmp_path / "checkpoint_last.pt"]
    found = succeeded(run_fairseq("validate", texts, *path, *AS_TRAINED))
    assert re.search(r"\| test \| .*\| accuracy \d", found.stdout + found.stderr)
    without = run_fairseq("validate", texts, *path, *AS_TRAINED[:2], *AS_TRAINED[4:])
    assert without.returncode != 0 and "InterpolationKeyError" in without.stderr  # docs/fairseq_traps.md


def test_another_number_of_classes_starts_a_new_head(texts, classifier, tmp_path):
    start = ["--num-classes", 3, "--finetune-from-model", classifier[0] / "checkpoint_last.pt"]
    done = succeeded(train(texts, tmp_path, *start, "--max-update", 1))
    assert "starts at random: the checkpoint's has 2 classes and" in done.stdout + done.stderr
    assert len(checkpoint(tmp_path)["model"]["classification_heads.sentence_classification_head.out_proj.bias"]) == 3


@pytest.mark.parametrize("words", [("--num-classes", 3), ("--classification-head", "linear")])
def test_a_training_does_not_go_on_with_a_new_head(texts, classifier, tmp_path, words):
    shutil.copytree(classifier[0], tmp_path / "run")
    refused = train(texts, tmp_path / "run", *words, "--max-epoch", 11)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    says = "optimiser does not know the classification head sentence_classification_head in this shape: give --"
    assert says in refused.stderr.strip().splitlines()[-1]


def test_a_training_does_not_go_on_with_fewer_positions(texts, classifier, tmp_path):
    shutil.copytree(classifier[0], tmp_path / "run")
    refused = train(texts, tmp_path / "run", "--max-positions", 12, "--max-epoch", 11)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.strip().splitlines()[-1] == (
        "the checkpoint's optimiser knows 16 positions and this model has 12: give --max-source-positions 16 "
        "as before, or --reset-optimizer"
    )
    succeeded(train(texts, tmp_path / "run", "--max-positions", 12, "--max-update", 1, *NEW))


def test_too_few_positions_are_one_sentence(texts, pretrained, tmp_path):
    refused = train(texts, tmp_path, "--max-positions", 512, "--finetune-from-model", pretrained, "--max-update", 1)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.strip().splitlines()[-1].startswith(
        "the checkpoint's position table ends at 16 tokens and this model's at 512: give --max-source-positions 16"
    )
    assert not list(tmp_path.glob("*.pt"))


# ---- in this process -------------------------------------------------------------------------------------------------


class Session:
    """Task, model, criterion and a first batch of a `fairseq-train` command line."""

    def __init__(self, texts, *words):
        parser = options.get_training_parser()
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words_for(texts, *words)))
        torch.manual_seed(0)
        self.task = tasks.setup_task(cfg.task)
        self.model = self.task.build_model(cfg.model).eval()
        self.options = cfg.criterion
        self.criterion = criterions.build_criterion(cfg.criterion, self.task)
        self.task.load_dataset("valid")
        dataset = self.task.dataset("valid")
        self.batch = dataset.collater([dataset[i] for i in range(8)])

    def loss(self):
        return self.criterion(self.model, self.batch)


def test_the_task_s_max_positions_are_the_model_s(texts):
    assert Session(texts).model.max_positions() == 16
    assert Session(texts, "--max-source-positions", "12").model.max_positions() == 12


def rows_of(texts, *words):
    dataset = Session(texts, *words).task.dataset("valid")
    return [dataset[index]["net_input.src_tokens"].tolist() for index in range(len(dataset))]


def test_a_text_that_is_cut_loses_its_end(texts):
    """docs/fairseq_traps.md: those that are not cut keep <s> and </s>."""
    whole = rows_of(texts)
    assert all((row[0], row[-1]) == (0, 2) for row in whole)
    shortened = ["--max-positions", "7", "--shorten-method"]
    assert rows_of(texts, *shortened, "truncate") == [row[:7] for row in whole]
    cropped = rows_of(texts, *shortened, "random_crop")
    for row, text in zip(cropped, whole, strict=True):
        assert row == text if len(text) <= 7 else len(row) == 7 and row[-1] != 2
    assert any(row[0] != 0 for row in cropped) and any(row in whole for row in cropped)


def test_regression(texts):
    session = Session(texts, "--regression-target", "--num-classes", "1")
    loss, size, _ = session.loss()
    scores = session.model(**session.batch["net_input"], classification_head_name="sentence_classification_head")[0]
    assert size == 8 and scores.shape == (8, 1)
    assert_close(loss, (scores[:, 0] - session.batch["target"].view(-1)).square().sum())


def test_router_losses_of_a_classifier_with_experts(texts):
    experts = ["--moe-experts", "4", "--moe-freq", "2"]
    session = Session(texts, *experts, "--criterion", "sentence_prediction_with_moe", "--moe-balance-weight", "0.5")
    loss, size, log = session.loss()
    stock = criterions.CRITERION_REGISTRY["sentence_prediction"]
    plain = stock(session.options, session.task)(session.model, session.batch)[0]
    assert_close(loss, plain + 0.5 * size * log["moe_balance"])
    assert log["moe_layers"] == 1 and log["loss"] == plain


def test_the_log_says_what_is_wrong_with_the_options(texts, caplog):
    Session(texts, "--init-token", "2")
    assert "--init-token is not 0: the head reads a text's first token" in caplog.text
    caplog.clear()
    Session(texts)
    assert "--init-token" not in caplog.text
    with pytest.raises(OptionError, match="--num-classes 1: label/dict.txt has 2 labels; give 2"):
        Session(texts, "--num-classes", "1")
