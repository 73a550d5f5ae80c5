"""`export --to generator` and `--to discriminator`: each a transformer_mlm that computes what it did in the electra."""


import math
import re
import shutil
from typing import List

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_plugins.__main__ import main
from tests.electra_support import POSITIONS, electra_words, exported, save_electra
from tests.helpers import checkpoint, run_fairseq, succeeded
from tests.models.classification_data import words_for, write_classification_data
from tests.models_support import build, sentences

PARTS = ("generator", "discriminator")
WORDS = electra_words()
# a generator of another depth; tables as wide as it, as the discriminator, as neither
SHAPES: List[List[str]] = [
    [],
    ["--generator-width", "1", "--generator-layers", "2", "--hardness", "loss"],
    ["--embedding-dim", "8", "--generator-width", "0.5"],
    ["--embedding-dim", "12", "--segments", "0", "--residual", "deepnorm", "--hardness", "dist"],
    ["--residual", "pre", "--norm", "rms", "--relative-bias-buckets", "8", "--ffn-gate"],
    ["--moe-experts", "4", "--moe-freq", "2"],
]


def loaded(path):
    """The model and its task, as every stock command loads them; in float64, as it was saved."""
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    model.double().load_state_dict(torch.load(path, weights_only=True)["model"])
    return model.eval(), cfg, task


@pytest.mark.parametrize("flags", SHAPES, ids=lambda flags: " ".join(flags) or "electra_tiny")
def test_each_part_computes_what_it_did_and_is_built_by_the_words_printed(flags, tmp_path, capsys):
    path, electra = save_electra(tmp_path, *flags)
    text = sentences(WORDS, [9, 4, 7])
    segments = text.eq(WORDS.eos()).long() if "--segments" not in flags else None
    generator, cfg, _ = loaded(exported(path, "generator"))
    assert cfg.model._name == "transformer_mlm"
    found, expected = (model(text, segments=segments)[0] for model in (generator, electra.eval().generator))
    assert torch.equal(found, expected) and found.std() > 0.1
    discriminator, _, _ = loaded(exported(path, "discriminator"))
    found = discriminator(text, segments=segments, features_only=True)[0]
    assert torch.equal(found, electra.discriminator.encode(text, segments=segments)[0].x_BTD) and found.std() > 0.1
    assert torch.isfinite(discriminator(text)[0]).all()

    lines = capsys.readouterr().out.splitlines()
    for part, (told, words) in zip(PARTS, (lines[:2], lines[2:]), strict=True):
        output = path.with_name(f"{part}.pt")
        assert told.startswith(f"{output}: the {part} of {path}") and ("is fresh" in told) == (part == PARTS[1])
        arch, *rest = words.removeprefix("--arch ").split()
        model = build(arch, WORDS, *rest, "--tokens-per-sample", str(POSITIONS), task="masked_lm").double()
        model.load_state_dict(torch.load(output, weights_only=True)["model"])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An electra's checkpoint."""
    return save_electra(tmp_path_factory.mktemp("small"))[0]


def changed(folder, path, change=lambda saved: None):
    """A copy of a checkpoint and its dictionary, with a change."""
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, folder / "electra.pt")
    shutil.copy(path.with_name("dict.txt"), folder)
    return folder / "electra.pt"


def test_a_checkpoint_of_task_electra_becomes_one_of_the_stock_task(small, tmp_path):
    task = {"_name": "electra", "data": None, "mono_data": str(tmp_path), "tokens_per_sample": POSITIONS, "seed": 5,
            "sample_break_mode": "complete", "mask_prob": 0.2, "leave_unmasked_prob": 0.1, "texts": "mono",
            "sampling_alpha": 0.7}  # fmt: skip
    path = changed(tmp_path, small, lambda saved: saved["cfg"].update(task=task))
    _, cfg, task = loaded(exported(path, "generator"))
    assert (cfg.task._name, cfg.criterion._name) == ("masked_lm", "masked_lm")
    assert task.source_dictionary == WORDS
    assert (task.cfg.mask_prob, task.cfg.leave_unmasked_prob, task.cfg.random_token_prob) == (0.2, 0.1, 0.0)


def test_what_the_file_says_of_itself(small, tmp_path):
    data = {"sha256": {"dict.txt": "x", "sentencepiece.model": "y"}, "tag_scheme": "target"}
    path = changed(tmp_path, small, lambda saved: saved.update(extra_state={"fairseq_plugins": data, "ema": {}}))
    state = torch.load(exported(path, "discriminator"), weights_only=True)
    extra = state["extra_state"]
    assert extra.keys() == {"exported", "fairseq_plugins"} and extra["fairseq_plugins"] == data
    assert (extra["exported"]["file"], extra["exported"]["part"]) == ("electra.pt", "discriminator")
    assert state["optimizer_history"][-1]["num_updates"] == 7 and "last_optimizer_state" not in state
    assert not {"generator_width", "hardness"} & state["cfg"]["model"].keys()


def test_an_export_is_replaced_and_nothing_else_is(small, tmp_path, capsys):
    path = changed(tmp_path, small)
    output = exported(path, "generator", tmp_path / "part.pt")
    exported(path, "discriminator", output)
    assert torch.load(output, weights_only=True)["extra_state"]["exported"]["part"] == "discriminator"
    capsys.readouterr()
    for other in (path, tmp_path / "dict.txt", tmp_path):
        assert main(["export", str(path), "--to", "generator", "--output", str(other)]) == 2
        assert capsys.readouterr().err == f"error: --output {other} exists and is no export; give a new file\n"


def without(prefix):
    return lambda saved: {name: value for name, value in saved["model"].items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda saved: saved["cfg"]["model"].update(_name="transformer_mlm_base"), "transformer_mlm: --to disc"),
        (lambda saved: saved["cfg"]["model"].update(generator_width=2.0), "--generator-width 2 must be"),
        (lambda saved: saved.update(model=without("generator.lm_head")(saved)), "its generator has no lm_head.dense"),
        (lambda saved: saved.update(model=without("discriminator.layers")(saved)), "it has no layers.0.self_attn"),
        (lambda saved: saved.update(model=without("discriminator")(saved)), "is damaged or no electra: it has no"),
        (lambda saved: saved.update(cfg=None), "it has no options"),
        (lambda saved: saved.update(extra_state={"expert_shard": {"rank": 0, "ranks": 2}}), "merge-experts first"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_writes_nothing(small, tmp_path, capsys, change, says):
    part = "generator" if "--generator-width" in says else "discriminator"
    path = changed(tmp_path, small, change)
    assert main(["export", str(path), "--to", part, "--output", str(tmp_path / "out.pt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
    assert not (tmp_path / "out.pt").exists()


def put(where, **values):
    """A change of one dict in a checkpoint."""
    return lambda saved: (saved[where] if where != "options" else saved["cfg"]["model"]).update(values)


def tensor(name, value):
    return lambda saved: saved["model"].update({name: value})


LAST = "discriminator.layers.2."
QUERY = "discriminator.layers.0.self_attn.q_proj.weight"
TABLE = "discriminator.embed_tokens.weight"
HEAD = "generator.lm_head.dense.weight"


@pytest.mark.parametrize(
    "change, says",
    [
        (tensor(TABLE, 3), f"model {TABLE} is a int"),
        (tensor(TABLE, torch.ones(())), f"its {TABLE} is no matrix"),
        (tensor(TABLE, torch.ones(4)), f"its {TABLE} is no matrix"),
        (tensor(QUERY, "x"), f"model {QUERY} is a str"),
        (tensor(QUERY, torch.ones(())), "its layers.0.self_attn.q_proj.weight is no matrix"),
        (tensor(QUERY, torch.ones(16)), "its layers.0.self_attn.q_proj.weight is no matrix"),
        (tensor(QUERY, torch.ones(16, 16).int()), "its layers.0.self_attn.q_proj.weight is no matrix"),
        (tensor(HEAD, 3), f"model {HEAD} is a int"),
        (tensor(HEAD, torch.ones(())), "its lm_head.dense.weight is no matrix"),
        (tensor("generator.lm_head.bias", torch.ones(2)), "encoder.lm_head.bias is [2], and with its options"),
        (tensor("discriminator.layernorm_embedding.weight", None), "layernorm_embedding.weight is missing"),
        (tensor(f"{LAST}feed_forward.fc1.bias", torch.ones(24).int()), "fc1.bias is [24] of whole numbers, and with"),
        (tensor("discriminator.more", torch.ones(1)), "encoder.more is [1], and with its options it would be missing"),
        (tensor(5, torch.ones(2)), "the name 5 in model is a int"),
        (lambda saved: saved.update(model=without(LAST)(saved)), "is missing, and with its options it would be ["),
        (lambda saved: saved["cfg"].pop("task"), "cfg task is missing"),
        (put("cfg", task=None), "cfg task is missing"),
        (put("cfg", task={}), "_name in cfg task is missing"),
        (lambda saved: saved["cfg"].pop("model"), "cfg model is missing"),
        (put("cfg", model="electra"), "cfg model is a str"),
        (lambda saved: saved.update(cfg=[1]), "cfg is a list"),
        (lambda saved: saved.update(cfg=None, args=4), "args is a int"),
        (lambda saved: saved.update(extra_state=[1]), "extra_state is a list"),
        (put("extra_state", exported="x"), "extra_state exported is a str"),
        (put("extra_state", fairseq_plugins=[1]), "extra_state fairseq_plugins is a list"),
        (lambda saved: saved.update(optimizer_history=[3]), "an entry of optimizer_history is a int"),
        (lambda saved: saved["optimizer_history"][-1].update(num_updates="x"), "num_updates in optimizer_history is"),
        (put("options", _name=[1]), "_name in cfg model is a list"),
        (put("options", generator_width="wide"), "its option generator_width is 'wide'"),
        (put("options", generator_width=None), "its option generator_width is None"),
        (put("options", encoder_embed_dim=[1]), "its option encoder_embed_dim is [1]"),
        (put("options", encoder_layers=10**9), "its options say 1000000000 layers"),
        (put("options", encoder_layers=3.5), "its options make no model ("),
        (put("options", residual="none"), "its options make no model ("),
        (lambda saved: saved["cfg"]["model"].pop("encoder_embed_dim"), "and with its options it would be ["),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_one_sentence_that_names_it(small, tmp_path, capsys, change, says):
    path = changed(tmp_path, small, change)
    assert main(["export", str(path), "--to", "discriminator", "--output", str(tmp_path / "out.pt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} is damaged or no electra: ") and says in error, error
    assert error.endswith("; copy it again, or train one with --arch electra\n") and error.count("\n") == 1
    assert not (tmp_path / "out.pt").exists()


def test_a_damaged_export_is_not_exported_again(small, tmp_path, capsys):
    path = changed(tmp_path, exported(small, "generator", small.with_name("whole.pt")),
                   tensor("encoder.layer_norm", torch.ones(2)))  # fmt: skip
    assert main(["export", str(path), "--to", "generator", "--output", str(tmp_path / "out.pt")]) == 2
    assert "encoder.layer_norm is [2], and with its options it would be missing" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


def test_an_export_can_be_exported_again_but_not_to_the_other_part(small, tmp_path, capsys):
    first = exported(changed(tmp_path, small), "discriminator")
    words = capsys.readouterr().out.splitlines()[1]
    again = exported(first, "discriminator", tmp_path / "again.pt")
    assert capsys.readouterr().out.splitlines()[1] == words
    one, other = (torch.load(path, weights_only=True) for path in (first, again))
    assert one["cfg"] == other["cfg"] and one["extra_state"] == other["extra_state"]
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert main(["export", str(first), "--to", "generator", "--output", str(tmp_path / "out.pt")]) == 2
    says = f"error: {first} is a discriminator alone: --to generator takes the checkpoint that it was made from\n"
    assert capsys.readouterr().err == says and not (tmp_path / "out.pt").exists()


def test_an_option_of_the_other_forms_is_refused(small, tmp_path, capsys):
    path = changed(tmp_path, small)
    words = ["--to", "generator", "--output", str(tmp_path / "out.pt"), "--quantization", "int8"]
    assert main(["export", str(path), *words]) == 2
    assert capsys.readouterr().err == "error: --quantization is for --to ctranslate2\n"


def test_an_electra_has_no_other_form(small, tmp_path, capsys):
    path = changed(tmp_path, small)
    assert main(["export", str(path), "--to", "fairseq", "--output", str(tmp_path / "out.pt")]) == 2
    assert "is of a electra: only encoder-decoders" in capsys.readouterr().err


# ---- through the real commands ---------------------------------------------------------------------------------------

TASK = "--task masked_lm --criterion electra_hardness --hardness loss --tokens-per-sample 16".split()
TRAINING = (
    "--optimizer adam --lr 0.005 --batch-size 16 --num-workers 0 --seed 1 --no-epoch-checkpoints --log-format json "
    "--max-update 10"
).split()
TINY = (
    "--arch electra_tiny --encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--encoder-attention-heads 4"
).split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder for sentence_prediction, checkpoint of an electra of the same texts)."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_classification_data(folder / "data")
    succeeded(run_fairseq("train", data / "input0", *TASK, *TINY, *TRAINING, "--save-dir", folder))
    return data, folder / "checkpoint_last.pt"


@pytest.mark.slow
def test_the_stock_commands_validate_the_generator_and_train_it_on(trained, tmp_path):
    data, path = trained
    output = exported(path, "generator", tmp_path / "generator.pt")
    stock = ["--task", "masked_lm", "--criterion", "masked_lm", "--batch-size", 16]
    told = succeeded(run_fairseq("validate", data / "input0", "--path", output, *stock))
    (electra,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    task.load_dataset("valid")
    # as the command reads it: which tokens are masked depends on the epoch that the iterator sets
    (batch,) = task.get_batch_iterator(task.dataset("valid"), max_sentences=16).next_epoch_itr(shuffle=False)
    target = batch["target"]
    logits = electra.eval().generator(batch["net_input"]["src_tokens"])[0].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, target.flatten(), ignore_index=WORDS.pad()) / math.log(2)
    found = re.search(r"\| valid \| .*?\| loss ([\d.]+)", told.stdout + told.stderr)
    assert found and float(found[1]) == pytest.approx(expected.item(), abs=6e-3)

    words = ["--arch", "transformer_mlm_base", *TINY[2:], "--encoder-embed-dim", 16, "--encoder-attention-heads", 1,
             "--embedding-dim", 32, "--segments", 2, "--tokens-per-sample", 16]  # fmt: skip
    start = ["--restore-file", output, "--reset-optimizer", "--save-dir", tmp_path / "run"]
    succeeded(run_fairseq("train", data / "input0", *stock, *words, *TRAINING, *start))
    assert checkpoint(tmp_path / "run")["optimizer_history"][-1]["num_updates"] == 10


@pytest.mark.slow
def test_the_discriminator_becomes_a_classifier(trained, tmp_path, capsys):
    data, path = trained
    output = exported(path, "discriminator", tmp_path / "discriminator.pt")
    model = capsys.readouterr().out.splitlines()[1].split()
    start = ["--finetune-from-model", output, "--max-epoch", 6, "--save-dir", tmp_path]
    words = [*words_for(data)[: words_for(data).index("--arch")], *model, *TRAINING[:-2], *start]
    best = ["--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric"]
    told = succeeded(run_fairseq("train", *words, *best))
    assert "the classification head sentence_classification_head starts at random" in told.stdout + told.stderr
    assert checkpoint(tmp_path)["extra_state"]["best"] > 70
    refused = run_fairseq("train", *words, *best, "--finetune-from-model", path, "--save-dir", tmp_path / "other")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.strip().splitlines()[-1].startswith("the checkpoint is of an electra, which is two models")
