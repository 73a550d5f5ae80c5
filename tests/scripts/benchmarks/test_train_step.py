import subprocess
import sys
from types import SimpleNamespace

import pytest

import fairseq_plugins
from tests.helpers import REPOSITORY
from tests.opus100.road import prepared_folder

BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"


@pytest.fixture(scope="module")
def prepared_data(tmp_path_factory):
    return prepared_folder(tmp_path_factory.mktemp("benchmark"))


@pytest.mark.slow
def test_the_whole_benchmark_in_a_small_size(prepared_data):
    words = [sys.executable, BENCHMARKS / "train_step.py", prepared_data, "--quick", "--only", "small", "memory"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    variants = [row[2] for row in rows if row[0].startswith("no dropout")]
    assert variants == ["stock", "ours", "bound: ours, were its matrix products all"]
    memory = {row[0]: row for row in rows if row[0] in ("stock", "chunked")}
    assert memory["stock"][3] == memory["chunked"][3], "the same loss"


def test_another_loss_is_noticed(module):
    losses = {"stock": [3.0, 2.0], "ours": [3.0, 2.01]}
    workers = {
        name: SimpleNamespace(ask=lambda what, *_, name=name: losses[name] if what == "take_losses" else None)
        for name in losses
    }
    with pytest.raises(ValueError, match="ours: the loss of update 1 is 2.01, stock's is 2.0"):
        module("train_step").check(workers)


def test_mixed_batches_hold_every_sentence_once(module):
    class Sentences(list):
        def num_tokens(self, index):
            return self[index]

        def collater(self, chosen):
            return chosen

    sentences = Sentences([3, 9, 4, 4, 1, 7, 5, 2, 8, 6])
    batches = [*module("_training").mixed(sentences, 20)]
    assert all(len(batch) * max(batch) <= 20 for batch in batches)
    assert len(sum(batches, [])) > 5 and len(batches) > 1


def test_each_variant_is_what_it_says(module, prepared_data):
    from fairseq import options

    fairseq_plugins.register()
    training = module("_training")
    ours = ("transformer_mt", "chunked_label_smoothed_cross_entropy")
    stock = "label_smoothed_cross_entropy"
    wanted = {
        "stock": ("transformer", stock, "adam"),
        "ours": (*ours, "fused_adam"),
        "ours, stock Adam": (*ours, "adam"),
        "ours, stock loss and Adam": ("transformer_mt", stock, "adam"),
    }
    words = training.command(training.Case(data=str(prepared_data)))
    for name, flags in training.VARIANTS.items():
        args = options.parse_args_and_arch(options.get_training_parser(), [*words, *flags])
        assert (args.arch, args.criterion, args.optimizer) == wanted.pop(name)
        assert (args.encoder_layers, args.decoder_embed_dim, args.decoder_attention_heads) == (3, 192, 4)
    assert not wanted
