"""XLM-T's ramp: hand values, how often directions are drawn in each epoch, resume, refusals, the verbs around it."""

import re

import pytest
from fairseq import options, tasks

import fairseq_plugins
from fairseq_plugins.__main__ import main as plugins
from fairseq_plugins.compat import Refusal
from fairseq_plugins.opus100.facts import checkpoint_facts
from fairseq_plugins.opus100.run_folder import quiet_engine
from tests.helpers import run_fairseq, succeeded
from tests.opus100.corpora import write_corpus
from tests.opus100.road import train_words, verb

POSITIONS = "--max-source-positions", "99", "--max-target-positions", "99"
LINES = {"de-en": 300, "en-de": 300, "en-fr": 200, "fr-en": 200, "en-ru": 60, "ru-en": 60}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six directions of three sizes."""
    folder = tmp_path_factory.mktemp("ramp")
    write_corpus(folder / "corpus")
    words = ["--corpus", folder / "corpus", "--out", folder / "data", "--vocab-size", 150, "--workers", 1]
    assert verb("prepare", *words) == 0
    return folder / "data"


def ramp_task(data, *words):
    with quiet_engine():
        fairseq_plugins.register()
        command = [str(data), "--task", "translation_multi_temperature_ramp", "--arch", "transformer"]
        command += [*POSITIONS, *words]
        command += ["--lang-pairs", str(data / "lang_pairs.txt"), "--encoder-langtok", "tgt"]
        command += ["--lang-dict", str(data / "languages.txt"), "--fixed-dictionary", str(data / "dict.txt")]
        return tasks.setup_task(options.parse_args_and_arch(options.get_training_parser(), command))


def drawn(task, epoch):
    """Direction -> examples of the epoch, as the trainer asks for them."""
    with quiet_engine():
        assert task.get_batch_iterator(task.dataset("train"), max_tokens=400, epoch=epoch).first_batch
    dataset = task.dataset("train")
    counts = dict(zip(dataset.keys, dataset.virtual_size_per_dataset.tolist(), strict=True))
    assert sum(counts.values()) == len(dataset)
    return {key.removeprefix("main:"): count for key, count in counts.items()}


def test_temperatures_of_xlm_t(data):
    assert [ramp_task(data).temperature(epoch) for epoch in range(1, 9)] == pytest.approx(
        [1, 1.8, 2.6, 3.4, 4.2, 5, 5, 5]
    )
    words = ("--sampling-temperature-start", "2", "--sampling-temperature", "3", "--sampling-temperature-epochs", "4")
    assert ramp_task(data, *words).temperature(2) == 2.25


@pytest.mark.parametrize("words, examples", [([], None), (["--virtual-data-size", "5000"], 5000)])
def test_directions_are_drawn_by_size_to_the_power_of_one_over_the_temperature(data, words, examples):
    """Data that is not sharded is loaded once: the stock task would keep the shares of the first epoch for ever."""
    task = ramp_task(data, *words)
    with quiet_engine():
        task.load_dataset("train", epoch=1)
    for epoch, temperature in {1: 1, 2: 1.8, 3: 2.6, 6: 5, 9: 5}.items():
        counts = drawn(task, epoch)
        weights = {direction: lines ** (1 / temperature) for direction, lines in LINES.items()}
        # the stock rule for the length of an epoch: the largest direction once, or half as much again as there is
        length = examples or min(round(sum(weights.values()) / weights["de-en"] * 300), 1.5 * sum(LINES.values()))
        for direction, weight in weights.items():
            assert counts[direction] == pytest.approx(length * weight / sum(weights.values()), abs=7), epoch
    assert counts["ru-en"] > 2.1 * 60 or examples


def test_a_resumed_epoch_draws_what_it_would_have_drawn(data):
    straight, resumed = ramp_task(data), ramp_task(data)
    with quiet_engine():
        straight.load_dataset("train", epoch=1)
        resumed.load_dataset("train", epoch=3)  # what the trainer does with a checkpoint of epoch 3
    for epoch in (3, 4):
        assert [drawn(task, epoch) for task in (straight, resumed)] == [drawn(straight, epoch)] * 2
        assert straight.dataset("train")._cur_indices.tolist() == resumed.dataset("train")._cur_indices.tolist()


def test_shards_have_the_temperature_of_their_epoch(data):
    """Sharded data is loaded anew for every epoch, with the sizes of all shards."""
    task = ramp_task(data)
    task.args.data = f"{data}:{data}"
    for epoch, temperature in {1: 1, 2: 1.8}.items():
        with quiet_engine():
            task.load_dataset("train", epoch=epoch)
        assert task.has_sharded_data("train")
        counts = drawn(task, epoch)
        assert counts["ru-en"] / counts["de-en"] == pytest.approx((60 / 300) ** (1 / temperature), rel=0.04)


def test_stopped_and_given_again_trains_as_if_never_stopped(data, tmp_path):
    import torch

    def train(run, updates):
        words = train_words(data, run, updates, "--update-freq", "4")
        return verb(*words[:3], "--sampling", "ramp:1:5:2", *words[3:])

    assert train(tmp_path / "straight", 25) == 0
    log = (tmp_path / "straight" / "train.log").read_text()
    assert re.findall(r'"train_sampling_temperature": "(\S+?)"', log)[:2] == ["1", "3"], "in the line of each epoch"
    assert train(tmp_path / "stopped", 15) == 0 and train(tmp_path / "stopped", 25) == 0
    states = [torch.load(tmp_path / run / "checkpoint_last.pt", weights_only=True) for run in ("straight", "stopped")]
    assert states[0]["extra_state"]["train_iterator"]["epoch"] >= 2
    assert all(torch.equal(states[0]["model"][name], states[1]["model"][name]) for name in states[0]["model"])
    facts = checkpoint_facts(tmp_path / "straight" / "checkpoint_last.pt")
    assert facts.sampling == "ramp:1:5:2" and facts.tag_scheme == "target"
    out = tmp_path / "results"
    words = ["--data", data, "--run", tmp_path / "straight", "--output", out, "--directions", "de-en", "--cpu"]
    assert verb("evaluate", *words, "--beam", 1, "--max-len", 20) == 0
    assert '"sampling": "ramp:1:5:2"' in (out / "results.json").read_text()
    checkpoint, stock = tmp_path / "straight" / "checkpoint_last.pt", tmp_path / "stock.pt"
    assert plugins(["export", str(checkpoint), "--to", "fairseq", "--output", str(stock)]) == 0
    exported = torch.load(stock, weights_only=True)["cfg"]["task"]
    assert exported["_name"] == "translation_multi_simple_epoch", "stock fairseq does not know the ramp"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--sampling-temperature-start", "0"], "--sampling-temperature-start 0 must be above 0"),
        (["--sampling-temperature-start", "6"], "--sampling-temperature 5 must be at least"),
        (["--sampling-temperature", "nan"], "--sampling-temperature nan must be at least"),
        (["--sampling-temperature-epochs", "0"], "--sampling-temperature-epochs 0 must be at least 1"),
        (["--sampling-method", "concat"], "--sampling-method concat has no temperature"),
        (["--sampling-weights", "{'main:de-en': 1}"], "--sampling-weights takes the place of the temperature"),
        (["--virtual-epoch-size", "100"], "give --virtual-data-size for epochs of that many examples"),
    ],
)
def test_bad_options_are_one_sentence(data, words, said):
    with pytest.raises(Refusal, match=re.escape(said)):
        ramp_task(data, *words)


def test_the_stock_command_takes_it_from_the_user_dir(data, tmp_path):
    words = "--task translation_multi_temperature_ramp --encoder-langtok tgt --arch transformer --encoder-layers 1 "
    words += "--decoder-layers 1 --encoder-embed-dim 8 --decoder-embed-dim 8 --encoder-ffn-embed-dim 8 "
    words += "--decoder-ffn-embed-dim 8 --encoder-attention-heads 1 --decoder-attention-heads 1 --max-tokens 300 "
    words += "--optimizer adam --share-all-embeddings --max-update 2 --no-save --log-format json --log-interval 1"
    lists = ["--lang-pairs", data / "lang_pairs.txt", "--save-dir", tmp_path]
    done = succeeded(run_fairseq("train", data, *words.split(), *lists))
    assert "epoch 1: sampling temperature 1" in done.stdout + done.stderr
