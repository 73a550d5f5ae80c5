"""--pretrained-checkpoint: where every number of a new unilmv2_seq2seq comes from, and what is refused."""

import logging
import shutil

import pytest
import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from fairseq_plugins.models._build_moe import OptionError
from fairseq_plugins.models._tables import WrongCheckpoint
from tests.models_support import build, dictionary, model_config, sentences
from tests.pretrained_support import HEADS, LAYERS, hugging_face_names, random_roberta, roberta_words, save_roberta
from tests.pretrained_support import shape as roberta_shape
from tests.seq2seq_support import LIMITS, PARTS, SHAPE, words_of_data

THEIRS = words_of_data()
UNILM = PARTS["unilmv2"]


def data_words():
    """The words of THEIRS in another order, without some, and with one that it lacks."""
    words = Dictionary()
    for symbol in ("w5", "<pseudo_mask>", "w3", "__de__", "new", *(f"w{number}" for number in range(6, 20)), "<mask>"):
        words.add_symbol(symbol)
    return words


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(file of a masked language model with 40 positions, its state)."""
    folder = tmp_path_factory.mktemp("pretrained")
    flags = [*SHAPE, *UNILM, "--max-source-positions", "40"]
    torch.manual_seed(3)
    model = build("unilmv2_tiny", THEIRS, *flags, task="masked_lm").double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    options = OmegaConf.to_container(model_config("unilmv2_tiny", *flags, task="masked_lm").model, enum_to_str=True)
    cfg = {"model": options, "task": {"_name": "pseudo_masked_lm"}}
    torch.save({"cfg": cfg, "model": model.state_dict()}, folder / "PMLM.pt")
    THEIRS.save(str(folder / "dict.txt"))
    return folder / "PMLM.pt", model.state_dict()


def fresh(path, words, *flags, shape=SHAPE, parts=UNILM):
    torch.manual_seed(7)
    limits = [*LIMITS, "--pretrained-checkpoint", str(path)]
    return build("unilmv2_seq2seq_tiny", words, *shape, *parts, *limits, *flags).double()


def started(path, words, *flags, **more):
    """A model before and after its training has begun: two state dicts."""
    model = fresh(path, words, *flags, **more)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_training()
    return before, model.state_dict(), model


def refusal_of(path, words=None, *flags, **more):
    """The one sentence with which a training ends that starts from `path`."""
    model = fresh(path, words or words_of_data(), *flags, **more)
    with pytest.raises(Refusal) as refusal:
        model.start_training()
    message = str(refusal.value)
    assert "\n" not in message and message.startswith(f"--pretrained-checkpoint {path} ")
    return message


def test_everything_is_taken_and_hidden_states_are_theirs(pretrained):
    path, theirs = pretrained
    _, ours, model = started(path, words_of_data())
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name.endswith("embed_positions.weight"):
            assert torch.equal(value[2:], theirs[name][2 : 2 + 30])
        elif name.endswith(("embed_tokens.weight", "lm_head.weight", "lm_head.bias")):  # padding has none
            keep = [row for row in range(len(value)) if row != THEIRS.pad()]
            assert torch.equal(value[keep], theirs[name][keep]), name
        else:
            assert torch.equal(value, theirs[name]), name
    masked_lm = build("unilmv2_tiny", THEIRS, *SHAPE, *UNILM, "--max-source-positions", "40", task="masked_lm").double()
    masked_lm.load_state_dict(theirs)
    source = sentences(THEIRS, [9])
    text = torch.cat((torch.tensor([[THEIRS.bos()]]), source), dim=1)
    assert_close(model.encoder(source)["encoder_out"][0].transpose(0, 1), masked_lm(text, features_only=True)[0])


@pytest.mark.parametrize("task", [{"_name": "masked_lm"}, {"_name": "pseudo_masked_lm", "objectives": "ae"}])
def test_a_training_without_pseudo_masks_lends_them_its_mask(pretrained, tmp_path, task):
    """Its dictionary has the symbol, but the row is as it was drawn."""
    path, theirs = pretrained
    saved = torch.load(path, weights_only=True)
    saved["cfg"]["task"] = task
    torch.save(saved, tmp_path / "MLM.pt")
    THEIRS.save(str(tmp_path / "dict.txt"))
    _, ours, _ = started(tmp_path / "MLM.pt", words_of_data())
    rows = theirs["encoder.embed_tokens.weight"]
    found = ours["encoder.embed_tokens.weight"][THEIRS.index("<pseudo_mask>")]
    assert torch.equal(found, rows[THEIRS.index("<mask>")])
    assert not torch.equal(found, rows[THEIRS.index("<pseudo_mask>")])


def test_rows_follow_their_symbol(pretrained):
    path, theirs = pretrained
    words = data_words()
    before, ours, _ = started(path, words)
    for name in ("encoder.embed_tokens.weight", "encoder.lm_head.bias"):
        for row, symbol in enumerate(words.symbols):
            if symbol == "new":
                assert torch.equal(ours[name][row], before[name][row])
            elif symbol != "<pad>":
                assert torch.equal(ours[name][row], theirs[name][THEIRS.index(symbol)]), symbol
    assert torch.equal(ours["encoder.lm_head.weight"], ours["encoder.embed_tokens.weight"])


def test_a_roberta_lends_the_pseudo_mask_its_mask(tmp_path):
    state = random_roberta(roberta_words()).state_dict()
    path = save_roberta(tmp_path / "roberta", state)
    _, ours, _ = started(path, words_of_data(), shape=roberta_shape("encoder"), parts=PARTS["plain"])
    table = ours["encoder.embed_tokens.weight"]
    row = THEIRS.index("<pseudo_mask>")
    assert torch.equal(table[row], state["encoder.sentence_encoder.embed_tokens.weight"][-1])
    assert torch.equal(table[row], table[THEIRS.index("<mask>")])
    assert torch.equal(ours["encoder.lm_head.bias"][row], state["encoder.lm_head.bias"][-1])
    for part in ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias"):
        assert torch.equal(ours[f"encoder.lm_head.{part}"], state[f"encoder.lm_head.{part}"])
    assert torch.equal(
        ours[f"encoder.layers.{LAYERS - 1}.feed_forward.fc1.weight"],
        state[f"encoder.sentence_encoder.layers.{LAYERS - 1}.fc1.weight"],
    )


def test_a_folder_without_a_head_says_so(tmp_path, caplog):
    state = random_roberta(roberta_words()).state_dict()
    save_file({name: value.contiguous() for name, value in hugging_face_names(state).items()},
              tmp_path / "model.safetensors")  # fmt: skip
    heads = f'{{"model_type": "xlm-roberta", "num_attention_heads": {HEADS}}}'
    (tmp_path / "config.json").write_text(heads)
    dictionary().save(str(tmp_path / "dict.txt"))
    with caplog.at_level(logging.WARNING):
        before, ours, _ = started(tmp_path, words_of_data(), shape=roberta_shape("encoder"), parts=PARTS["plain"])
    assert "has no head for masked tokens" in caplog.text
    assert torch.equal(ours["encoder.lm_head.dense.weight"], before["encoder.lm_head.dense.weight"])
    assert not torch.equal(ours["encoder.layers.0.self_attn.q_proj.weight"],
                           before["encoder.layers.0.self_attn.q_proj.weight"])  # fmt: skip


def test_weights_of_a_checkpoint_come_first(tmp_path, caplog):
    model = fresh(tmp_path / "gone.pt", words_of_data())
    model.load_state_dict(model.state_dict())
    with caplog.at_level(logging.WARNING):
        model.start_training(resumed=False)
    assert "gone.pt: not read, as a checkpoint has given the model its weights" in caplog.text
    caplog.clear()
    resumed = fresh(tmp_path / "gone.pt", words_of_data())
    resumed.load_state_dict(resumed.state_dict())
    resumed.start_training(resumed=True)
    assert not caplog.text


def test_finetune_from_model_fits_the_table_of_positions(pretrained):
    """As fairseq loads it: rows are those of the file, so the dictionary must be too."""
    _, theirs = pretrained
    model = fresh("unused", words_of_data())
    model.load_state_dict(dict(theirs))
    assert torch.equal(model.encoder.embed_positions.weight, theirs["encoder.embed_positions.weight"][: 2 + 30])
    model.start_training(resumed=False)
    says = "knows 40 positions and this model has 30: give --position-table 40 as before, or --reset-optimizer"
    with pytest.raises(OptionError, match=says):
        model.start_training(resumed=True)
    for words, flags, wanted in (
        (words_of_data(), ["--position-table", "64"],
         "table ends at 40 tokens and this model's at 64: give --position-table 40, and --max-source-positions and"),
        (data_words(), [], f"knows {len(THEIRS)} symbols and the data's dictionary has {len(data_words())}: binarise"),
    ):  # fmt: skip
        with pytest.raises(WrongCheckpoint, match=wanted):
            fresh("unused", words, *flags).load_state_dict(dict(theirs))


def test_what_does_not_fit(pretrained, tmp_path):
    path, _ = pretrained
    assert "does not exist" in refusal_of(tmp_path / "gone.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(Refusal, match="empty.pt"):
        fresh(tmp_path / "empty.pt", words_of_data()).start_training()
    for flags, wanted in (
        (["--encoder-layers", "3"], "needs --encoder-layers 2, not 3"),
        (["--encoder-embed-dim", "24"], "needs --encoder-embed-dim 16, not 24"),
        (["--encoder-attention-heads", "4"], "needs --encoder-attention-heads 2, not 4"),
        (["--attention-temperature", "9"], "needs --attention-temperature 8, not 9"),
        (["--relative-bias-buckets", "0"], "needs --relative-bias-buckets 8, not 0"),
        (["--relative-bias-max-distance", "20"], "needs --relative-bias-max-distance 9, not 20"),
        (["--segments", "0"], "needs --segments 2, not 0"),
        (["--residual", "deepnorm"], "needs --residual post, not deepnorm"),
        (["--max-source-positions", "30"],
         "has 40 positions; --max-source-positions 30 + --max-target-positions 14 + 1, or --position-table, 45 must"),
    ):  # fmt: skip
        assert wanted in refusal_of(path, None, *flags)
    shutil.copy(path, tmp_path / "model.pt")
    assert "no dictionary says of which symbols" in refusal_of(tmp_path / "model.pt")


def test_a_roberta_has_no_relative_positions(tmp_path):
    path = save_roberta(tmp_path / "roberta", random_roberta(roberta_words()).state_dict())
    shape = roberta_shape("encoder")
    assert "needs --relative-bias-buckets 0, not 8" in refusal_of(path, shape=shape)
    assert "needs --segments 0, not 2" in refusal_of(path, shape=shape, parts=PARTS["segments"])


def test_an_encoder_decoder_is_no_masked_language_model(tmp_path):
    words = words_of_data()
    sides = [*SHAPE, *(word.replace("encoder", "decoder") for word in SHAPE[:8])]
    model = build("transformer_mt", words, *sides)
    torch.save({"model": model.state_dict(), "cfg": {"model": {}, "task": {}}}, tmp_path / "model.pt")
    words.save(str(tmp_path / "dict.txt"))
    assert "is an encoder-decoder: it must be a masked language model" in refusal_of(tmp_path / "model.pt")
