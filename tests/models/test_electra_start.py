"""What starts from an electra: translation models, classifiers and sequence-to-sequence models; and what is refused."""

import logging
import shutil

import pytest
import torch
from fairseq import checkpoint_utils
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from fairseq_plugins.models._tables import WrongCheckpoint
from tests.electra_support import POSITIONS, electra_words, exported, save_electra
from tests.models.classifiers import HEAD, classifier
from tests.models_support import build, model_config, sentences

WORDS = electra_words()
TEXT = sentences(WORDS, [9, 4, 7])
SEGMENT = "its first segment becomes part of every position"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(electra, its checkpoint, that of its discriminator, that of its generator), tables as wide as the first."""
    path, model = save_electra(tmp_path_factory.mktemp("electra"))
    return model.eval(), path, exported(path, "discriminator"), exported(path, "generator")


def sides(**values):
    """Options of both sides."""
    shape = {"layers": 3, "embed_dim": 16, "ffn_embed_dim": 24, "attention_heads": 2, **values}
    return [word for side in ("encoder", "decoder") for name, value in shape.items() for word in
            (f"--{side}-{name.replace('_', '-')}", str(value))]  # fmt: skip


def translator(*flags, **shape):
    """An xlm_t of the discriminator's shape in float64, not started yet."""
    torch.manual_seed(7)
    limits = ["--max-source-positions", str(POSITIONS), "--max-target-positions", "24", "--dropout", "0"]
    return build("xlm_t_tiny", WORDS, *sides(**shape), *limits, *flags).double()


def refusal_of(model):
    with pytest.raises(Refusal) as refusal:
        model.start_training()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ---- translation -----------------------------------------------------------------------------------------------------


def test_the_encoder_of_a_translation_model_reads_as_the_discriminator_does(pretrained, caplog):
    electra, _, path, _ = pretrained
    model = translator("--init-encoder", str(path))
    with caplog.at_level(logging.INFO):
        model.start_training()
    assert f"--init-encoder {path}: {SEGMENT}" in caplog.text
    found, expected = model.encoder(TEXT)["encoder_out"][0].transpose(0, 1), electra.discriminator.encode(TEXT)[0].x_BTD
    real = TEXT.ne(WORDS.pad())  # padding's own row is zero here
    assert_close(found[real], expected[real], atol=1e-12, rtol=0)
    second = electra.discriminator.encode(TEXT, segments=torch.ones_like(TEXT))[0].x_BTD
    assert (second - expected)[real].abs().max() > 1e-3


def test_a_decoder_starts_from_it_too(pretrained):
    electra, _, path, _ = pretrained
    model = translator("--init-decoder", str(path))
    model.start_training()
    theirs = dict(electra.discriminator.named_parameters())
    name = "layers.2.feed_forward.fc1.weight"
    assert torch.equal(dict(model.decoder.named_parameters())[name], theirs[name])
    expected = theirs["embed_positions.weight"] + theirs["embed_segments.weight"][0]
    assert torch.equal(model.decoder.embed_positions.weight[2:], expected[2:26])


def test_without_segments_nothing_is_said_of_them(tmp_path, caplog):
    path, electra = save_electra(tmp_path, "--segments", "0")
    model = translator("--init-encoder", str(exported(path, "discriminator")))
    with caplog.at_level(logging.INFO):
        model.start_training()
    assert SEGMENT not in caplog.text
    expected = electra.discriminator.embed_positions.weight
    assert torch.equal(model.encoder.embed_positions.weight[2:], expected[2:])


def test_segments_without_learned_positions_are_refused(pretrained, tmp_path):
    saved = torch.load(pretrained[2], weights_only=True)
    del saved["model"]["encoder.embed_positions.weight"]
    saved["cfg"]["model"]["no_token_positional_embeddings"] = True
    torch.save(saved, tmp_path / "part.pt")
    shutil.copy(pretrained[2].with_name("dict.txt"), tmp_path)
    says = refusal_of(translator("--init-encoder", str(tmp_path / "part.pt")))
    assert says == (f"--init-encoder {tmp_path / 'part.pt'} does not fit: it has segments and no learned positions, of "
                    "which segment 0 could become a part")  # fmt: skip


def test_tables_of_another_width_are_refused(pretrained):
    path = pretrained[3]
    says = refusal_of(translator("--init-encoder", str(path), embed_dim=8, ffn_embed_dim=32, attention_heads=1))
    assert says.startswith(f"--init-encoder {path} has embeddings of width 16 and layers of width 8 (--embedding-dim)")


def test_xlm_t_has_the_shape_of_electra_base():
    """The README says so."""
    theirs = model_config("electra_base", "--tokens-per-sample", "512", task="masked_lm").model
    ours = model_config("xlm_t").model
    for name in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads", "learned_pos"):
        assert theirs[f"encoder_{name}"] == ours[f"encoder_{name}"], name
    for name in ("residual", "activation_fn", "norm", "layernorm_embedding", "no_scale_embedding", "ffn_gate"):
        assert theirs[name] == ours[name], name
    assert theirs.embedding_dim == 0 and ours.max_source_positions == 512


# ---- classification --------------------------------------------------------------------------------------------------


def scores(model):
    return model(TEXT, src_lengths=None, features_only=True, classification_head_name=HEAD)[0]


def fine_tuned(path, *flags):
    """A classifier that has a checkpoint's weights, as --finetune-from-model gives them."""
    model = classifier(*flags, arch="transformer_mlm_base", words=WORDS)
    model.load_state_dict(torch.load(path, weights_only=True)["model"], strict=True)
    return model


SHAPE = ["--encoder-layers", "3", "--segments", "2"]
OWN = [*SHAPE, *"--encoder-embed-dim 8 --encoder-ffn-embed-dim 32 --encoder-attention-heads 1".split()]
OWN += ["--embedding-dim", "16"]


@pytest.mark.parametrize("part, flags, dim", [("discriminator", SHAPE, 16), ("generator", OWN, 8)])
def test_a_classifier_reads_as_the_part_does_with_a_head_of_its_width(pretrained, part, flags, dim):
    electra, _, *files = pretrained
    model = fine_tuned(files[part == "generator"], *flags)
    head = model.classification_heads[HEAD]
    assert (head.dense.in_features, head.dense.out_features, head.out_proj.in_features) == (dim, dim, dim)
    ends = TEXT.eq(WORDS.eos()).long()
    expected = getattr(electra, part).encode(TEXT, segments=ends.cumsum(1) - ends)[0].x_BTD
    assert_close(scores(model), head(expected[:, 0]))
    scores(model).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", ["transformer_mlm", "transformer_mlm_base"])
def test_a_checkpoint_from_before_tables_had_a_width_of_their_own_loads(pretrained, name, tmp_path):
    """Under a preset's name the engine merges no defaults."""
    saved = torch.load(pretrained[2], weights_only=True)
    del saved["cfg"]["model"]["embedding_dim"]
    saved["cfg"]["model"]["_name"] = name
    torch.save(saved, tmp_path / "old.pt")
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "old.pt")])
    assert model.encoder.embed_project is None and model.encoder.dim == 16


# ---- sequence to sequence --------------------------------------------------------------------------------------------


def unilmv2(path, *flags):
    words = electra_words()
    words.add_symbol("<pseudo_mask>")
    limits = ["--max-source-positions", "15", "--max-target-positions", "15", "--pretrained-checkpoint", str(path)]
    parts = ["--relative-bias-buckets", "0", "--segments", "2"]
    return build("unilmv2_seq2seq_tiny", words, *sides()[:8], *parts, *limits, *flags).double()


def test_unilmv2_starts_from_either(pretrained):
    electra, _, discriminator, generator = pretrained
    for path, part, flags in ((discriminator, "discriminator", []), (generator, "generator", OWN)):
        model = unilmv2(path, *flags)
        model.start_training()
        name = "layers.1.feed_forward.fc2.weight"
        theirs = dict(getattr(electra, part).named_parameters())[name]
        assert torch.equal(dict(model.encoder.named_parameters())[name], theirs)
        assert (model.encoder.embed_project is None) == (part == "discriminator")
    says = refusal_of(unilmv2(generator, *OWN, "--embedding-dim", "12"))
    assert says == f"--pretrained-checkpoint {generator} needs --embedding-dim 16, not 12"


# ---- the electra itself ----------------------------------------------------------------------------------------------


def test_the_electra_itself_is_to_be_exported_first(pretrained):
    _, path, *_ = pretrained
    advice = "is of an electra, which is two models: write one of them with python -m fairseq_plugins export"
    assert refusal_of(translator("--init-encoder", str(path))).startswith(f"--init-encoder {path} {advice}")
    assert f"--pretrained-checkpoint {path} {advice}" in refusal_of(unilmv2(path))
    state = torch.load(path, weights_only=True)["model"]
    for model in (classifier(*SHAPE, words=WORDS), translator(), unilmv2(path)):
        with pytest.raises(WrongCheckpoint, match=f"the checkpoint {advice}"):
            model.load_state_dict(dict(state), strict=True)
