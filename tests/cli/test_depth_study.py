"""`python -m fairseq_plugins depth-study`: its measures by hand, and small studies through the verb."""

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from fairseq_plugins.__main__ import main
from fairseq_plugins.cli import _depth_training as training
from fairseq_plugins.cli import depth_study
from fairseq_plugins.cli._depth_picture import ticks
from fairseq_plugins.cli._depth_results import verdict
from tests.opus100.road import verb, write_parallel_corpus

TINY = "--shape 8-16-2 --max-tokens 300 --updates 3 --layers 1 2 --residual post deepnorm --cpu".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depth")
    write_parallel_corpus(folder / "corpus", long_line=False)
    words = ["--corpus", folder / "corpus", "--out", folder / "data", "--vocab-size", 200, "--workers", 1]
    assert verb("prepare", *words) == 0
    return folder / "data"


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """OUTPUT of a tiny study that tests read and add to."""
    output = tmp_path_factory.mktemp("study") / "study"
    assert study(data, output) == 0
    return output


def study(data, output, *words):
    return main(["depth-study", str(data), "--output", str(output), *TINY, *map(str, words)])


def results(output):
    return json.loads((output / "results.json").read_text())


def cells(output):
    return {path.stem: path.read_bytes() for path in (output / "cells").iterdir()}


def test_update_norm_by_hand():
    start_BTD = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]])
    now_BTD = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [99.0, 0.0]]])
    padding_BT = torch.tensor([[False, False, True]])
    assert training.update_norm(now_BTD, start_BTD, padding_BT) == pytest.approx((5 + 1) / 2)


def test_unigram_loss_by_hand():
    seen, target = torch.tensor([0, 0, 1]), torch.tensor([0, 2])  # 3 rows: (2 + 1, 1 + 1, 0 + 1) / 6
    assert training.unigram_loss(seen, target, 3) == pytest.approx(-(math.log(3 / 6) + math.log(1 / 6)) / 2)


@pytest.mark.parametrize(
    "losses, start, end, says",
    [
        ([9, 8, 7], 9.0, 6.2, "falls"),
        ([9, 8, 7], 9.0, 6.05, "stuck"),
        ([9, 8, 7], 9.0, 5.95, "stuck"),  # better than frequencies by less than noise
        ([9, 8, 5], 9.0, 5.8, "learns"),
        ([9, 8, 9], 9.0, 9.0, "diverged"),
        ([9, 5, 50], 9.0, 40.0, "diverged"),
        ([9, None], 9.0, 5.0, "diverged"),
        ([9, 8], 9.0, None, "diverged"),
        ([9, 8], 5.5, 5.8, "diverged"),  # below the frequencies, but it has lost
    ],
)
def test_verdict(losses, start, end, says):
    assert verdict(losses, start, end, unigram=6.0) == says


def test_models_are_looked_at_after_powers_of_two_and_the_last_update():
    assert [depth_study.looks(updates) for updates in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


def test_ticks_are_round_numbers_inside():
    assert ticks(math.log10(0.15), math.log10(3)) == pytest.approx([0.2, 0.5, 1, 2])
    assert ticks(-3.5, 0.5) == pytest.approx([0.001, 0.01, 0.1, 1])
    assert ticks(math.log10(7.7), math.log10(11.3)) == pytest.approx([8, 9, 10, 11])


def test_a_study_has_every_cell(data, done, capsys):
    found = results(done)
    names = {(cell["residual"], cell["layers"]) for cell in found["cells"]}
    assert names == {(scheme, layers) for scheme in ("post", "deepnorm") for layers in (1, 2)} and found["at"] == 3
    for cell in found["cells"]:
        looks = cell["evaluations"]
        assert [look["updates"] for look in looks] == [0, 1, 2, 3] and len(cell["losses"]) == 3
        assert looks[0]["update_norm"] == 0 < looks[1]["update_norm"] < looks[3]["update_norm"]
        # about 300 symbols, few of them frequent: a new model knows less than a count
        assert 3 < cell["unigram_loss"] < 5 < looks[3]["loss"] < looks[0]["loss"] < 7 and cell["verdict"] == "falls"
    parameters = {(cell["residual"], cell["layers"]): cell["parameters"] for cell in found["cells"]}
    assert parameters["post", 1] == parameters["deepnorm", 1] < parameters["deepnorm", 2]
    table = (done / "table.md").read_text()
    norms = {
        (cell["residual"], cell["layers"]): cell["evaluations"][-1]["update_norm"] for cell in found["cells"]
    }  # fmt: skip
    for scheme in ("post", "deepnorm"):
        one, two = norms[scheme, 1], norms[scheme, 2]
        assert f"| {scheme} | {one:.3g} | {two:.3g} | {two / one:.3g} |" in table
    growth = norms["deepnorm", 2] / norms["deepnorm", 1]
    over = [norms["post", layers] / norms["deepnorm", layers] for layers in (1, 2)]
    assert f"| 3 | {growth:.3g} | {over[0]:.3g} | {over[1]:.3g} |" in table


def test_the_picture_has_a_line_per_scheme_and_a_panel_per_rate(data, done):
    assert study(data, done, "--lr", 5e-4, 1e-3, "--residual", "post", "deepnorm", "stock", "--at", 2) == 0
    tree = ElementTree.parse(done / "picture.svg")
    lines = [line for line in tree.iter() if line.tag.endswith("polyline")]
    assert len(lines) == 3 * 2 and all(len(line.get("points").split()) == 2 for line in lines)
    words = " ".join(tree.getroot().itertext())
    assert "after 2 updates" in words and "learning rate 0.0005" in words and "learning rate 0.001" in words
    norms = {cell["evaluations"][2]["update_norm"] for cell in results(done)["cells"] if cell["layers"] == 2}
    heights = [float(line.get("points").split()[1].split(",")[1]) for line in lines]
    assert len(norms) == len(set(heights)) == 6  # nobody's line is another's


def test_the_norm_is_of_the_update_alone(data, tmp_path):
    """Adam's first step is the learning rate itself: twice the rate, twice the norm, and no dropout in it."""
    words = ["--updates", 1, "--warmup-updates", 0, "--lr", 1e-6, 2e-6, "--dropout", 0.4, "--layers", 2]
    assert study(data, tmp_path, *words) == 0
    norms = {}
    for cell in results(tmp_path)["cells"]:
        norms.setdefault((cell["residual"], cell["layers"]), []).append(cell["evaluations"][-1]["update_norm"])
    for low, high in norms.values():
        assert low < 1e-3 and high == pytest.approx(2 * low, rel=0.01)


def test_warm_up_delays_the_peak_rate(data, tmp_path):
    """The stock schedule: rates 1e-7, then 1e-7 + (5e-4 - 1e-7) / 4000; without a warm-up 5e-4 at once."""
    words = ["--updates", 1, "--layers", 1]
    assert study(data, tmp_path / "warm", *words) == 0
    assert study(data, tmp_path / "cold", *words, "--warmup-updates", 0) == 0
    for warm, cold in zip(results(tmp_path / "warm")["cells"], results(tmp_path / "cold")["cells"], strict=True):
        assert cold["evaluations"][1]["update_norm"] > 100 * warm["evaluations"][1]["update_norm"]
        assert cold["losses"] == warm["losses"]  # the same batch, weights and dropout before the first update


def test_a_study_goes_on_where_it_was_interrupted(data, done, tmp_path, monkeypatch):
    train, calls = training.train_cell, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(training, "train_cell", interrupted)
    assert study(data, tmp_path) == 130
    first = cells(tmp_path)
    assert len(first) == 2 and not (tmp_path / "results.json").exists()
    assert study(data, tmp_path) == 0 and len(calls) == 3 + 2
    assert study(data, tmp_path) == 0 and len(calls) == 3 + 2
    assert first.items() <= cells(tmp_path).items()
    there = {json.dumps([cell["losses"], cell["evaluations"]]) for cell in results(done)["cells"]}
    for cell in results(tmp_path)["cells"]:  # the same, to the last bit, whichever cells came before
        assert json.dumps([cell["losses"], cell["evaluations"]]) in there


def test_a_model_that_explodes_is_a_result(data, tmp_path):
    words = ["--lr", 1e30, "--warmup-updates", 0, "--layers", 1, "--residual", "pre", "post", "--updates", 8]
    assert study(data, tmp_path, *words) == 0
    found = results(tmp_path)["cells"]
    assert [cell["verdict"] for cell in found] == ["diverged"] * 2
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert any(None in cell["losses"] and len(cell["losses"]) < 8 for cell in found)
    ElementTree.parse(tmp_path / "picture.svg")


@pytest.mark.parametrize(
    "words, says",
    [
        ("--residual rezero", "--residual rezero is unknown; known are post, pre, deepnorm, subln, stock"),
        ("--layers 6 0", "--layers 0 must be at least 1"),
        ("--lr 0", "--lr 0 must be above 0"),
        ("--lr -1", "--lr -1 must be above 0"),
        ("--updates 0", "--updates 0 must be at least 1"),
        ("--warmup-updates -1", "--warmup-updates -1 must be at least 0"),
        ("--dropout 1", "--dropout 1 must be at least 0 and below 1"),
        ("--shape 64x128", "--shape 64x128 is not understood"),
        ("--shape 6-8-4", "--shape 6-8-4 is not understood"),
        ("--max-tokens 10", "--max-tokens 10 is less than the longest sentence"),
        ("--updates 8 --at 3", "--at 3: with --updates 8 models are looked at after 1, 2, 4, 8 updates"),
        ("--updates 100000", "--updates 100000 needs 100001 batches and an epoch has"),
    ],
)
def test_bad_options_are_one_sentence(data, tmp_path, capsys, words, says):
    assert study(data, tmp_path / "out", *words.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and says in error
    assert not list(tmp_path.rglob("*.json"))


def test_data_and_output_must_fit(data, done, tmp_path, capsys):
    def refused(*words):
        assert study(*words) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "holds no manifest.json" in refused(tmp_path, tmp_path / "out")
    (tmp_path / "file").touch()
    assert "--output" in refused(data, tmp_path / "file")
    before = cells(done)
    assert "was measured with updates 3, not 4" in refused(data, done, "--updates", 4)
    assert "was measured with dropout 0.4, not 0.1" in refused(data, done, "--dropout", 0.1)
    assert cells(done) == before
    cell = tmp_path / "out" / "cells" / "post-1-1-lr0.0005-seed1.json"
    cell.parent.mkdir(parents=True)
    for content in ("{", "{}"):
        cell.write_text(content)
        assert str(cell) in refused(data, tmp_path / "out")
