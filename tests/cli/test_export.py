"""`python -m fairseq_plugins export`: the same model for stock fairseq and for CTranslate2, or one sentence."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import torch

from fairseq_plugins.__main__ import main
from fairseq_plugins.opus100.engines import exported_folder
from tests.helpers import environment, fairseq_words, succeeded
from tests.opus100.road import verb

needs_ctranslate2 = pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="no ctranslate2")


def export(path, to, output, *words):
    return main(["export", str(path), "--to", to, "--output", str(output), *map(str, words)])


@pytest.fixture(scope="module")
def stock(road, tmp_path_factory):
    path = tmp_path_factory.mktemp("stock") / "stock.pt"
    assert export(road / "run" / "checkpoint_best.pt", "fairseq", path) == 0
    return path


def generated(road, path, user_dir):
    """(number, pieces) and scores of all hypotheses of fr-de, by fairseq-generate with or without this package."""
    data = road / "data"
    words = ["--path", path, "--task", "translation_multi_simple_epoch", "--lang-dict", data / "languages.txt",
             "--lang-pairs", "fr-de", "--fixed-dictionary", data / "dict.txt", "--encoder-langtok", "tgt", "-s", "fr",
             "-t", "de", "--gen-subset", "test", "--beam", 3, "--nbest", 3, "--max-len-b", 20, "--batch-size", 4,
             "--cpu", "--required-batch-size-multiple", 1, "--skip-invalid-size-inputs-valid-test"]  # fmt: skip
    words = fairseq_words("generate", data, *words)
    if not user_dir:
        del words[words.index("--user-dir") :][:2], words[words.index("--user-dir") :]
    done = subprocess.run(words, cwd=road, env=environment(), capture_output=True, text=True, timeout=300)
    lines = [line.split("\t") for line in succeeded(done).stdout.split("\n") if line.startswith("H-")]
    return [(number, text) for number, _, text in lines], torch.tensor([float(score) for _, score, _ in lines])


def test_stock_fairseq_generates_the_same_without_this_package(road, stock):
    texts, scores = generated(road, stock, user_dir=False)
    expected, expected_scores = generated(road, road / "run" / "checkpoint_best.pt", user_dir=True)
    assert len(texts) == 3 * 19 and texts == expected and len({text for _, text in texts}) > 5
    torch.testing.assert_close(scores, expected_scores, atol=2e-4, rtol=0)


LOAD = """
import sys, torch
from fairseq import checkpoint_utils
(model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([sys.argv[1]])
assert type(model).__module__.startswith("fairseq.") and "fairseq_plugins" not in sys.modules
tokens = torch.randint(4, 200, (3, 9), generator=torch.Generator().manual_seed(1))
torch.save(model.eval()(tokens, torch.tensor([9, 9, 9]), tokens.flip(1))[0].detach(), sys.argv[2])
"""


def test_stock_fairseq_gives_the_same_logits(road, stock, tmp_path):
    """`weights_only` stays on, and the task comes from the file as well."""
    words = [sys.executable, "-c", LOAD, str(stock), str(tmp_path / "logits.pt")]
    succeeded(subprocess.run(words, cwd=road, env=environment(), capture_output=True, text=True))
    import fairseq_plugins

    fairseq_plugins.register()
    from fairseq import checkpoint_utils

    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(road / "run" / "checkpoint_best.pt")])
    tokens = torch.randint(4, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    expected = model.eval()(tokens, torch.tensor([9, 9, 9]), tokens.flip(1))[0].detach()
    error = (torch.load(tmp_path / "logits.pt") - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


def test_what_the_export_says_of_itself(road, stock):
    state = torch.load(stock, weights_only=True)
    assert state["cfg"]["model"]["_name"] == "transformer" and "last_optimizer_state" not in state
    assert state["extra_state"]["exported"]["file"] == "checkpoint_best.pt"
    manifest = json.loads((road / "data" / "manifest.json").read_text())
    assert state["extra_state"]["fairseq_plugins"]["sha256"]["dict.txt"] == manifest["sha256"]["dict.txt"]


@pytest.mark.slow
def test_an_export_can_be_evaluated_and_exported_again(road, stock, tmp_path):
    words = ["--data", road / "data", "--checkpoint", stock, "--output", tmp_path, "--directions", "en-de"]
    assert verb("evaluate", *words, "--workers", 1, "--cpu", "--max-len", 20) == 0
    assert json.loads((tmp_path / "results.json").read_text())["model"]["arch"] == "transformer"
    assert export(stock, "fairseq", tmp_path / "again.pt") == 0
    one, other = (torch.load(path, weights_only=True)["model"] for path in (stock, tmp_path / "again.pt"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def with_experts(state):
    """The same function: four experts per feed-forward, of which the second one alone is left."""
    model = {}
    for name, tensor in state["model"].items():
        layer, slot, part = name.partition(".feed_forward.")
        if not slot:
            model[name] = tensor
            continue
        stacked = torch.stack([torch.full_like(tensor, 7.0), tensor, torch.zeros_like(tensor), tensor + 1])
        model[f"{layer}.feed_forward.alive"] = torch.tensor([False, True, False, False])
        model[f"{layer}.feed_forward.experts.sublayers.0.{part.replace('.', '_')}"] = stacked
    options = {**state["cfg"]["model"], "moe_experts": 4, "moe_freq": 1, "moe_eval_capacity_factor": 0.0,
               "moe_gate": "softmax", "moe_top_k": 1}  # fmt: skip
    return {**state, "model": model, "cfg": {**state["cfg"], "model": options}}


def test_experts_pruned_to_one_are_exported(road, stock, tmp_path):
    state = torch.load(road / "run" / "checkpoint_best.pt", weights_only=False)
    torch.save(with_experts(state), tmp_path / "pruned.pt")
    assert export(tmp_path / "pruned.pt", "fairseq", tmp_path / "out.pt") == 0
    found, expected = (torch.load(path, weights_only=True)["model"] for path in (tmp_path / "out.pt", stock))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def options(**changes):
    return lambda state: {**state, "cfg": {**state["cfg"], "model": {**state["cfg"]["model"], **changes}}}


def unpruned(state):
    state = with_experts(state)
    alive = {name: torch.ones(4, dtype=torch.bool) for name in state["model"] if name.endswith(".alive")}
    return {**state, "model": {**state["model"], **alive}}


@pytest.mark.parametrize(
    "change, says",
    [
        (options(residual="subln"), "trained with --residual subln, whose norms inside the sublayers"),
        (options(_name="transformer_mlm"), "is of a transformer_mlm: only encoder-decoders"),
        (options(_name="no_such_model"), "is of a no_such_model: only encoder-decoders"),
        (unpruned, "encoder.layers.0 has 4 experts left: fine-tune with --moe-prune"),
        (lambda state: options(moe_eval_capacity_factor=2.0)(with_experts(state)), "--moe-eval-capacity-factor 2.0"),
        (lambda state: options(moe_gate="sigmoid")(with_experts(state)), "encoder.layers.0 has a sigmoid gate"),
        (lambda state: {**state, "model": {"x": torch.ones(1)}}, "no parameters of the encoder's layers"),
        (lambda state: {"model": state["model"]}, "it has no options"),
        (lambda state: {"best": 1}, "it has no 'model'"),
    ],
)
def test_what_has_no_plain_form_is_one_sentence_and_writes_nothing(road, tmp_path, capsys, change, says):
    state = torch.load(road / "run" / "checkpoint_best.pt", weights_only=False)
    torch.save(change(state), tmp_path / "changed.pt")
    assert export(tmp_path / "changed.pt", "fairseq", tmp_path / "out.pt") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "changed.pt" in error and says in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["changed.pt"]


@pytest.mark.parametrize(
    "words, says",
    [
        (["nowhere.pt", "fairseq", "{t}/out.pt"], "nowhere.pt does not exist"),
        (["{r}/run/checkpoint_best.pt", "fairseq", "{t}/out.pt", "--data", "{r}/data"], "--data is for --to"),
        (["{r}/run/checkpoint_best.pt", "fairseq", "{t}/no/out.pt"], "/no/out.pt cannot be written"),
        (["{r}/run/checkpoint_best.pt", "fairseq", "{r}/run/train.log"], "exists and is no export; give a new file"),
        (["{r}/run/checkpoint_best.pt", "fairseq", "{r}/run/checkpoint_last.pt"], "exists and is no export"),
        (["{r}/run/checkpoint_best.pt", "fairseq", "{r}/run"], "exists and is no export"),
        (["{r}/run/checkpoint_best.pt", "ctranslate2", "{t}/out"], "needs --data DATA"),
        (["{r}/run/checkpoint_best.pt", "ctranslate2", "{t}/out", "--data", "{t}"], "no manifest.json"),
        (["{r}/run/checkpoint_best.pt", "ctranslate2", "{r}/data", "--data", "{r}/data"], "exists and is no export"),
    ],
)
def test_bad_input_is_one_sentence(road, tmp_path, capsys, words, says):
    path, to, output, *others = (word.format(r=road, t=tmp_path) for word in words)
    before = {path: path.stat().st_mtime_ns for path in road.rglob("*")}
    assert export(path, to, output, *others) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir()) and {path: path.stat().st_mtime_ns for path in road.rglob("*")} == before


# ---- CTranslate2 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(road, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "float32"
    assert export(road / "run" / "checkpoint_best.pt", "ctranslate2", folder, "--data", road / "data") == 0
    return folder


def evaluate(road, output, path, *words):
    """By greedy search: with a beam a model that has hardly been trained falls into ties at the longest hypothesis."""
    words = ["--data", road / "data", "--output", output, "--checkpoint", path, "--cpu", "--max-len", 20, *words]
    words += ["--beam", 1]
    assert verb("evaluate", *words) == 0
    return json.loads((output / "results.json").read_text())


@pytest.mark.slow
@needs_ctranslate2
def test_both_engines_give_the_same_table(road, served, tmp_path):
    """The folder, and a checkpoint that is converted on the way; with two processes as with one."""
    checkpoint = road / "run" / "checkpoint_best.pt"
    ours = evaluate(road, tmp_path / "ours", checkpoint, "--workers", 1)
    folder = evaluate(road, tmp_path / "folder", served, "--workers", 2)
    converted = evaluate(road, tmp_path / "converted", checkpoint, "--engine", "ctranslate2", "--workers", 1)
    assert [results["engine"] for results in (ours, folder, converted)] == ["fairseq", "ctranslate2", "ctranslate2"]
    assert folder["search"]["precision"] == converted["search"]["precision"] == "float32"
    assert folder["checkpoint"] == converted["checkpoint"] == ours["checkpoint"] and folder["model"] == ours["model"]
    for found in (folder, converted):
        for row, expected in zip(found["directions"], ours["directions"], strict=True):
            assert {**row, "seconds": 0} == {**expected, "seconds": 0} and row["truncated"] == 1
    for path in (tmp_path / "ours").glob("hyp.*-*.??"):
        assert path.read_bytes() == (tmp_path / "folder" / path.name).read_bytes()
    assert "- engine: ctranslate2" in (tmp_path / "folder" / "results.md").read_text()


@pytest.mark.slow
@needs_ctranslate2
def test_finished_directions_are_those_of_an_engine_and_a_precision(road, tmp_path, capsys):
    checkpoint, one = road / "run" / "checkpoint_best.pt", ["--directions", "en-de", "--workers", 1]
    for words, kept in (
        ([], False),
        (["--engine", "ctranslate2"], False),
        (["--engine", "ctranslate2"], True),
        (["--engine", "ctranslate2", "--quantization", "int8"], False),
        (["--engine", "ctranslate2", "--quantization", "int8"], True),
        (["--engine", "fairseq"], False),
    ):
        capsys.readouterr()
        evaluate(road, tmp_path, checkpoint, *one, *words)
        assert ("are translated already" in capsys.readouterr().err) == kept
    assert {path.name for path in tmp_path.glob("ctranslate2.*")} == {"ctranslate2.float32", "ctranslate2.int8"}


@needs_ctranslate2
def test_a_folder_says_what_it_was_made_from_and_is_replaced_whole(road, served, tmp_path, monkeypatch, capsys):
    manifest = json.loads((served / "export.json").read_text())
    assert manifest["languages"] == ["de", "en", "fr"] and manifest["quantization"] == "float32"
    assert manifest["facts"]["tag_scheme"] == "target" and manifest["longest_source"] == 40
    assert set(manifest["sha256"]) == {path.name for path in served.iterdir()} - {"export.json"}
    folder = tmp_path / "served"
    shutil.copytree(served, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = [road / "run" / "checkpoint_best.pt", "ctranslate2", folder, "--data", road / "data"]
    words += ["--quantization", "int8"]
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(exported_folder, "write_json", full)
        assert export(*words) == 2
    assert "is full" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert export(*words) == 0
    assert json.loads((folder / "export.json").read_text())["quantization"] == "int8"
    assert (folder / "model.bin").stat().st_size < 0.6 * len(before["model.bin"])
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


@needs_ctranslate2
@pytest.mark.parametrize(
    "words, change, says",
    [
        (["--engine", "fairseq"], None, "--engine fairseq needs the checkpoint"),
        (["--precision", "fp16"], None, "--precision fp16 is for --engine fairseq"),
        (["--quantization", "int8"], None, "was exported with --quantization float32, not int8"),
        ([], lambda folder: (folder / "model.bin").write_bytes(b"damaged"), "model.bin is missing or changed"),
        ([], lambda folder: (folder / "export.json").unlink(), "holds no export.json"),
        ([], lambda folder: (folder / "export.json").write_text("{}"), "not one of this version's export"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_sentence(road, served, tmp_path, capsys, words, change, says):
    folder = shutil.copytree(served, tmp_path / "folder")
    if change:
        change(folder)
    there = ["--data", road / "data", "--output", tmp_path / "out", "--cpu", "--checkpoint", folder]
    assert verb("evaluate", *there, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


@needs_ctranslate2
def test_other_data_are_refused(road, served, tmp_path, capsys):
    data = shutil.copytree(road / "data", tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps({**manifest, "tag_scheme": "source+target"}))
    for words in (
        lambda: verb("evaluate", "--data", data, "--output", tmp_path / "out", "--cpu", "--checkpoint", served),
        lambda: export(road / "run" / "checkpoint_best.pt", "ctranslate2", tmp_path / "x", "--data", data),
    ):
        assert words() == 2
        error = capsys.readouterr().err
        assert "the tag scheme (target against source+target) differ" in error and error.count("\n") == 1


def test_without_the_package_one_sentence_says_how_to_get_it(road, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert export(road / "run" / "checkpoint_best.pt", "ctranslate2", tmp_path / "x", "--data", road / "data") == 2
    error = capsys.readouterr().err
    assert "run: pip install ctranslate2" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
