"""``train --init-from``: weights arrive under their symbols, a run goes on without the file, misfits are refused."""

import argparse
import json
import shutil

import pytest
import torch

from fairseq_plugins._verbs import UserError
from fairseq_plugins.data.symbols import read_dictionary
from fairseq_plugins.opus100 import init_from
from fairseq_plugins.opus100.files import sha256_of
from tests.opus100.corpora import WORDS, write_split
from tests.opus100.road import prepared_folder, train_words, verb
from tests.opus100.test_train import command_of, value

STILL = ("--warmup-init-lr", "1e-12", "--lr", "1e-12")  # weights stay what they were read as


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """DATA with the same text and another vocabulary."""
    return prepared_folder(tmp_path_factory.mktemp("other"), 120)


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy that nothing lies beside."""
    path = tmp_path / "alone" / "pretrained.pt"
    path.parent.mkdir()
    return shutil.copyfile(trained / "checkpoint_last.pt", path)


def train(data, run, checkpoint, updates, *words, fairseq=STILL):
    said = train_words(data, run, updates, *fairseq)
    return verb(*said[: said.index("--")], "--init-from", checkpoint, *words, *said[said.index("--") :])


def load(path):
    return torch.load(path, weights_only=True)


def changed(checkpoint, change):
    state = load(checkpoint)
    change(state)
    torch.save(state, checkpoint)
    return checkpoint


def record_of(run):
    return json.loads((run / "manifest.json").read_text())["init_from"]


def test_weights_arrive_and_everything_else_begins_anew(prepared, checkpoint, tmp_path):
    run = tmp_path / "run"
    assert train(prepared, run, checkpoint, 1) == 0
    state, start = load(run / "checkpoint_last.pt"), load(checkpoint)
    for name, tensor in start["model"].items():
        torch.testing.assert_close(state["model"][name], tensor, rtol=0, atol=1e-6)
    assert state["optimizer_history"][-1]["num_updates"] == 1
    assert state["extra_state"]["train_iterator"]["epoch"] == 1
    assert state["last_optimizer_state"]["state"][0]["step"] == 1
    assert value(command_of((run / "command.sh").read_text()), "--finetune-from-model") == str(checkpoint)
    assert record_of(run) == {"checkpoint": str(checkpoint), "sha256": sha256_of(checkpoint), "file": str(checkpoint),
                              "dictionary": "the same"}  # fmt: skip
    assert not (run / "init.pt").exists() and (run / "dict.txt").read_bytes() == (prepared / "dict.txt").read_bytes()


def test_a_run_goes_on_without_the_file_and_refuses_another(prepared, checkpoint, trained, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(prepared, run, checkpoint, 1) == 0
    elsewhere = shutil.copyfile(checkpoint, tmp_path / "elsewhere.pt")
    checkpoint.unlink()
    assert train(prepared, run, checkpoint, 2) == 0
    assert train(prepared, run, elsewhere, 3, "--dry-run") == 0, "the same file under another name"
    assert value(command_of(capsys.readouterr().out), "--finetune-from-model") == str(checkpoint)
    assert verb(*train_words(prepared, run, 3, *STILL)) == 0, "nor is the option needed any more"
    assert load(run / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 3
    assert record_of(run)["checkpoint"] == str(checkpoint)
    changed(elsewhere, lambda state: state.update(model={}))
    capsys.readouterr()
    assert train(prepared, run, elsewhere, 4) == 2
    assert f"began from {checkpoint}; give that, or another --run\n" in capsys.readouterr().err


def test_a_run_that_began_without_is_refused(prepared, checkpoint, trained, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    assert train(prepared, run, checkpoint, 61) == 2
    assert capsys.readouterr().err == (
        f"error: --init-from {checkpoint}: {run} has begun without it; give another --run, or leave it out\n"
    )


def test_rows_follow_their_symbols_into_another_dictionary(prepared, other, checkpoint, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(other, run, checkpoint, 1) == 0
    old, new = (read_dictionary(folder / "dict.txt") for folder in (prepared, other))
    assert old != new and old.index("__de__") != new.index("__de__")
    paths = checkpoint, run / "checkpoint_last.pt"
    before, after = (load(path)["model"]["encoder.embed_tokens.weight"] for path in paths)
    shared = [symbol for symbol in new if symbol in old and not symbol.startswith("madeup")]
    assert len(after) == len(new) and len(shared) > 100
    rows = [[of.index(symbol) for symbol in shared] for of in (old, new)]
    torch.testing.assert_close(after[rows[1]], before[rows[0]], rtol=0, atol=1e-6)
    assert value(command_of((run / "command.sh").read_text()), "--finetune-from-model") == str(run / "init.pt")
    record = record_of(run)
    assert record["shared_symbols"] == len(shared) and record["dictionary"] == str(prepared / "dict.txt")
    checkpoint.unlink()
    (run / "init.pt").unlink()
    assert train(other, run, checkpoint, 2) == 0
    assert f"{len(shared)} rows of {checkpoint}, moved by symbol" in capsys.readouterr().out


def test_a_dry_run_checks_everything_and_writes_nothing(other, checkpoint, tmp_path, capsys):
    assert train(other, tmp_path / "run", checkpoint, 1, "--dry-run") == 0
    assert value(command_of(capsys.readouterr().out), "--finetune-from-model") == str(tmp_path / "run" / "init.pt")
    assert train(other, tmp_path / "run", checkpoint, 1, "--dry-run", fairseq=["--encoder-layers", "2"]) == 2
    assert not (tmp_path / "run").exists()


# ---- the dictionary of a checkpoint ----------------------------------------------------------------------------------


def nowhere(state):
    state["cfg"]["task"].fixed_dictionary = None
    state["cfg"]["task"].data = "gone"


def test_the_dictionary_is_found_where_the_checkpoint_was_trained_or_beside_it(prepared, other, checkpoint, trained):
    manifest = json.loads((other / "manifest.json").read_text())
    rows = read_dictionary(prepared / "dict.txt")

    def found(path, given=None):
        return init_from.dictionary_of(path, load(path), given, other, manifest)

    assert found(checkpoint) == (rows, prepared / "dict.txt")
    changed(checkpoint, lambda state: setattr(state["cfg"]["task"], "fixed_dictionary", None))
    assert found(checkpoint) == (rows, prepared / "dict.txt"), "of --data"
    changed(checkpoint, nowhere)
    with pytest.raises(UserError, match="give it with --init-dictionary FILE"):
        found(checkpoint)
    assert found(checkpoint, prepared / "dict.txt")[0] == rows
    shutil.copyfile(other / "dict.txt", checkpoint.with_name("dict.txt"))
    with pytest.raises(UserError, match="neither beside it"):  # of another size
        found(checkpoint)
    shutil.copyfile(prepared / "dict.txt", checkpoint.with_name("dict.txt"))
    assert found(checkpoint) == (rows, checkpoint.with_name("dict.txt"))


def test_a_dictionary_that_changed_since_is_not_taken(prepared, other, checkpoint, trained):
    """As many rows are not the same rows: the manifest beside a checkpoint of `train` knows the hash."""
    shutil.copyfile(trained / "manifest.json", checkpoint.with_name("manifest.json"))
    changed(checkpoint, nowhere)
    lines = (prepared / "dict.txt").read_text().splitlines(keepends=True)
    checkpoint.with_name("dict.txt").write_text("".join([*lines[1:], lines[0]]))
    manifests = [json.loads((data / "manifest.json").read_text()) for data in (prepared, other)]
    with pytest.raises(UserError, match="neither beside it"):
        init_from.dictionary_of(checkpoint, load(checkpoint), None, other, manifests[1])
    rows, where = init_from.dictionary_of(checkpoint, load(checkpoint), None, prepared, manifests[0])
    assert (rows, where) == (read_dictionary(prepared / "dict.txt"), prepared / "dict.txt"), "DATA's own has the hash"


def test_a_vocabulary_of_other_words_is_refused(prepared, checkpoint, tmp_path, capsys):
    for split, count in {"train": 60, "dev": 5, "test": 5}.items():
        lines = [" ".join(WORDS["ru"][n % 15 :]) for n in range(count)]
        write_split(tmp_path, "en-ru", split, {"en": ["0 1 2 3 4 5 6 7 8 9"] * count, "ru": lines})
    assert verb("prepare", "--corpus", tmp_path, "--out", tmp_path / "ru", "--vocab-size", 90, "--workers", 1) == 0
    capsys.readouterr()
    assert train(tmp_path / "ru", tmp_path / "run", checkpoint, 1) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --init-from: only ") and str(prepared / "dict.txt") in error
    assert not (tmp_path / "run").exists()


# ---- misfits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, fairseq, said",
    [
        ([], ["--encoder-ffn-embed-dim", "48"], "fc1.weight has shape (32, 32) there and (48, 32) here"),
        ([], ["--encoder-layers", "2"], "encoder.layers.1.self_attn.k_proj.weight is missing there"),
        ([], ["--encoder-attention-heads", "4"], "--encoder-attention-heads was 2 and is 4; give the architecture"),
        ([], ["--activation-fn", "gelu"], "--activation-fn was relu and is gelu"),
        ([], ["--decoder-learned-pos"], "decoder.embed_positions.weight is missing there"),
        ([], ["--arch", "transformer_mt", "--residual", "pre"], "decoder.layer_norm.weight is missing there"),
        ([], ["--reset-optimizer"], "--init-from does not go with --reset-optimizer"),
        ([], ["--restore-file=x.pt"], "--init-from does not go with --restore-file=x.pt"),
        (["--init-from", "{folder}/none.pt"], [], "none.pt does not exist"),
        (["--init-from", "{data}/dict.txt"], [], "dict.txt is truncated, damaged or not a checkpoint"),
        (["--init-dictionary", "{folder}/none.txt"], [], "none.txt: No such file"),
        (["--init-dictionary", "{data}/languages.txt"], [], "languages.txt line 1: expected 'symbol count'"),
        (["--init-dictionary", "{other}/dict.txt"], [], "give the dictionary it was trained with"),
    ],
)
def test_what_does_not_fit_is_one_sentence(prepared, other, checkpoint, tmp_path, capsys, words, fairseq, said):
    words = [word.format(folder=tmp_path, data=prepared, other=other) for word in words]
    assert train(prepared, tmp_path / "run", checkpoint, 1, *words, fairseq=fairseq) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("word", ["--init-encoder", "--init-decoder=xlmr.base"])
def test_another_start_is_refused_as_it_would_not_be_read(word, tmp_path):
    args = argparse.Namespace(init_from=tmp_path / "x.pt", init_dictionary=None, fairseq_args=["--arch", "xlm_t", word])
    with pytest.raises(UserError, match=f"^--init-from does not go with {word}, which would not be read"):
        init_from.find_start(args, {})


def test_a_dictionary_alone_means_nothing(prepared, tmp_path, capsys):
    words = train_words(prepared, tmp_path / "run", 1)
    assert verb(*words[:3], "--init-dictionary", prepared / "dict.txt", *words[3:]) == 2
    assert "means nothing without --init-from" in capsys.readouterr().err


def test_a_stock_checkpoint_starts_a_model_of_this_package_and_that_one_only_its_like(prepared, checkpoint, tmp_path,
                                                                                       capsys):  # fmt: skip
    """The fit is seen after the model has translated the names; schemes with the same names are told apart."""
    words, run = [*STILL, "--arch", "transformer_mt"], tmp_path / "run"
    assert train(prepared, run, checkpoint, 1, fairseq=[*words, "--residual", "post"]) == 0
    paths = checkpoint, run / "checkpoint_last.pt"
    before, after = (load(path)["model"]["decoder.embed_tokens.weight"] for path in paths)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    capsys.readouterr()
    assert train(prepared, tmp_path / "deep", paths[1], 1, fairseq=[*words, "--residual", "deepnorm"]) == 2
    assert "--residual was post and is deepnorm; give the architecture" in capsys.readouterr().err
    assert train(prepared, tmp_path / "deep", paths[1], 1, fairseq=[*words, "--attention-temperature", "32"]) == 2
    assert "--attention-temperature was 0.0 and is 32.0" in capsys.readouterr().err
    changed(paths[1], lambda state: state["cfg"]["model"].update(residual="deepnorm"))  # the default is post
    assert train(prepared, tmp_path / "deep", paths[1], 1, fairseq=words) == 2
    assert "--residual was deepnorm and is post" in capsys.readouterr().err


@pytest.mark.parametrize("temperature, said", [("16", None), ("96", "was 0.0 and is 96.0 (0: the width of a head)")])
def test_a_checkpoint_older_than_the_attention_temperature_has_the_head_width(
    prepared, checkpoint, tmp_path, capsys, temperature, said
):
    """That is 32 / 2 here. Its options do not name it."""
    assert "attention_temperature" not in vars(load(checkpoint)["cfg"]["model"])
    fairseq = ["--arch", "transformer_mt", "--residual", "post", "--attention-temperature", temperature]
    status = train(prepared, tmp_path / "run", checkpoint, 1, "--dry-run", fairseq=fairseq)
    error = capsys.readouterr().err
    assert status == (2 if said else 0) and (said is None or f"--attention-temperature {said}" in error)


@pytest.mark.parametrize(
    "was, now, heads, head_dim, same",
    [
        (0, 16, (2, 2), 0, True),
        (16.0, 0, (2, 2), 0, True),
        (None, 64, (2, 2), 64, True),
        (0, 16, (2, 2), 64, False),
        (0, 16, (2, 4), 0, False),  # heads of 16 and 8
        (16, None, (2, 4), 0, False),  # the model has no such option
        (96, 96, (2, 4), 0, True),
        (96, 0, (2, None), 0, False),  # an encoder alone
    ],
)
def test_attention_temperatures_are_compared_as_what_they_do(was, now, heads, head_dim, same):
    trained, wanted = ({} if of is None else {"attention_temperature": of} for of in (was, now))
    for side, count in zip(("encoder", "decoder"), heads, strict=True):
        wanted |= {f"{side}_embed_dim": 32, f"{side}_attention_heads": count, "attention_head_dim": head_dim}
    assert (init_from._other_temperature(trained, wanted) == []) is same


def test_the_checkpoint_may_hold_a_plain_namespace(checkpoint, prepared, other):
    """As checkpoints of older engines do: ``args`` for everything."""
    state = load(checkpoint)
    merged = {**vars(state["cfg"]["model"]), **vars(state["cfg"]["task"])}
    state.update(args=argparse.Namespace(**merged), cfg=None)
    manifest = json.loads((other / "manifest.json").read_text())
    assert init_from.dictionary_of(checkpoint, state, None, other, manifest)[1] == prepared / "dict.txt"
