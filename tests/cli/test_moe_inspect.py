"""`python -m fairseq_plugins moe-inspect` against routers that are asked sentence by sentence, without padding."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder
from omegaconf import OmegaConf

from fairseq_plugins.__main__ import main
from fairseq_plugins.cli._moe_picture import LEVELS, PRUNED, colour, picture, shade
from tests.helpers import write_tiny_translation_data
from tests.models_support import TINY_MT, build, dictionary, model_config
from tests.opus100.road import train_words, verb, write_parallel_corpus

EXPERTS = 6
MOE = f"--moe-experts {EXPERTS} --moe-freq 1 --moe-router linear".split()
LAYERS = ["encoder.layers.0", "decoder.layers.0"]
DIRECTIONS = ["de-en", "en-de", "en-fr", "fr-en"]  # those with a valid set
PAIR = {"de-en": "de-en", "en-de": "de-en", "en-fr": "en-fr", "fr-en": "en-fr"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moe")
    write_parallel_corpus(folder / "corpus", long_line=False)
    words = ["--corpus", folder / "corpus", "--out", folder / "data", "--vocab-size", 200, "--workers", 1]
    assert verb("prepare", *words) == 0
    return folder / "data"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A real training of experts, with checkpoints after 10 and 20 updates."""
    folder = tmp_path_factory.mktemp("moe") / "run"
    criterion = ["--criterion", "label_smoothed_cross_entropy_with_moe"]
    model = ["--arch", "transformer_mt", *MOE, "--moe-top-k", 2, "--moe-gate", "softmax"]
    assert verb(*train_words(data, folder, 20, *model, *criterion, save_every=10)) == 0
    return folder


def inspect(checkpoint, data, output, *words):
    return main(["moe-inspect", str(checkpoint), str(data), "--output", str(output), "--cpu", *map(str, words)])


def results(checkpoint, data, output, *words):
    assert inspect(checkpoint, data, output, *words) == 0
    return json.loads((output / "moe.json").read_text())


def one_by_one(checkpoint, data, pairs=PAIR):
    """Direction -> layer -> [(hidden state, chosen experts) of every token], each sentence alone, read by hand."""
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    model.eval()
    words = Dictionary.load(str(data / "dict.txt"))
    found = {}
    for direction, pair in pairs.items():
        source, target = direction.split("-")
        sides = [MMapIndexedDataset(str(data / f"valid.{pair}.{language}")) for language in (source, target)]
        found[direction] = {layer: [] for layer in LAYERS}
        hooks = [
            model.get_submodule(f"{layer}.feed_forward.router").register_forward_hook(
                lambda _, args, routing, to=found[direction][layer]: to.append((args[0], routing.expert_NK))
            )
            for layer in LAYERS
        ]
        for number in range(len(sides[0])):
            read, written = (side[number].long() for side in sides)
            read = torch.cat([torch.tensor([words.index(f"__{target}__")]), read])[None]
            previous = torch.cat([written[-1:], written[:-1]])[None]  # fairseq's decoders begin with the end symbol
            with torch.no_grad():
                model(read, torch.tensor([read.size(1)]), previous)
        for hook in hooks:
            hook.remove()
    return found


def joined(seen, layer, part):
    return torch.cat([entry[part] for direction in DIRECTIONS for entry in seen[direction][layer]])


def written_out_collapse(x_ND, label_N):
    mean_D = x_ND.mean(dim=0)
    groups = [x_ND[label_N == label] for label in label_N.unique()]
    within = sum((group - group.mean(dim=0)).T @ (group - group.mean(dim=0)) for group in groups) / len(x_ND)
    between = sum(torch.outer(group.mean(dim=0) - mean_D, group.mean(dim=0) - mean_D) for group in groups) / len(groups)
    return torch.trace(within @ torch.linalg.pinv(between, hermitian=True)).item()


def test_everything_is_what_the_routers_say_sentence_by_sentence(data, run, tmp_path, capsys):
    (newest,), (earlier,) = (list(run.glob(f"checkpoint_*_{updates}.pt")) for updates in (20, 10))
    found = results(newest, data, tmp_path, "--previous", earlier, "--runs", earlier, newest, "--batches", 0)
    seen, before = one_by_one(newest, data), one_by_one(earlier, data)
    assert found["directions"] == DIRECTIONS and found["sentences"] == 40 and found["sentences_too_long"] == 0
    assert (found["checkpoint"]["updates"], found["previous"]["updates"]) == (20, 10)
    assert [layer["name"] for layer in found["layers"]] == LAYERS
    for layer in found["layers"]:
        name = layer["name"]
        counted = {
            direction: torch.cat([entry[1] for entry in seen[direction][name]]).flatten().bincount(minlength=EXPERTS)
            for direction in DIRECTIONS
        }
        assert layer["usage_by_direction"] == {direction: load.tolist() for direction, load in counted.items()}
        side = name.startswith("decoder")
        languages = Counter()
        for direction, load in counted.items():
            languages[direction.split("-")[side]] += load
        assert layer["usage_by_language"] == {language: load.tolist() for language, load in languages.items()}
        load = sum(counted.values())
        chosen, chosen_before = joined(seen, name, 1), joined(before, name, 1)
        assert layer["load"] == load.tolist() and layer["tokens"] == len(chosen) and load.sum() == 2 * len(chosen)
        assert layer["load_max_over_mean"] == pytest.approx((load.max() / load.double().mean()).item())
        changed = (chosen[:, 0] != chosen_before[:, 0]).double().mean().item()
        assert 0 < changed < 1 and layer["routing_fluctuation"] == pytest.approx(changed)
        x_ND = joined(seen, name, 0).double()
        assert layer["representation_collapse"] == pytest.approx(written_out_collapse(x_ND, chosen[:, 0]), rel=1e-3)
        loads = torch.stack([load, chosen_before.flatten().bincount(minlength=EXPERTS), load]).double()
        assert layer["load_of_runs"] == loads[1:].tolist()
        assert layer["inter_run_consistency"] == pytest.approx(torch.corrcoef(loads).mean().item())
    printed = capsys.readouterr()
    assert "encoder.layers.0" in printed.out and "inspecting: " in printed.err
    drawing = ElementTree.parse(tmp_path / "moe.svg").getroot()
    words = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"encoder.layers.0", "decoder.layers.0", "de", "en", "fr"} <= set(words)


def test_the_same_checkpoint_does_not_fluctuate_and_is_consistent(data, run, tmp_path):
    path = run / "checkpoint_last.pt"
    for layer in results(path, data, tmp_path, "--previous", path, "--runs", path)["layers"]:
        assert layer["routing_fluctuation"] == 0 and layer["inter_run_consistency"] == pytest.approx(1)


def test_without_other_checkpoints_their_measures_are_null(data, run, tmp_path):
    for layer in results(run / "checkpoint_last.pt", data, tmp_path, "--directions", "en-fr")["layers"]:
        assert layer["routing_fluctuation"] is None and layer["inter_run_consistency"] is None
        assert list(layer["usage_by_language"]) == ["en" if layer["name"].startswith("encoder") else "fr"]


def test_few_batches_are_spread_over_directions_and_the_same_every_time(data, run, tmp_path):
    path, words = run / "checkpoint_last.pt", ["--max-tokens", 40, "--batches"]
    first, again = (results(path, data, tmp_path / name, *words, 6) for name in "ab")
    assert first == again and first["batches"] == 6 and first["directions"] == DIRECTIONS
    one_each = results(path, data, tmp_path / "c", *words, 1)
    assert one_each["batches"] == 4 and one_each["directions"] == DIRECTIONS
    assert results(path, data, tmp_path / "d", *words, 0)["sentences"] == 40


def test_zero_shot_directions_are_in_the_test_split(data, run, tmp_path):
    found = results(run / "checkpoint_last.pt", data, tmp_path, "--split", "test", "--directions", "zero-shot")
    assert found["directions"] == ["de-fr", "fr-de"]


# ---- models that were only initialised -------------------------------------------------------------------------------


def save(path, arch, words, *flags, task="translation", seed=0):
    """A checkpoint of fairseq's making, but for the training."""
    torch.manual_seed(seed)
    cfg = OmegaConf.to_container(model_config(arch, *flags, task=task), enum_to_str=True)
    model = build(arch, words, *flags, task=task).state_dict()
    history = [{"num_updates": 7, "best_loss": 1.0, "optimizer_name": "FairseqAdam"}]
    extra = {"train_iterator": {"epoch": 1}}
    torch.save({"args": None, "cfg": cfg, "model": model, "optimizer_history": history, "extra_state": extra}, path)
    return path


def write_sentences(stem, words, sentences):
    builder = MMapIndexedDatasetBuilder(f"{stem}.bin", dtype=np.uint16)
    for sentence in sentences:
        builder.add_item(words.encode_line(" ".join(sentence), add_if_not_exist=False))
    builder.finalize(f"{stem}.idx")


MLM = "--encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-attention-heads 2".split()


@pytest.fixture
def monolingual(tmp_path):
    """A dictionary, and 30 sentences of 2 to 11 words in `data` itself and in `data/xx`, `data/yy`."""
    words = Dictionary()
    for number in range(20):
        words.add_symbol(f"w{number}", n=100 - number)
    folder = tmp_path / "data"
    folder.mkdir()
    words.save(str(folder / "dict.txt"))
    sentences = [[f"w{(number * step) % 20}" for step in range(2 + number % 10)] for number in range(30)]
    for place in (folder, folder / "xx", folder / "yy"):
        place.mkdir(exist_ok=True)
        write_sentences(place / "valid", words, sentences)
    words.add_symbol("<mask>")  # as the tasks do when they start
    return folder, words


@pytest.mark.parametrize("task, groups", [("masked_lm", ["all"]), ("multilingual_masked_lm", ["xx", "yy"])])
def test_masked_language_models(monolingual, tmp_path, task, groups):
    folder, words = monolingual
    flags = [*MLM, *MOE, "--moe-clusters", "2", "--sample-break-mode", "eos"]
    flags += ["--tokens-per-sample", "32", "--max-source-positions", "32"]
    path = save(tmp_path / "mlm.pt", "transformer_mlm", words, *flags, task=task)
    found = results(path, folder, tmp_path / "out", "--max-tokens", 64)
    tokens = 30 + sum(2 + number % 10 for number in range(30)) + 30  # beginning, words, end
    assert [layer["name"] for layer in found["layers"]] == ["encoder.layers.0", "encoder.layers.1"]
    for layer in found["layers"]:
        assert {name: sum(load) for name, load in layer["usage_by_language"].items()} == dict.fromkeys(groups, tokens)
        assert layer["clusters"] == 2 and layer["representation_collapse"] > 0
    assert results(path, folder, tmp_path / "out", "--max-tokens", 64) == found


def test_a_causal_language_model(monolingual, tmp_path):
    folder, _ = monolingual
    flags = "--decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 2".split()
    flags += [*MOE, "--tokens-per-sample", "32", "--sample-break-mode", "eos"]
    words = Dictionary.load(str(folder / "dict.txt"))
    path = save(tmp_path / "clm.pt", "transformer_clm", words, *flags, task="language_modeling")
    (layer,) = results(path, folder, tmp_path / "out", "--max-tokens", 64)["layers"]
    assert layer["name"] == "decoder.layers.0" and layer["tokens"] == 30 + sum(2 + number % 10 for number in range(30))


@pytest.fixture(scope="module")
def bilingual(tmp_path_factory):
    """A folder with data of the task `translation`, a checkpoint that fits to them, and one per error."""
    folder = tmp_path_factory.mktemp("bilingual")
    (folder / "empty").mkdir()
    words = Dictionary.load(str(write_tiny_translation_data(folder / "bitext") / "dict.de.txt"))
    flags = [*TINY_MT, "--source-lang", "de", "--target-lang", "en"]
    save(folder / "mt.pt", "transformer_mt", words, *flags, *MOE)
    save(folder / "top2.pt", "transformer_mt", words, *flags, *MOE, "--moe-top-k", "2")
    save(folder / "dense.pt", "transformer_mt", words, *flags)
    save(folder / "other.pt", "transformer_mt", words, *flags, *MOE, "--moe-experts", "4")
    save(folder / "rows.pt", "transformer_mt", dictionary(80), *flags, *MOE)
    state = torch.load(folder / "mt.pt", weights_only=False)
    state["extra_state"]["expert_shard"] = {"rank": 1, "ranks": 2, "workers": 2, "optimizer_parameters": []}
    torch.save(state, folder / "shard.pt")
    return folder


def test_the_stock_translation_task(bilingual, tmp_path):
    found = results(bilingual / "mt.pt", bilingual / "bitext", tmp_path / "out", "--split", "test")
    assert found["directions"] == ["de-en"] and found["sentences"] == 11 and len(found["layers"]) == 5
    assert found["layers"][0]["usage_by_language"].keys() == {"de"}
    assert found["layers"][-1]["usage_by_language"].keys() == {"en"}


def test_a_lone_survivor_of_pruning_gets_everything(bilingual, tmp_path):
    """Its second choice is none; with one expert there is no collapse measure, and JSON has no NaN."""
    state = torch.load(bilingual / "top2.pt", weights_only=False)
    for name in [name for name in state["model"] if name.endswith("feed_forward.alive")]:
        state["model"][name] = torch.arange(EXPERTS) == 3
    torch.save(state, tmp_path / "pruned.pt")
    for layer in results(tmp_path / "pruned.pt", bilingual / "bitext", tmp_path)["layers"]:
        assert layer["load"] == [0, 0, 0, layer["tokens"], 0, 0] and layer["alive"] == [n == 3 for n in range(EXPERTS)]
        assert (layer["load_max_over_mean"], layer["load_entropy"], layer["gate_mean"]) == (1, 0, 1)
        assert layer["representation_collapse"] is None
    assert PRUNED in (tmp_path / "moe.svg").read_text() and "NaN" not in (tmp_path / "moe.json").read_text()


@pytest.mark.parametrize(
    "words, says",
    [
        (["{t}/dense.pt", "{t}/bitext"], "{t}/dense.pt has no mixture-of-experts layers"),
        (["{t}/absent.pt", "{t}/bitext"], "{t}/absent.pt does not exist"),
        (["{t}/mt.pt", "{t}/nowhere"], "{t}/nowhere is not a folder"),
        (["{t}/mt.pt", "{t}/empty"], "{t}/empty"),
        (["{t}/mt.pt", "{t}/bitext", "--directions", "en-de"], "the data has no 'en-de'; known are de-en"),
        (["{t}/mt.pt", "{t}/bitext", "--max-tokens", "3"], "--max-tokens 3 is less than the longest sentence of de-en"),
        (["{t}/mt.pt", "{t}/bitext", "--max-tokens", "0"], "--max-tokens 0 must be at least 1"),
        (["{t}/mt.pt", "{t}/bitext", "--batches", "-1"], "--batches -1 must be at least 0"),
        (["{t}/mt.pt", "{t}/bitext", "--previous", "{t}/other.pt"], "{t}/other.pt and {t}/mt.pt have different"),
        (["{t}/mt.pt", "{t}/bitext", "--runs", "{t}/mt.pt", "{t}/dense.pt"], "{t}/dense.pt has no mixture-of-experts"),
        (["{t}/mt.pt", "{t}/bitext", "--output", "/dev/null/out"], "--output /dev/null/out cannot be written"),
        (["{t}/shard.pt", "{t}/bitext"], "holds the experts of rank 1 of 2 alone; join them first"),
        (["{t}/rows.pt", "{t}/bitext"], "{t}/rows.pt does not fit to the dictionary in {t}/bitext"),
    ],
)
def test_bad_input_is_one_sentence(bilingual, tmp_path, capsys, words, says):
    checkpoint, data, *options = (word.format(t=bilingual) for word in words)
    assert inspect(checkpoint, data, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says.format(t=bilingual) in error
    assert not (tmp_path / "out" / "moe.json").exists()


def test_multilingual_data_that_do_not_fit_are_one_sentence(data, run, tmp_path, capsys):
    path = run / "checkpoint_last.pt"
    other = shutil.copytree(data, tmp_path / "other")
    (other / "valid.de-en.de.idx").unlink()
    for words, said in (
        ([data, "--directions", "de-xx"], "no references for 'de-xx'"),
        ([data, "--directions", "de-fr"], "no references for 'de-fr'"),  # zero-shot: no valid set
        ([other], "has no binarised valid files"),
        ([tmp_path], "holds no manifest.json"),
    ):
        assert inspect(path, words[0], tmp_path / "out", *words[1:]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


# ---- the picture -----------------------------------------------------------------------------------------------------


def layer_of(load, usage, alive, **more):
    return {
        "name": "encoder.layers.0", "experts": len(load), "alive": alive, "clusters": 1, "tokens": sum(load),
        "load": load, "load_max_over_mean": 1.0, "usage_by_language": usage, "representation_collapse": None,
        "routing_fluctuation": None, "inter_run_consistency": None, **more,
    }  # fmt: skip


def elements(layers, kind):
    found = {"checkpoint": {"file": "a<b.pt", "updates": 1000}, "split": "valid", "layers": layers}
    drawing = ElementTree.fromstring(picture(found))
    return [element for element in drawing.iter(f"{{http://www.w3.org/2000/svg}}{kind}")]


def test_shades_grow_with_the_share():
    assert [shade(ratio) for ratio in (0, 1, 4, 9, 100)] == [0, LEVELS / 3, LEVELS * 2 / 3, LEVELS, LEVELS]
    assert colour(0) == "#ffffff" and colour(LEVELS) == "#08306b"


def test_cells_and_bars_by_hand():
    """One language uses expert 1 alone, the other both living ones evenly; expert 2 is pruned."""
    layer = layer_of([1, 3, 0], {"xx": [0, 2, 0], "yy": [1, 1, 0]}, [True, True, False], routing_fluctuation=0.25)
    cells = {path.get("fill"): path.get("d").count("M") for path in elements([layer], "path")}
    assert cells == {colour(0): 1, colour(shade(2)): 1, colour(shade(1)): 2, PRUNED: 2}
    bars = [float(bar.get("height")) for bar in elements([layer], "rect") if bar.get("fill") == colour(LEVELS * 2 // 3)]
    assert bars == [pytest.approx(20, abs=0.01), 60, 0]
    words = [text.text for text in elements([layer], "text")]
    assert {"xx", "yy", "0", "1", "2", "pruned", "a<b.pt, 1,000 updates, valid"} <= set(words)
    assert any("fluctuation 25.0%" in word for word in words)


def test_clusters_are_divided_and_many_experts_still_fit():
    load = list(range(128))
    layer = layer_of(load, {"xx": load}, [True] * 128, clusters=8)
    assert sum(line.get("class") == "cluster" for line in elements([layer], "line")) == 7
    right = max(float(bar.get("x", 0)) + float(bar.get("width")) for bar in elements([layer], "rect")[1:])
    assert right <= 800
