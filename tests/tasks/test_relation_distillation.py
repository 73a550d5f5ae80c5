"""`--task relation_distillation` under the stock commands: texts, exact resume, what checkpoints hold, refusals."""

import re
import shutil

import pytest
import torch
from fairseq.data import Dictionary

import fairseq_plugins
from fairseq_plugins.__main__ import main
from fairseq_plugins.compat import Refusal
from tests.helpers import checkpoint, run_fairseq, succeeded, training_losses
from tests.tasks.pretraining import PretrainingTask, write_data

fairseq_plugins.register()

SMALL = "--encoder-embed-dim 16 --encoder-ffn-embed-dim 24 --encoder-attention-heads 2 --dropout 0.1".split()
DECODER = ("--decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 24 --decoder-attention-heads 2 "
           "--share-all-embeddings").split()  # fmt: skip
BIG = "--encoder-layers 3 --encoder-embed-dim 24 --encoder-ffn-embed-dim 24 --encoder-attention-heads 2".split()
MLM = ["--arch", "transformer_mlm_base", *SMALL, "--encoder-layers", "2"]
HEADS = ["--relation-heads", "4"]
OURS = PretrainingTask("relation_distillation", [*MLM, *HEADS])
TRANSLATION = PretrainingTask(
    "relation_distillation",
    ["--arch", "transformer_mt", *SMALL, *DECODER, "--encoder-layers", "1", *HEADS, "--texts", "sources"],
)
task, loaded, train = OURS.task, OURS.loaded, OURS.train


def stock_task(data):
    """German and English by the engine's multilingual task, with the target's tag on the source."""
    words = ("--task translation_multi_simple_epoch --lang-pairs de-en,en-de --langs de,en --encoder-langtok tgt "
             "--max-tokens 400 --optimizer adam --num-workers 0 --seed 1").split()  # fmt: skip
    return [data, *words, "--fixed-dictionary", data / "dict.txt"]


@pytest.fixture(scope="module")
def teachers(data, tmp_path_factory):
    """A masked language model and a translation model, hardly trained."""
    folder = tmp_path_factory.mktemp("teachers")
    mlm = PretrainingTask("pseudo_masked_lm", ["--arch", "transformer_mlm_base", *BIG, "--objectives", "ae"])
    succeeded(mlm.train(data, folder / "mlm", 3))
    words = [*stock_task(data), "--arch", "transformer_mt", *BIG, *DECODER, "--decoder-embed-dim", "24"]
    succeeded(run_fairseq("train", *words, "--lr", "0.005", "--max-update", "3", "--save-dir", folder / "mt"))
    return {"mlm": folder / "mlm" / "checkpoint_last.pt", "mt": folder / "mt" / "checkpoint_last.pt"}


def lines(of, dictionary, count=None):
    examples = [of[index]["example"] for index in range(count or len(of))]
    return [" ".join(dictionary[row] for row in example.text_T) for example in examples]


def test_texts_are_whole_in_one_line_and_nothing_is_masked(data):
    words = Dictionary.load(str(data / "dict.txt"))
    for line in lines(loaded(data, "--texts", "mono,pairs"), words, 60):
        assert line.startswith("<s> ") and line.endswith("</s>") and "<mask>" not in line
    pair = lines(loaded(data, "--texts", "pairs"), words, 1)[0]
    assert pair.count("</s>") == 2


@pytest.mark.parametrize("tag, wanted", [("tgt", {"__de__", "__en__", "__fr__"}), ("none", set())])
def test_sources_are_those_of_every_direction_after_a_tag(data, tag, wanted):
    words = Dictionary.load(str(data / "dict.txt"))
    of = loaded(data, "--texts", "sources", "--encoder-langtok", tag, "--sampling-alpha", "1")
    assert {of[index]["text"] for index in range(len(of))} == {"de-en", "en-de", "en-fr", "fr-en"}
    assert len(of) == 2 * (120 + 40)
    found = {line.split()[0] for line in lines(of, words)} if wanted else set()
    assert found == wanted
    sources = {(source, target): {tuple(row.tolist()) for row in sentences}
               for pair in task(data, "--texts", "pairs").texts("pairs", "train", 1)
               for source, target, sentences in zip(pair.languages, pair.languages[::-1], pair.sentences, strict=True)}
    for index in range(len(of)):
        source, target = of[index]["text"].split("-")
        tokens = of[index]["example"].text_T
        if wanted:
            assert words[tokens[0]] == f"__{target}__"
        assert len(tokens) == of.size(index)[0]
        assert tuple(tokens[bool(wanted) :].tolist()) in sources[source, target]


def test_sources_are_tagged_by_the_source_if_asked(data):
    words = Dictionary.load(str(data / "dict.txt"))
    of = loaded(data, "--texts", "sources", "--encoder-langtok", "src")
    for index in range(0, len(of), 11):
        assert words[of[index]["example"].text_T[0]] == f"__{of[index]['text'].split('-')[0]}__"


def distil(data, teachers, run, updates, *words, kind="mlm"):
    of = TRANSLATION if kind == "mt" else OURS
    return of.train(data, run, updates, "--teacher", teachers[kind], *words)


def test_the_loss_falls_and_a_resumed_training_has_the_same(data, teachers, tmp_path):
    words = ["--texts", "mono,pairs", "--attention-dropout", "0.1"]
    whole = succeeded(distil(data, teachers, tmp_path / "whole", 40, *words))
    succeeded(distil(data, teachers, tmp_path / "halves", 15, *words))
    rest = succeeded(distil(data, teachers, tmp_path / "halves", 40, *words))
    losses = training_losses(whole)
    assert training_losses(rest) == {update: losses[update] for update in range(16, 41)}
    assert losses[40] < losses[1] / 2
    told = whole.stdout + whole.stderr
    assert re.search(r"--teacher \S+: 3 layers of width 24, 2 heads; relations of layer 3, in float32", told)
    assert re.search(r'"valid_qq_loss": "[\d.]+", "valid_kk_loss": "[\d.]+", "valid_vv_loss": "[\d.]+"', told)


def test_a_checkpoint_holds_the_student_alone_and_needs_no_teacher(data, teachers, tmp_path):
    there = shutil.copytree(teachers["mlm"].parent, tmp_path / "teacher") / "checkpoint_last.pt"
    succeeded(distil(data, {"mlm": there}, tmp_path / "run", 3))
    saved = checkpoint(tmp_path / "run")
    assert not saved["criterion"] and saved["model"]["encoder.layers.1.self_attn.q_proj.weight"].shape == (16, 16)
    assert not any(name.startswith("encoder.layers.2.") for name in saved["model"])
    moments = saved["last_optimizer_state"]["state"]
    learned = [value["exp_avg"].numel() for value in moments.values()]
    frozen = ("encoder.layers.1.self_attn.out_proj", "encoder.layers.1.feed_forward", "encoder.lm_head",
              "encoder.layers.1.self_attn_layer_norm", "encoder.layers.1.final_layer_norm")  # fmt: skip
    wanted = sum(value.numel() for name, value in saved["model"].items() if not name.startswith(frozen))
    assert sum(learned) == wanted
    shutil.rmtree(there.parent)
    tuning = PretrainingTask("pseudo_masked_lm", [*MLM, "--objectives", "ae"])
    student = tmp_path / "run" / "checkpoint_last.pt"
    succeeded(tuning.train(data, tmp_path / "tuned", 2, "--finetune-from-model", student, "--freeze-layers", "1"))
    tuned = checkpoint(tmp_path / "tuned")["model"]
    same = {name for name, value in tuned.items() if torch.equal(value, saved["model"][name])}
    frozen = ("encoder.layers.0.", "encoder.embed", "encoder.layernorm", "encoder.lm_head.weight")
    assert same == {name for name in tuned if name.startswith(frozen)}
    again = run_fairseq("validate", data, "--task", "relation_distillation", "--path", student, *OURS.BATCHES)
    told = again.stdout + again.stderr
    assert again.returncode and f"--teacher {there} does not exist" in told and "Traceback" not in told


def test_the_encoder_of_a_translation_model_is_taught_and_then_translates(data, teachers, tmp_path):
    losses = training_losses(succeeded(distil(data, teachers, tmp_path / "run", 30, kind="mt")))
    assert losses[30] < losses[1] / 2
    saved = checkpoint(tmp_path / "run")["model"]
    words = [*stock_task(data), "--arch", "transformer_mt", *SMALL, *DECODER, "--encoder-layers", "1", "--lr", "0"]
    start = ["--finetune-from-model", tmp_path / "run" / "checkpoint_last.pt", "--max-update", "1"]
    succeeded(run_fairseq("train", *words, *start, "--save-dir", tmp_path / "mt"))
    name = "encoder.layers.0.self_attn.k_proj.weight"
    assert torch.equal(checkpoint(tmp_path / "mt")["model"][name], saved[name])


def test_a_student_is_validated_and_its_batches_are_shown(data, teachers, tmp_path, capsys):
    succeeded(distil(data, teachers, tmp_path / "run", 2))
    path = tmp_path / "run" / "checkpoint_last.pt"
    told = succeeded(run_fairseq("validate", data, "--task", OURS.name, "--path", path, *OURS.BATCHES))
    assert re.search(r"qq_loss [\d.]+", told.stdout + told.stderr)
    words = OURS.words(data)
    words[words.index("--task") + 1 :] = [OURS.name, *MLM, *OURS.BATCHES]
    main(["show-batch", "--", *words])  # without a teacher
    assert "<s> " in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        ("--texts both", "--texts both: give mono or pairs, or mono,pairs, or sources"),
        ("--texts mono,sources", "--texts mono,sources: give mono or pairs, or mono,pairs, or sources"),
        ("--texts sources --language-tags", "--texts sources takes its tags from --encoder-langtok"),
        ("--sampling-alpha 2", "--sampling-alpha 2 must be from 0"),
    ],
)
def test_options_of_the_task_are_checked(data, words, message):
    with pytest.raises(Refusal) as refusal:
        task(data, *words.split())
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_other_models_criterions_and_tasks_are_refused(data):
    with pytest.raises(Refusal, match="--arch transformer_clm is no student: give transformer_mlm"):
        PretrainingTask(OURS.name, ["--arch", "transformer_clm", "--decoder-layers", "1"]).build_model(data)
    with pytest.raises(Refusal, match="--criterion pseudo_masked_lm finds no targets here"):
        PretrainingTask(OURS.name, MLM, "pseudo_masked_lm").build_criterion(data)
    with pytest.raises(Refusal, match="needs a model that --task relation_distillation built"):
        OURS.build_criterion(data)


def criterion_of(data, *words):
    """What a training has before its first update."""
    from fairseq import tasks

    cfg = OURS.configuration(data, *words)
    made = tasks.setup_task(cfg.task)
    made.build_model(cfg.model)
    return made.build_criterion(cfg.criterion)


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--task relation_distillation needs --teacher"),
        (["--teacher", "nowhere"], "--teacher nowhere does not exist"),
        (["--teacher", "MLM", "--teacher-layer", "4"], "--teacher-layer 4 must be from 1 to 3"),
        (["--teacher", "MLM", "--relation-heads", "5"], "--relation-heads 5 does not divide the student's width 16"),
        (["--teacher", "MLM", "--relations", "q"], "--relations q: give some of"),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_a_training_begins(data, teachers, words, message):
    with pytest.raises(Refusal) as refusal:
        criterion_of(data, *(str(teachers["mlm"]) if word == "MLM" else word for word in words))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind, texts, fitting", [("mt", "mono", "sources"), ("mlm", "sources", "mono, pairs or both")])
def test_lines_that_a_teacher_was_not_trained_on_are_warned_of(data, teachers, kind, texts, fitting, caplog):
    criterion_of(data, "--teacher", str(teachers[kind]), "--texts", texts)
    assert f"was trained on other lines; give --texts {fitting}" in caplog.text


def test_a_teacher_of_other_pieces_is_refused(data, teachers, tmp_path):
    other = write_data(tmp_path / "other")
    text = (other / "dict.txt").read_text(encoding="utf-8").replace("w7 ", "x7 ").replace("w9 ", "x9 ")
    (other / "dict.txt").write_text(text, encoding="utf-8")
    with pytest.raises(Refusal, match="lacks 2 of the 40 pieces of the data, such as x7, x9"):
        criterion_of(other, "--teacher", str(teachers["mlm"]))
