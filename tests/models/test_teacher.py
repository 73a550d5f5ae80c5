"""What lends its relations: every kind of encoder gives the queries, keys and values of its own software (float64)."""

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from fairseq_plugins.models._relations import EncoderRelations
from fairseq_plugins.models._teacher import read_teacher
from tests.models.teachers import (
    LONGEST,
    MLM,
    TOKENS,
    WORDS,
    attention,
    data_words,
    in_rows_of,
    random_numbers,
    same,
    saved_model,
    seen_by,
    seen_by_stock,
    teacher,
)
from tests.models_support import TINY_MT, build, dictionary
from tests.pretrained_support import LAYERS, old_names, random_roberta, roberta_words, save_roberta

# ---- this package's --------------------------------------------------------------------------------------------------

TEMPERED = ["--attention-head-dim", "4", "--relative-bias-buckets", "8", "--relative-bias-max-distance", "16"]
EXPERTS = ["--moe-experts", "4", "--moe-freq", "2"]
OWN = {
    "mlm as long as the task's texts": ("transformer_mlm", [word for word in MLM if word not in
                                                              ("--max-source-positions", "32")]),
    "mlm with a temperature": ("transformer_mlm_base", [*MLM, "--attention-temperature", "20"]),
    **{f"mlm {residual}": ("transformer_mlm", [*MLM, "--residual", residual]) for residual in
       ("post", "pre", "deepnorm", "subln")},
    "mlm with learned positions": ("transformer_mlm_base", MLM),
    "mlm with its own head width and relative positions": ("transformer_mlm_base", [*MLM, *TEMPERED]),
    "mlm with narrow tables": ("transformer_mlm", [*MLM, "--embedding-dim", "8"]),
    "mlm with experts": ("transformer_mlm", [*MLM, *EXPERTS]),
    "mlm with an inserted layer": ("transformer_mlm", [*MLM, *EXPERTS[:2], "--moe-insert-after", "2"]),
    "mt": ("transformer_mt", [*TINY_MT, "--share-all-embeddings", "--decoder-attention-heads", "4"]),
    "mt deepnorm": ("transformer_mt", [*TINY_MT, "--residual", "deepnorm"]),
    "mt6": ("mt6_tiny", TINY_MT),
    "xlm_t": ("xlm_t_tiny", TINY_MT),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_own(kind, tmp_path):
    arch, flags = OWN[kind]
    words = roberta_words()
    model, path = saved_model(tmp_path, arch, words, *flags)
    layers = [layer for layer in model.encoder.layers if hasattr(layer, "self_attn")]
    for number in (2, len(layers)):
        wanted = seen_by(attention(layers[number - 1]), lambda: model.encoder.encode(in_rows_of(words)))
        same(teacher(path, layer=number).projections(TOKENS), wanted)


def test_segments_are_those_that_the_teacher_learned(tmp_path):
    words = roberta_words()
    model, path = saved_model(tmp_path, "transformer_mlm", words, *MLM, "--segments", "2")
    segments = (torch.arange(TOKENS.size(1)) > 2).long().expand_as(TOKENS)
    rows = in_rows_of(words)
    wanted = seen_by(attention(model.encoder.layers[-1]), lambda: model.encoder.encode(rows, segments=segments))
    same(teacher(path).projections(TOKENS, segments), wanted)
    first = seen_by(attention(model.encoder.layers[-1]), lambda: model.encoder.encode(rows))
    same(teacher(path).projections(TOKENS), first)
    assert (wanted[0] - first[0]).abs().max() > 0.01


# ---- stock fairseq's -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_roberta_of_fairseq(old, tmp_path):
    words = roberta_words()
    roberta = random_numbers(random_roberta(words))
    state = roberta.state_dict()
    path = save_roberta(tmp_path, old_names(state) if old else state)
    layer = roberta.encoder.sentence_encoder.layers[-1]
    wanted = seen_by_stock(layer, lambda: roberta(in_rows_of(words), features_only=True))
    same(teacher(path).projections(TOKENS), wanted)
    same(teacher(path.parent).projections(TOKENS), wanted)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--encoder-normalize-before"],
        ["--no-token-positional-embeddings"],
        ["--encoder-learned-pos", "--layernorm-embedding", "--activation-fn", "gelu", "--no-scale-embedding"],
    ],
    ids=lambda flags: " ".join(flags) or "plain",
)
def test_stock_transformer(flags, tmp_path):
    words = dictionary()
    stock, path = saved_model(tmp_path, "transformer", words, *TINY_MT, *flags)
    tokens = in_rows_of(words)
    layer = stock.encoder.layers[-1]
    wanted = seen_by_stock(layer, lambda: stock.encoder(tokens, tokens.ne(words.pad()).sum(1)))
    same(teacher(path).projections(TOKENS), wanted)


# ---- the object ------------------------------------------------------------------------------------------------------


@pytest.fixture
def roberta(tmp_path):
    return save_roberta(tmp_path, random_numbers(random_roberta(roberta_words())).state_dict())


def test_a_teacher_is_no_module_learns_nothing_and_drops_nothing_out(roberta):
    found = teacher(roberta)
    assert not isinstance(found, torch.nn.Module)
    projections = found.projections(TOKENS)
    assert not any(parameter.requires_grad for parameter in found.encoder.parameters())
    assert not any(x.requires_grad for x in projections)
    assert_close(found.projections(TOKENS), projections, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_computes_in_the_precision_that_was_asked_for(roberta, dtype):
    wanted = teacher(roberta).projections(TOKENS)
    real = TOKENS.ne(WORDS.pad())
    for found, right in zip(teacher(roberta, dtype=dtype).projections(TOKENS), wanted, strict=True):
        assert found.dtype == dtype
        apart = (found[real].double() - right[real]).norm() / right[real].norm()
        assert 0 < apart < 20 * torch.finfo(dtype).eps


def test_symbols_that_are_no_text_and_that_it_lacks_are_unknown_to_it(roberta):
    tokens, unknown = TOKENS.clone(), TOKENS.clone()
    tokens[0, 0], unknown[0, 0] = WORDS.index("__de__"), WORDS.unk()
    found = teacher(roberta)
    assert_close(found.projections(tokens), found.projections(unknown), atol=0, rtol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layer": 7}, "--teacher-layer 7 must be from 1 to 6"),
        ({"layer": -1}, "--teacher-layer -1 must be from 1 to 6"),
        ({"longest": 33}, "--tokens-per-sample 33 must be at most 32, the positions of --teacher"),
    ],
)
def test_choices_that_do_not_fit_are_refused(roberta, change, message):
    with pytest.raises(Refusal) as refusal:
        teacher(roberta, **change)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_dictionary_with_other_pieces_is_refused_with_their_number(roberta):
    with pytest.raises(Refusal) as refusal:
        read_teacher(str(roberta), data_words("x", "y"), longest=LONGEST, minilm=False)
    assert "lacks 2 of the 7 pieces of the data, such as x, y: binarise the data with" in str(refusal.value)


def test_damage_is_one_sentence(tmp_path):
    _, path = saved_model(tmp_path, "transformer_mlm", roberta_words(), *MLM)
    saved = torch.load(path)

    def refused(state):
        torch.save(state, path)
        with pytest.raises(SystemExit) as refusal:
            teacher(path)
        message = str(refusal.value)
        assert "\n" not in message and str(path) in message
        return message

    weights = dict(saved["model"])
    value = weights.pop("encoder.layers.1.self_attn.k_proj.weight")
    assert "is damaged" in refused({**saved, "model": weights})
    misshapen = {**weights, "encoder.layers.1.self_attn.k_proj.weight": value.T[:4]}
    assert "is damaged" in refused({**saved, "model": misshapen})
    assert "has no encoder" in refused({**saved, "model": {"decoder.x": value}})
    assert "has no encoder" in refused({**saved, "model": {"encoder.embed_tokens.weight": 3}})
    assert "is damaged" in refused({**saved, "cfg": {"model": {"_name": "transformer_mlm", "encoder_layers": "x"}}})
    assert "does not say how many attention heads" in refused({**saved, "cfg": {}})
    path.write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit):
        teacher(path)


def test_an_electra_is_two_models(tmp_path):
    _, path = saved_model(tmp_path, "electra_tiny", roberta_words(), "--encoder-layers", "2")
    with pytest.raises(Refusal, match="is of an electra, which is two models"):
        teacher(path)


def test_a_model_that_reads_sources_in_its_own_way_is_refused(tmp_path):
    words = roberta_words()
    words.add_symbol("<pseudo_mask>")
    flags = ["--encoder-layers", "2", "--max-source-positions", "20", "--max-target-positions", "11"]
    _, path = saved_model(tmp_path, "unilmv2_seq2seq_tiny", words, *flags)
    with pytest.raises(Refusal, match="is of a unilmv2_seq2seq_tiny, which reads sources as no student does"):
        teacher(path)


def test_the_model_hands_it_to_its_task(roberta):
    model = build("transformer_mlm", WORDS, *MLM, "--tokens-per-sample", "32", task="masked_lm")
    assert isinstance(model, EncoderRelations)
    assert model.read_teacher(str(roberta), WORDS, longest=LONGEST, minilm=True).number == LAYERS
