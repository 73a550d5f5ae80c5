"""Validation by direction: fixed samples, numbers that agree with sacreBLEU and the stock task, best checkpoint."""

import argparse
import json
import math
import re

import pytest
import sacrebleu
import torch
from fairseq import checkpoint_utils, options, tasks

import fairseq_plugins
from fairseq_plugins.compat import Refusal
from fairseq_plugins.opus100.facts import checkpoint_facts
from fairseq_plugins.opus100.run_folder import quiet_engine
from tests.helpers import run_fairseq, succeeded
from tests.opus100.corpora import write_corpus
from tests.opus100.road import train_words, verb

POSITIONS = "--max-source-positions", "99", "--max-target-positions", "99"
DIRECTIONS = ["de-en", "en-de", "en-fr", "fr-en", "en-ru", "ru-en"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validated")
    write_corpus(folder / "corpus")
    words = ["--corpus", folder / "corpus", "--out", folder / "data", "--vocab-size", 150, "--workers", 1]
    assert verb("prepare", *words, "--tags", "source+target") == 0
    return folder / "data"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A short training that translates its samples, and keeps the checkpoint with the best mean of BLEU."""
    folder = tmp_path_factory.mktemp("run") / "run"
    best = "--best-checkpoint-metric", "macro_bleu", "--maximize-best-checkpoint-metric"
    words = train_words(data, folder, 12, *best, save_every=6)
    own = "--valid-lines", 7, "--valid-scores", "bleu,sentence_chrf"
    assert verb(*words[:3], *own, *words[3:]) == 0
    return folder


def made_task(data, name, *words):
    with quiet_engine():
        fairseq_plugins.register()
        command = [str(data), "--task", name, "--arch", "transformer", *POSITIONS, *words]
        command += ["--lang-pairs", str(data / "lang_pairs.txt"), "--encoder-langtok", "src", "--decoder-langtok"]
        command += ["--lang-dict", str(data / "languages.txt"), "--fixed-dictionary", str(data / "dict.txt")]
        return tasks.setup_task(options.parse_args_and_arch(options.get_training_parser(), command))


def test_samples_are_fixed_and_batches_have_one_direction(data):
    task = made_task(data, "translation_multi_validated", "--valid-lines", "5")
    whole = made_task(data, "translation_multi_validated", "--valid-lines", "0")
    with quiet_engine():
        task.load_dataset("valid")
        whole.load_dataset("valid")
        iterators = [task.get_batch_iterator(task.dataset("valid"), max_tokens=60, epoch=epoch) for epoch in (1, 2)]
        batches = [list(iterator.next_epoch_itr(shuffle=False)) for iterator in iterators]
    assert not hasattr(whole.dataset("valid"), "rows"), "0: the stock data set"
    assert len(task.dataset("valid")) == 5 * len(DIRECTIONS)
    assert len(batches[0]) > len(DIRECTIONS), "some directions need two"
    for one, two in zip(*batches, strict=True):
        assert one["direction"] == two["direction"] and torch.equal(one["target"], two["target"])
        source, target = one["direction"].split("-")
        tag = task.dicts[source].index(f"__{source}__"), task.dicts[target].index(f"__{target}__")
        assert (one["net_input"]["src_tokens"] == tag[0]).any(1).all() and (one["target"][:, 0] == tag[1]).all()
    assert sum(len(batch["target"]) for batch in batches[0]) == 5 * len(DIRECTIONS)
    assert task.dataset("valid").rows[0].tolist() == sorted(set(task.dataset("valid").rows[0].tolist()))
    spread = task.dataset("valid").datasets[0]
    assert task.dataset("valid").rows[0][-1] == len(spread) - 1, "from the first line to the last"


def test_training_examples_are_the_stock_tasks(data):
    seen = []
    for name in ("translation_multi_validated", "translation_multi_simple_epoch"):
        task = made_task(data, name, "--sampling-method", "temperature", "--sampling-temperature", "5")
        with quiet_engine():
            task.load_dataset("train")
            batches = task.get_batch_iterator(task.dataset("train"), max_tokens=400, seed=3).next_epoch_itr()
        seen.append([batch["target"].tolist() for batch in batches])
    assert seen[0] == seen[1]


def logged(run):
    """The last validation's numbers."""
    lines = [json.loads(line) for line in (run / "train.log").read_text().splitlines() if "valid_loss" in line]
    return {name.removeprefix("valid_"): value for name, value in lines[-1].items()}


def test_each_direction_and_group_is_logged_and_the_best_mean_kept(run):
    found = logged(run)
    for direction in DIRECTIONS:
        assert float(found[f"{direction}_nll_loss"]) > 0 and 0 <= float(found[f"{direction}_bleu"]) <= 100
    for kind in ("nll_loss", "bleu", "sentence_chrf"):
        mean = sum(float(found[f"{direction}_{kind}"]) for direction in DIRECTIONS) / len(DIRECTIONS)
        assert float(found[f"macro_{kind}"]) == pytest.approx(mean, abs=0.006)
        into = [float(found[f"{direction}_{kind}"]) for direction in DIRECTIONS if direction.endswith("en")]
        assert float(found[f"into_en_{kind}"]) == pytest.approx(sum(into) / 3, abs=0.006)
    assert "high_bleu" not in found, "all pairs are small"
    assert "best_macro_bleu" in found
    best = torch.load(run / "checkpoint_best.pt", weights_only=False)["extra_state"]
    assert best["best"] == pytest.approx(float(found["best_macro_bleu"]), abs=0.001)


def test_numbers_are_those_of_the_stock_task_and_of_sacrebleu(data, run):
    """Loss and BLEU of one direction, computed by other means from the checkpoint."""
    with quiet_engine():
        fairseq_plugins.register()
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(run / "checkpoint_last.pt")])
        task.load_dataset("valid")
    model, samples = models[0].eval(), task.dataset("valid")
    of = samples.names.index("en-fr")
    pairs = [samples.datasets[of][int(row)] for row in samples.rows[of]]
    batch = samples.datasets[of].collater(pairs)
    with torch.no_grad():
        scores = torch.log_softmax(model(**batch["net_input"])[0], -1)
    hit = scores.gather(-1, batch["target"].unsqueeze(-1)).squeeze(-1)[batch["target"] != task.target_dictionary.pad()]
    found = logged(run)
    assert float(found["en-fr_nll_loss"]) == pytest.approx(-float(hit.mean()) / math.log(2), abs=0.002)

    tag = task.target_dictionary.index("__fr__")
    search = '{"beam": 1, "max_len_a": 1.2, "max_len_b": 10}'
    task.args.source_lang, task.args.target_lang = "en", "fr"
    generator = task.build_generator([model], argparse.Namespace(**json.loads(search)))
    hypotheses = generator.generate([model], batch, prefix_tokens=torch.full((len(pairs), 1), tag))
    texts = [text(task, beams[0]["tokens"]) for beams in hypotheses]
    order = batch["id"].tolist()
    references = {pair["id"]: text(task, pair["target"]) for pair in pairs}
    expected = sacrebleu.corpus_bleu(texts, [[references[number] for number in order]])
    assert float(found["en-fr_bleu"]) == pytest.approx(expected.score, abs=0.01)


def text(task, rows):
    words = [task.target_dictionary[row] for row in rows.tolist() if row != task.target_dictionary.eos()]
    return "".join(word for word in words if not word.startswith("__")).replace("\u2581", " ").strip()


def test_stock_validate_says_the_same(data, run):
    words = [data, "--path", run / "checkpoint_last.pt", "--max-tokens", "4000"]
    words += ["--task", "translation_multi_validated"]
    words += ["--lang-pairs", data / "lang_pairs.txt", "--encoder-langtok", "src", "--decoder-langtok", *POSITIONS]
    words += ["--lang-dict", data / "languages.txt", "--fixed-dictionary", data / "dict.txt", "--log-format", "json"]
    printed = succeeded(run_fairseq("validate", *words))
    line = json.loads(re.findall(r"valid \| (\{.*\})", printed.stdout + printed.stderr)[-1])
    for name in ("en-de_nll_loss", "macro_bleu", "ru-en_sentence_chrf"):
        assert float(line[f"valid_{name}"]) == pytest.approx(float(logged(run)[name]), abs=0.002)


def test_the_road_goes_on(data, run, tmp_path):
    """Evaluation and export know the task."""
    facts = checkpoint_facts(run / "checkpoint_last.pt")
    assert facts.sampling == "temperature:5" and facts.tag_scheme == "source+target"
    words = ["--data", data, "--run", run, "--output", tmp_path, "--directions", "de-en", "--cpu", "--max-len", 20]
    assert verb("evaluate", *words, "--beam", 1) == 0


@pytest.mark.parametrize(
    "words, named",
    [
        (["--valid-lines", "-1"], "--valid-lines -1"),
        (["--valid-scores", "comet"], "'comet' is unknown"),
        (["--valid-scores", "bleu", "--valid-lines", "0"], "--valid-scores needs --valid-lines"),
        (["--valid-generation-args", "beam=5"], "--valid-generation-args beam=5"),
        (["--valid-generation-args", "[1]"], "--valid-generation-args"),
        (["--max-valid-steps", "3"], "--max-valid-steps 3"),
        (["--valid-scores", "bleu", "--ddp-backend", "fully_sharded"], "fully_sharded"),
    ],
)
def test_refused(data, words, named):
    with pytest.raises(Refusal, match=re.escape(named)):
        made_task(data, "translation_multi_validated", *words)


def test_a_direction_may_not_lose_all_its_lines(data):
    task = made_task(data, "translation_multi_validated", "--valid-lines", "2")
    with quiet_engine():
        task.load_dataset("valid")
        with pytest.raises(Refusal, match="all --valid-lines 2 of .*de-en.* are longer than --max-source-positions"):
            assert not task.get_batch_iterator(task.dataset("valid"), max_tokens=400, max_positions=(2, 2),
                                    ignore_invalid_inputs=True).first_batch  # fmt: skip


def test_checkpoints_without_the_options_load(data):
    """Those that the ramp wrote before it had them."""
    task = made_task(data, "translation_multi_temperature_ramp")
    for name in ("valid_lines", "valid_scores", "valid_generation_args", "valid_post_process"):
        delattr(task.args, name)
    again = type(task)(task.args, task.langs, task.dicts, True)
    assert again.args.valid_lines == 0 and again.valid_scores == []
