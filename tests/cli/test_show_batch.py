"""`show-batch`: the printed batch is the one that training gets, for every task; masks are those of the models."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from fairseq_plugins.__main__ import main
from fairseq_plugins._verbs import UserError
from fairseq_plugins.cli._batch_picture import COLOURS, picture
from fairseq_plugins.cli._batch_reader import Batch, describe, read_batch
from fairseq_plugins.cli._batch_text import columns_of, text
from fairseq_plugins.data.readable_batch import ReadableExample
from fairseq_plugins.modules.attention_masks import both, causal_mask, same_group, seen_by_step
from tests.tasks.pretraining import write_data

MT6 = "--task mt6_pretraining --tokens-per-sample 48 --max-tokens 300 --pnat-groups 2".split()
MULTI = "--max-tokens 200 --encoder-langtok tgt --lang-pairs de-en,en-fr".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def show(data, *words, stock=()):
    return main(["show-batch", "--width", "100", *map(str, words), "--", str(data), *stock])


def test_a_batch_of_mt6_shows_its_objectives_and_groups(data):
    batch = read_batch([str(data), *MT6], None, 1, 1)
    assert [example.title.split()[0] for example in batch.examples[:2]] == ["sc", "tsc"]
    grouped = [example for example in batch.examples if "2" in example.rows.get("group", [])]
    assert len(grouped) > 3
    for example in grouped:
        rows = example.rows
        starts = [place for place, group in enumerate(rows["group"]) if place == 0 or group != rows["group"][place - 1]]
        assert [rows["decoder input"][start] for start in starts] == ["</s>"] * len(starts) and len(starts) == 2
        after = [place for place in range(len(rows["target"])) if place not in starts]
        assert [rows["decoder input"][place] for place in after] == [rows["target"][place - 1] for place in after]
        group_T = torch.tensor([int(group) for group in rows["group"]])
        model_mask = both(causal_mask(len(group_T), len(group_T), torch.device("cpu")), same_group(group_T[None]))
        assert np.array_equal(example.sees_TT, model_mask[0, 0].numpy())
        assert "<sentinel_1>" in rows["source"] and "<pad>" not in sum(rows.values(), [])


def test_a_batch_of_the_pseudo_masked_lm_shows_steps_and_who_sees_whom(data):
    words = [str(data), "--task", "pseudo_masked_lm", "--tokens-per-sample", "48", "--max-tokens", "300"]
    batch = read_batch([*words, "--texts", "pairs"], None, 1, 1)
    assert {example.title for example in batch.examples} <= {"de-en", "en-fr"}
    for example in batch.examples:
        rows = example.rows
        step_L = torch.tensor([int(step) for step in rows["step"]])
        assert np.array_equal(example.sees_TT, seen_by_step(step_L[None], step_L[None])[0, 0].numpy())
        text, asks = step_L.eq(0), step_L.lt(0)
        assert [rows["input"][place] for place in (0, int(text.sum()) - 1)] == ["<s>", "</s>"]
        wanted = {rows["position"][place]: rows["target"][place] for place in asks.nonzero().flatten()}
        assert wanted and all(rows["target"][int(position)] == word for position, word in wanted.items())
        assert "<pad>" not in sum(rows.values(), [])


def test_the_batch_is_the_one_that_training_gets(data):
    """Number and epoch choose it: what the engine's own iterator yields there."""
    from fairseq import tasks

    from fairseq_plugins.cli._batch_reader import configuration

    words = [str(data), *MT6]
    cfg = configuration(words)
    task = tasks.setup_task(cfg.task)
    task.load_dataset("train", epoch=2)
    limits = dict(max_tokens=300, max_positions=task.max_positions(), required_batch_size_multiple=8, seed=1, epoch=2)
    batches = list(task.get_batch_iterator(task.dataset("train"), **limits).next_epoch_itr(shuffle=True))
    for number in (1, 3):
        shown = read_batch(words, None, 2, number)
        assert shown.examples[0].rows == describe(task, "", batches[number - 1])[0].rows
        assert f"epoch 2, batch {number} of {len(batches)}: " in shown.title and shown.count == len(shown.examples)
    assert read_batch(words, None, 1, 1).examples[0].rows != read_batch(words, None, 2, 1).examples[0].rows


@pytest.mark.parametrize(
    "folder, stock, rows",
    [
        (".", "--task translation -s de -t en --max-tokens 200", ["source", "decoder input", "target"]),
        (".", "--task translation_multi_simple_epoch", ["source", "decoder input", "target"]),
        (".", "--task translation_multi_temperature_ramp", ["source", "decoder input", "target"]),
        ("de", "--task masked_lm --tokens-per-sample 30 --max-tokens 200", ["input", "target"]),
        (".", "--task multilingual_masked_lm --tokens-per-sample 30 --max-tokens 200", ["input", "target"]),
        ("de", "--task language_modeling --tokens-per-sample 30 --max-tokens 200", ["input", "target"]),
    ],
)
def test_stock_tasks_are_read(data, folder, stock, rows):
    words = stock.split() + (MULTI if "multi_" in stock else [])
    for name in ("de", "en", "fr"):
        (data / name / "dict.txt").write_bytes((data / "dict.txt").read_bytes())
        (data / f"dict.{name}.txt").write_bytes((data / "dict.txt").read_bytes())
    example = read_batch([str(data / folder), *words], None, 1, 1).examples[0]
    assert list(example.rows) == rows and not any("<pad>" in words for words in example.rows.values())
    if "source" in rows:
        assert example.rows["decoder input"] == ["</s>", *example.rows["target"][:-1]]
        assert ("__" in example.rows["source"][0]) == ("multi" in stock)
    elif "language" in stock:
        assert example.rows["input"][1:] == example.rows["target"][:-1]
        assert np.array_equal(example.sees_TT, np.tril(np.ones((len(example.rows["input"]),) * 2, dtype=bool)))
    else:
        masked = [place for place, word in enumerate(example.rows["input"]) if word == "<mask>"]
        assert masked and all(example.rows["target"][place] != "\u00b7" for place in masked)
        assert example.sees_TT is None, "every token sees every other"


def test_the_text_is_aligned_and_the_grid_drawn():
    sees = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    rows = {"source": ["a", "b"], "decoder input": ["x", "日本", "z"], "target": ["long", "q", "</s>"]}
    batch = Batch("title", [ReadableExample("sc de", rows, sees, "decoder input", "target")], 7)
    lines = text(batch, 60).splitlines()
    assert lines[0] == "title" and lines[2].startswith("-- example 1 of 7, sc de -")
    assert lines[3].split() == ["source", "a", "b"]
    assert [columns_of(line[: line.index(word)]) for line, word in ((lines[4], "z"), (lines[5], "</s>"))] == [25, 25]
    grid = [line.split()[-1].replace("\u2588", "#").replace("\u00b7", ".") for line in lines[7:10]]
    assert grid == ["#..", "##.", "..#"]
    assert text(batch, 60, blocks=False).splitlines()[8].split() == ["日本", "##."]
    narrow = text(batch, 18, blocks=False)
    assert "the first 2 of 3 places" in narrow and narrow.count("decoder input") == 2


def test_the_picture_has_a_colour_for_each_group(data, tmp_path, capsys):
    batch = read_batch([str(data), *MT6], None, 1, 1)
    example = next(example for example in batch.examples if "2" in example.rows.get("group", []))
    drawn = ElementTree.fromstring(picture(Batch("a < b", [example], 1)))
    fills = [rect.get("fill") for rect in drawn.iter("{http://www.w3.org/2000/svg}rect") if rect.get("fill") in COLOURS]
    assert set(fills) == set(COLOURS[:2]) and len(fills) == example.sees_TT.sum()
    words = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == "a < b" and set(sum(example.rows.values(), [])) <= set(words)
    assert show(data, "--examples", 2, "--picture", tmp_path / "batch.svg", stock=MT6) == 0
    out = capsys.readouterr().out
    assert len(re.findall("-- example", out)) == 2 and out.endswith("batch.svg written\n")
    ElementTree.parse(tmp_path / "batch.svg")


def test_a_task_tells_how_its_batches_read():
    class Task:
        def describe_batch(self, sample):
            return [ReadableExample("mine", {"input": sample["words"]})]

    assert describe(Task(), "x", {"words": ["a"]})[0].rows == {"input": ["a"]}
    with pytest.raises(UserError, match="batches of the task x cannot be read: give it a method describe_batch"):
        describe(object(), "x", {"words": ["a"]})


@pytest.mark.parametrize(
    "words, stock, said",
    [
        (["--batch", "0"], MT6, "--batch 0 must be at least 1"),
        (["--batch", "9999"], MT6, "--batch 9999: epoch 1 of train has "),
        (["--width", "10"], MT6, "--width 10 must be at least 40"),
        (["--split", "none"], MT6, "none"),
        (["--picture", "{data}/none/x.svg"], MT6, "none"),
        ([], ["--task", "no_such_task"], "fairseq-train does not understand these words: argument --task: invalid"),
        ([], [*MT6, "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        ([], [*MT6, "--pnat-groups", "0"], "--pnat-groups 0 must be at least 1"),
        ([], "--task translation -s de -t en".split(), "give --max-tokens or --batch-size after --"),
        ([], "--task translation -s de -t xx --max-tokens 90".split(), "the task translation found no train data"),
    ],
)
def test_bad_input_is_one_sentence(data, capsys, words, stock, said):
    words = [word.format(data=data) for word in words]
    assert show(data, *words, stock=stock) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and said in error


def test_nothing_after_the_dashes_is_one_sentence(capsys):
    assert main(["show-batch"]) == 2
    assert "give the words of fairseq-train after --" in capsys.readouterr().err
