"""Where every number of an xlm_t comes from, and what is refused."""

import re

import pytest
import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY

from fairseq_plugins.compat import Refusal
from tests.models_support import build, dictionary, model_config, sentences, shifted
from tests.pretrained_support import (
    LAYERS,
    POSITIONS,
    TAGS,
    data_dictionary,
    random_roberta,
    refusal_of,
    roberta_words,
    save_roberta,
    xlm_t,
)

WORDS = data_dictionary()
PADDING = WORDS.pad()


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """(path of a fairseq RoBERTa, its state)."""
    state = random_roberta(roberta_words()).state_dict()
    return save_roberta(tmp_path_factory.mktemp("roberta"), state), state


def started(*flags, **options):
    """A model before and after its training has begun: two state dicts."""
    model = xlm_t(WORDS, *flags, **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_training()
    return before, model.state_dict()


def source_of(state, layer, part):
    """The RoBERTa's parameter, by our name of the part."""
    return state[f"encoder.sentence_encoder.layers.{layer}.{part.replace('feed_forward.', '')}"]


def check_layers(after, side, sources, before):
    """`sources`: layer and part of ours -> layer and part of the RoBERTa, or None where nothing was copied."""
    kept = copied = 0
    for name, value in after.items():
        found = re.fullmatch(rf"{side}\.layers\.(\d+)\.(.+)", name)
        if found:
            place = sources(int(found[1]), found[2])
            expected = before[name] if place is None else place
            assert torch.equal(value, expected), name
            kept, copied = kept + (place is None), copied + (place is not None)
    return kept, copied


def test_the_encoder_alone(roberta):
    path, state = roberta
    before, after = started("--init-encoder", str(path))
    kept, copied = check_layers(after, "encoder", lambda layer, part: source_of(state, layer, part), before)
    assert (kept, copied) == (0, LAYERS * 16)
    body = "encoder.sentence_encoder."
    for part in ("layernorm_embedding.weight", "layernorm_embedding.bias"):
        assert torch.equal(after[f"encoder.{part}"], state[body + part])
    for name, value in after.items():  # nothing of the decoder but the table that it shares
        if name.startswith("decoder.") and "embed_tokens" not in name and "output_projection" not in name:
            assert torch.equal(value, before[name]), name


def test_rows_follow_their_symbol_and_tags_stay_random(roberta):
    path, state = roberta
    before, after = started("--init-encoder", str(path))
    theirs, table = dictionary(), state["encoder.sentence_encoder.embed_tokens.weight"]
    ours = after["encoder.embed_tokens.weight"]
    for row, symbol in enumerate(WORDS.symbols):
        if row == PADDING:
            assert not ours[row].any() and table[row].any()
        elif symbol in TAGS:
            assert torch.equal(ours[row], before["encoder.embed_tokens.weight"][row]) and ours[row].any()
        else:
            assert torch.equal(ours[row], table[theirs.index(symbol)]), symbol
    for name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        assert torch.equal(after[name], ours)


def test_mask_is_the_row_after_the_dictionary(roberta):
    path, state = roberta
    words = data_dictionary()
    words.add_symbol("<mask>")
    model = xlm_t(words, "--init-encoder", str(path))
    model.start_training()
    row = model.encoder.embed_tokens.weight[words.index("<mask>")]
    assert torch.equal(row, state["encoder.sentence_encoder.embed_tokens.weight"][-1])


def test_positions_start_after_padding_and_are_cut(roberta):
    path, state = roberta
    _, after = started("--init-encoder", str(path), "--init-decoder", str(path))
    table = state["encoder.sentence_encoder.embed_positions.weight"]
    assert table.size(0) == POSITIONS + 2 and after["decoder.embed_positions.weight"].size(0) == POSITIONS - 8 + 2
    assert torch.equal(after["encoder.embed_positions.weight"][2:], table[2:])
    assert torch.equal(after["decoder.embed_positions.weight"][2:], table[2 : POSITIONS - 8 + 2])
    for side in ("encoder", "decoder"):
        assert not after[f"{side}.embed_positions.weight"][PADDING].any() and table[PADDING].any()


@pytest.mark.parametrize("cross", ["random", "self-attention"])
@pytest.mark.parametrize("chosen", [None, [5, 0, 3]], ids=["bottom", "listed"])
def test_the_decoder_alone(roberta, cross, chosen):
    path, state = roberta
    flags = [] if chosen is None else ["--init-decoder-layers", ",".join(map(str, chosen))]
    before, after = started("--init-decoder", str(path), "--init-cross-attention", cross, *flags)

    def source(layer, part):
        layer = layer if chosen is None else chosen[layer]
        if part.startswith("encoder_attn"):
            copied = cross == "self-attention" and re.match(r"encoder_attn\.[qkv]_proj\.", part)
            return source_of(state, layer, part.replace("encoder_attn", "self_attn")) if copied else None
        return source_of(state, layer, part)

    kept, copied = check_layers(after, "decoder", source, before)
    assert copied == 3 * (16 + 6 * (cross == "self-attention")) and kept == 3 * 10 - 3 * 6 * (cross == "self-attention")
    norm = "layernorm_embedding.weight"
    assert torch.equal(after[f"decoder.{norm}"], state[f"encoder.sentence_encoder.{norm}"])
    assert check_layers(after, "encoder", lambda layer, part: None, before) == (LAYERS * 16, 0)
    word = WORDS.index("w3")  # one table: the decoder's, as the encoder names no other
    assert torch.equal(
        after["encoder.embed_tokens.weight"][word],
        state["encoder.sentence_encoder.embed_tokens.weight"][dictionary().index("w3")],
    )


@pytest.mark.parametrize("cross", ["random", "self-attention"])
def test_an_interleaved_decoder_takes_two_layers_for_one(roberta, cross):
    path, state = roberta
    flags = ["--init-decoder", str(path), "--interleaved-ffn", "--init-cross-attention", cross]
    before, after = started(*flags)

    def source(layer, part):
        if part.startswith("encoder_attn"):
            taken = source_of(state, 2 * layer + 1, part.replace("encoder_attn", "self_attn"))
            return taken if cross == "self-attention" else None
        if part.startswith(("feed_forward", "final_layer_norm")):
            return source_of(state, 2 * layer + 1, part)
        part = part.replace("first_feed_forward", "feed_forward").replace("ffn_layer_norm", "final_layer_norm")
        return source_of(state, 2 * layer, part)

    random = 3 * 10 if cross == "random" else 0
    assert check_layers(after, "decoder", source, before) == (random, 3 * 32 - random)


def test_deltalm_presets_are_interleaved():
    cfg = model_config("deltalm_base").model
    assert (cfg.interleaved_ffn, str(cfg.init_cross_attention)) == (True, "self-attention")
    assert (cfg.layernorm_embedding, model_config("deltalm_large").model.layernorm_embedding) == (True, False)


def deltalm_names(state):
    """The state of one of our models in DeltaLM's released layout."""
    released = {}
    for name, value in state.items():
        if "output_projection" in name:
            continue
        name = re.sub(r"^encoder\.(embed|layernorm)", r"src_embedding.\1", name)
        name = re.sub(r"^decoder\.(embed|layernorm)", r"tgt_embedding.\1", name)
        name = name.replace("layernorm_embedding", "emb_layer_norm").replace("first_feed_forward", "ffn_1")
        released[name.replace("feed_forward", "ffn_2" if name.startswith("decoder") else "ffn")] = value
    return released


@pytest.mark.parametrize("arch", ["deltalm_base", "deltalm_large"])
def test_both_sides_from_a_deltalm_file(arch, tmp_path):
    theirs = xlm_t(WORDS, arch=arch)
    for name, parameter in theirs.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        if "embed_" in name:
            parameter.data[PADDING] = 0
    torch.save({"weights": deltalm_names(theirs.state_dict())}, tmp_path / "deltalm.pt")
    WORDS.save(str(tmp_path / "dict.txt"))
    both = ["--init-encoder", str(tmp_path / "deltalm.pt"), "--init-decoder", str(tmp_path / "deltalm.pt")]
    ours = xlm_t(WORDS, *both, arch=arch)
    ours.start_training()
    source, target = sentences(WORDS, [7, 4, 9], left_pad=True), sentences(WORDS, [5, 8, 3], seed=1)
    previous = shifted(target, WORDS)
    found, expected = (model(source, None, previous)[0] for model in (ours, theirs))
    assert torch.equal(found[previous.ne(PADDING)], expected[previous.ne(PADDING)])
    for name, value in theirs.state_dict().items():
        first = PADDING if name.endswith("embed_positions.weight") else 0  # rows before padding's are never used
        assert torch.equal(value[first:], ours.state_dict()[name][first:]), name


def test_nothing_is_read_for_a_model_that_has_weights():
    """A resumed training and a translation load their own weights: the file may be gone."""
    model = xlm_t(WORDS, "--init-encoder", "gone.pt", "--init-decoder", "gone.pt")
    model.load_state_dict(xlm_t(WORDS).state_dict())
    model.start_training()
    fresh = xlm_t(WORDS, "--init-encoder", "gone.pt")
    with pytest.raises(Refusal, match="--init-encoder gone.pt does not exist"):
        fresh.start_training()


def test_weights_of_a_checkpoint_leave_the_files_unread_and_say_so_once(caplog):
    """As --finetune-from-model does; a training that goes on has nothing to say."""
    for resumed in (True, False):
        model = xlm_t(WORDS, "--init-encoder", "gone.pt")
        model.load_state_dict(xlm_t(WORDS).state_dict())
        caplog.clear()
        model.start_training(resumed=resumed)
        assert ("--init-encoder gone.pt: not read, as a checkpoint has given" in caplog.text) != resumed


def test_cross_attention_that_cannot_be_copied_is_said(roberta, tmp_path, caplog):
    flag, said = ["--init-cross-attention", "self-attention"], "--init-cross-attention self-attention does nothing"

    def warns(*flags):
        caplog.clear()
        xlm_t(WORDS, *flags).start_training()
        return said in caplog.text

    assert not warns("--init-decoder", str(roberta[0]), *flag)
    assert warns("--init-encoder", str(roberta[0]), *flag)
    assert "without --init-decoder" in caplog.text
    assert warns("--init-encoder", str(roberta[0]), "--interleaved-ffn", *flag) and warns(*flag)
    assert not warns("--init-encoder", str(roberta[0])) and not warns("--interleaved-ffn", *flag)
    options = {"no_scale_embedding": True, "residual": "post", "activation_fn": "gelu"}
    torch.save({"model": xlm_t(WORDS).state_dict(), "cfg": {"model": options}}, tmp_path / "both.pt")
    WORDS.save(str(tmp_path / "dict.txt"))
    assert warns("--init-decoder", str(tmp_path / "both.pt"), *flag)
    assert "has a decoder of its own" in caplog.text


def test_without_files_nothing_changes():
    before, after = started()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_preset_under_the_model_s_own_name():
    cfg = model_config("xlm_t").model
    assert ARCH_MODEL_NAME_REGISTRY["xlm_t"] == "xlm_t"
    assert (cfg.encoder_layers, cfg.decoder_layers) == (12, 6)
    assert (cfg.encoder_embed_dim, cfg.decoder_ffn_embed_dim) == (768, 3072)
    assert (cfg.layernorm_embedding, cfg.no_scale_embedding, cfg.share_all_embeddings) == (True, True, True)
    assert (cfg.encoder_learned_pos, cfg.decoder_learned_pos, cfg.max_source_positions) == (True, True, 512)
    assert model_config("xlm_t", "--decoder-layers", "3", "--dropout", "0.3").model.decoder_layers == 3
    with torch.device("meta"):
        model = build("xlm_t", dictionary(249_998))
    layer, cross = 4 * (768**2 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768, 4 * (768**2 + 768) + 2 * 768
    assert sum(parameter.numel() for parameter in model.parameters()) == (
        250_002 * 768 + 2 * 514 * 768 + 4 * 768 + 12 * layer + 6 * (layer + cross)
    )


REFUSED = [
    (["--encoder-embed-dim", "32", "--decoder-embed-dim", "32"], "needs --encoder-embed-dim 16, not 32"),
    (["--encoder-ffn-embed-dim", "24"], "needs --encoder-ffn-embed-dim 20, not 24"),
    (["--encoder-attention-heads", "4"], "needs --encoder-attention-heads 2, not 4"),
    (["--encoder-layers", "7"], "has 6 layers, too few for --encoder-layers 7"),
    (["--init-encoder-layers", "0,1,2,3,4,6"], "has 6 layers, too few for --init-encoder-layers 0,1,2,3,4,6"),
    (["--max-source-positions", "33"], "has 32 positions; --max-source-positions 33 must be at most that"),
    (["--attention-temperature", "9"], "needs --attention-temperature 8, not 9"),
    (["--residual", "pre"], "needs --residual post, not pre"),
    (["--activation-fn", "relu"], "needs --activation-fn gelu, not relu"),
    (["--ffn-gate"], "has no layers.0.feed_forward.fc_gate.weight, which the model's encoder has"),
    (["--norm", "rms"], "has layernorm_embedding.bias, for which the model's encoder has no place"),
]


@pytest.mark.parametrize("flags, sentence", REFUSED, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_model_of_another_shape_is_one_sentence(roberta, flags, sentence):
    model = xlm_t(WORDS, "--init-encoder", str(roberta[0]), *flags)
    with pytest.raises(Refusal) as refusal:
        model.start_training()
    assert str(refusal.value).startswith(f"--init-encoder {roberta[0]} ") and sentence in str(refusal.value)


def test_a_longer_target_than_the_positions_is_refused_by_its_flag(roberta):
    model = xlm_t(WORDS, "--init-decoder", str(roberta[0]), "--max-target-positions", "33")
    with pytest.raises(Refusal, match="--max-target-positions 33 must be at most that"):
        model.start_training()


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--init-encoder-layers", "top"], "--init-encoder-layers top must be bottom or numbers of layers from 0"),
        (["--init-encoder-layers", "0,1"], "--init-encoder-layers 0,1 needs --init-encoder"),
        (["--init-decoder-layers", "1,2", "--init-decoder", "x"], "names 2 layers; --decoder-layers 3 needs 3"),
        (
            ["--init-decoder-layers", "1,2,3,4", "--init-decoder", "x", "--interleaved-ffn"],
            "names 4 layers; --decoder-layers 3 needs 6",
        ),
    ],
)
def test_layers_that_no_file_could_have_are_refused_before_it_is_read(flags, sentence):
    with pytest.raises(Refusal, match=sentence):
        xlm_t(WORDS, *flags)


def test_an_encoder_of_deepnorm_does_not_fit(tmp_path):
    """Its skips are weighted by the depth of the model that it was trained in."""
    state = random_roberta(roberta_words(), "transformer_mlm_base").state_dict()
    path = save_roberta(tmp_path, state, arch="transformer_mlm_base")
    saved = torch.load(path, weights_only=False)
    saved["args"].residual = "deepnorm"
    torch.save(saved, path)
    assert "needs --residual deepnorm, not post" in refusal_of(path)
    with pytest.raises(Refusal, match="needs --residual post or pre"):
        xlm_t(WORDS, "--init-encoder", str(path), "--residual", "deepnorm").start_training()
    saved["args"].residual, saved["args"].no_scale_embedding = "post", False
    torch.save(saved, path)
    assert "needs a model without --no-scale-embedding" in refusal_of(path)
