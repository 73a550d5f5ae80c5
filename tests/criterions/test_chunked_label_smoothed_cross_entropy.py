from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.criterions.masked_lm import MaskedLmLoss
from torch.testing import assert_close

from fairseq_plugins.criterions._vocabulary import why_not
from tests.models_support import TINY_MT, build, dictionary, sentences, shifted
from tests.seq2seq_support import PARTS, seq2seq, words_of_data

WORDS = dictionary()
TASK = SimpleNamespace(target_dictionary=WORDS, source_dictionary=WORDS)
TARGET = sentences(WORDS, [5, 8, 3], seed=1)
SAMPLE = {
    "net_input": {
        "src_tokens": sentences(WORDS, [7, 4, 9], left_pad=True),
        "src_lengths": torch.tensor([7, 4, 9]),
        "prev_output_tokens": shifted(TARGET, WORDS),
    },
    "target": TARGET,
    "ntokens": 16,
    "nsentences": 3,
}
CLASSIC = ["--share-decoder-input-output-embed"]
MODELS = [("transformer_mt", CLASSIC), ("transformer_mt", []), ("transformer", CLASSIC)]


def chunked(**options):
    values = {"sentence_avg": False, "label_smoothing": 0.1, **options}
    return CRITERION_REGISTRY["chunked_label_smoothed_cross_entropy"](TASK, **values)


def stock(**options):
    return LabelSmoothedCrossEntropyCriterion(TASK, **{"sentence_avg": False, "label_smoothing": 0.1, **options})


def assert_same(found, wanted):
    """Stock softmax is float32 whatever the model is."""
    assert_close(found, wanted, check_dtype=False, rtol=1e-5, atol=1e-6)


def results(criterion, model, sample):
    model.zero_grad()
    loss, sample_size, log = criterion(model, sample)
    loss.backward()
    return loss, sample_size, log, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("arch, flags", MODELS)
@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.0}, {"ignore_prefix_size": 2}, {"report_accuracy": True}, {"sentence_avg": True}],
)
def test_loss_gradients_and_log_are_those_of_the_stock_criterion(arch, flags, options):
    torch.manual_seed(0)
    agrees_with_the_stock_criterion(build(arch, WORDS, *TINY_MT, *flags).double().train(), options)


@pytest.mark.parametrize("options", [{}, {"ignore_prefix_size": 2}])
def test_targets_at_pseudo_masks_too(options):
    agrees_with_the_stock_criterion(seq2seq(words_of_data(), *PARTS["unilmv2"]).train(), options)


def agrees_with_the_stock_criterion(model, options):
    loss, size, log, gradients = results(chunked(**options), model, SAMPLE)
    stock_loss, stock_size, stock_log, stock_gradients = results(stock(**options), model, SAMPLE)
    assert_same(loss, stock_loss)
    assert size == stock_size and log.keys() == stock_log.keys()
    for name, value in stock_log.items():
        assert float(log[name]) == pytest.approx(float(value)), name
    for got, wanted in zip(gradients, stock_gradients, strict=True):
        assert_same(got, wanted)


def test_a_loss_per_token_is_the_stock_one():
    model = build("transformer_mt", WORDS, *TINY_MT)
    assert_close(chunked()(model, SAMPLE, reduce=False)[0], stock()(model, SAMPLE, reduce=False)[0])


def test_language_models():
    flags = ["--decoder-layers", "2", "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "16"]
    model = build("transformer_clm", WORDS, *flags, "--decoder-attention-heads", "2", task="language_modeling")
    tokens = sentences(WORDS, [5, 8, 3])
    sample = {"net_input": {"src_tokens": shifted(tokens, WORDS)}, "target": tokens, "ntokens": 16}
    assert_close(chunked()(model, sample)[0], stock()(model, sample)[0])


def test_masked_lm_is_the_stock_one():
    flags = "--encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-attention-heads 2".split()
    model = build("transformer_mlm", WORDS, *flags, "--dropout", "0", task="masked_lm").double().train()
    tokens = sentences(WORDS, [5, 8, 3])
    target = tokens.masked_fill(torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) > 0.4, WORDS.pad())
    sample = {"net_input": {"src_tokens": tokens}, "target": target, "ntokens": 16, "nsentences": 3}
    options = SimpleNamespace(tpu=False, moe_balance_weight=0.01, moe_cluster_weight=0.01)
    for where in (target, torch.full_like(target, WORDS.pad())):  # the second batch has nothing to predict
        batch = {**sample, "target": where}
        loss, size, log, gradients = results(CRITERION_REGISTRY["masked_lm_with_moe"](options, TASK), model, batch)
        stock_loss, stock_size, stock_log, stock_gradients = results(MaskedLmLoss(options, TASK), model, batch)
        assert_same(loss, stock_loss)
        assert size == stock_size and log.keys() == stock_log.keys()
        for got, wanted in zip(gradients, stock_gradients, strict=True):
            assert_same(got, wanted)


def test_models_whose_output_layer_is_a_part_of_them_train_as_ever(caplog):
    model = build("lstm", WORDS)
    source = {"src_tokens": sentences(WORDS, [9, 7, 4], left_pad=True), "src_lengths": torch.tensor([9, 7, 4])}
    sample = {**SAMPLE, "net_input": {**SAMPLE["net_input"], **source}}
    criterion = chunked()
    for _ in range(2):
        assert_same(criterion(model, sample)[0], stock()(model, sample)[0])
    said = [record.message for record in caplog.records if "all logits" in record.message]
    assert len(said) == 1 and "LSTMDecoder has no plain output layer" in said[0]
    assert "no plain output" in why_not(build("transformer", WORDS, *TINY_MT, "--adaptive-softmax-cutoff", "10"))


def test_back_ends_that_need_the_output_layer_inside_the_model():
    model = build("transformer_mt", WORDS, *TINY_MT)
    assert why_not(model) is None
    model.module = SimpleNamespace(find_unused_parameters=True)
    assert "--find-unused-parameters" in why_not(model)
    model.module = type("FullyShardedDataParallel", (), {})()
    assert "fully_sharded" in why_not(model)


def test_no_tensor_of_all_logits():
    """With 2,000 symbols and chunks of 16 tokens nothing as large as 16 x 2,000 may be there twice over."""
    words = dictionary(2000)
    model = build("transformer_mt", words, *TINY_MT)
    largest = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest.append(result.numel())
            return result

    from fairseq_plugins.modules import vocabulary_loss

    target = sentences(words, [30] * 8)
    net_input = {"src_tokens": target, "src_lengths": None, "prev_output_tokens": shifted(target, words)}
    sample = {"net_input": net_input, "target": target, "ntokens": 240}
    before, vocabulary_loss.CHUNK = vocabulary_loss.CHUNK, 16
    try:
        with Watch():
            chunked()(model, sample)
    finally:
        vocabulary_loss.CHUNK = before
    table = max(parameter.numel() for parameter in model.parameters())
    assert max(largest) <= max(table, 16 * len(words)) < 240 * len(words)
