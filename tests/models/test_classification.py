"""Heads for sentences on `transformer_mlm`: names, scores, what learns, which checkpoints fit."""

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.models._build_moe import OptionError
from fairseq_plugins.models._tables import WrongCheckpoint
from tests.models.classifiers import HEAD, SHAPE, WORDS, classifier, randomised
from tests.models_support import build, dictionary, sentences

TOKENS = sentences(WORDS, [6, 3, 8])
TOKENS[:, 0] = WORDS.bos()
ARCHS = ["transformer_mlm", "transformer_mlm_base", "unilmv2_tiny", "xmoe_mlm_base"]
EXPERTS = ["--moe-insert-after", "1", "--moe-experts", "4", "--moe-expert-sublayers", "1"]


def of(arch):
    return EXPERTS if arch == "xmoe_mlm_base" else []


def scores(model, tokens=TOKENS):
    return model(tokens, src_lengths=None, features_only=True, classification_head_name=HEAD)[0]


def names(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if "classification_heads" in name}


def test_names_and_shapes_are_roberta_s():
    prefix = f"classification_heads.{HEAD}"
    projection = {f"{prefix}.out_proj.weight": (3, 16), f"{prefix}.out_proj.bias": (3,)}
    dense = {f"{prefix}.dense.weight": (16, 16), f"{prefix}.dense.bias": (16,)}
    assert names(classifier()) == {**projection, **dense}
    assert names(classifier("--classification-head", "linear")) == projection
    assert names(classifier(classes=0)) == {}
    wide = classifier(classes=0)
    wide.register_classification_head(HEAD, 3, inner_dim=20)
    assert names(wide)[f"{prefix}.dense.weight"] == (20, 16) and names(wide)[f"{prefix}.out_proj.weight"] == (3, 20)


@pytest.mark.parametrize("kind", ["roberta", "linear"])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_preset_scores_texts_from_the_first_hidden_state(arch, kind):
    model = classifier("--classification-head", kind, *of(arch), arch=arch)
    found, features = scores(model), model.encoder(TOKENS, features_only=True)[0]
    assert_close(found, model.classification_heads[HEAD](features[:, 0]))
    assert found.shape == (3, 3)
    assert model(TOKENS)[0].shape == (3, 8, len(WORDS))  # without a head's name it is the language model


def test_the_scores_are_those_of_fairseq_s_roberta():
    words = dictionary()
    words.add_symbol("<mask>")
    flags = [flag for flag in SHAPE if flag not in ("--max-source-positions", "32")]
    stock = build("roberta", words, *flags, "--tokens-per-sample", "32", task="masked_lm").eval()
    stock.register_classification_head(HEAD, num_classes=3)
    randomised(stock.double())
    ours = classifier(words=words)
    ours.load_state_dict(stock.state_dict(), strict=True)
    expected = stock(TOKENS, features_only=True, classification_head_name=HEAD)[0]
    assert_close(scores(ours), expected, atol=1e-9, rtol=0)
    assert expected.std() > 0.1


@pytest.mark.parametrize("arch", ARCHS[:3])
def test_padding_changes_nothing(arch):
    model = randomised(classifier(arch=arch))
    together = scores(model)
    for row, length in enumerate([6, 3, 8]):
        assert_close(together[row], scores(model, TOKENS[row : row + 1, :length])[0])
    assert_close(scores(model.train()), together)  # where padding is left out of the work


def test_the_second_sentence_of_a_pair_has_the_second_segment():
    model = randomised(classifier(arch="unilmv2_tiny"))
    bos, eos = WORDS.bos(), WORDS.eos()
    pair = torch.tensor([[bos, 5, 6, eos, 7, 8, eos]])
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    features = model.encoder(pair, features_only=True, segments=segments)[0]
    assert_close(scores(model, pair), model.classification_heads[HEAD](features[:, 0]))
    three = torch.cat((pair, torch.tensor([[9, eos]])), dim=1)
    assert scores(model, three).isfinite().all()  # there is no third segment


# ---- what learns -----------------------------------------------------------------------------------------------------


def step(model):
    """One training step of everything that may learn; the names of the parameters that got a gradient."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    torch.nn.functional.cross_entropy(scores(model), torch.tensor([0, 2, 1])).backward()
    optimizer.step()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("arch", ARCHS[:3])
def test_every_parameter_that_may_learn_gets_a_gradient(arch):
    """Data-parallel training waits for all of them; the head of the language model is out of it."""
    model = classifier(arch=arch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert step(model) == learning
    rest = {name for name, _ in model.named_parameters()} - learning
    assert rest == {f"encoder.lm_head.{name}" for name in ("bias", "dense.weight", "dense.bias", "layer_norm.weight",
                                                           "layer_norm.bias")}  # fmt: skip
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed - {"encoder.lm_head.weight"} == learning  # which is the token table again


@pytest.fixture
def one_rank(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("frozen", [[], ["--freeze-encoder"]])
def test_data_parallel_training_needs_no_search_for_unused_parameters(one_rank, frozen):
    model = classifier(*frozen, arch="unilmv2_tiny").train()

    def two_steps():
        replica = torch.nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            scores(replica).sum().backward()

    two_steps()
    model.encoder.lm_head.bias.requires_grad_(True)
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        two_steps()


@pytest.mark.parametrize("arch", ARCHS)
def test_a_frozen_encoder_does_not_change_by_a_bit(arch):
    flags = ["--freeze-encoder", "--dropout", "0.5", "--attention-dropout", "0.5"]
    model = classifier(*flags, *of(arch), arch=arch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluated = scores(model)
    assert step(model) == {name for name in before if name.startswith("classification_heads.")}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoder."), name
    assert not torch.equal(scores(model), evaluated)
    model.load_state_dict(before)
    assert torch.equal(scores(model.train()), evaluated) and not model.encoder.training  # nothing dropped out


def test_dropout_of_the_head_alone():
    model = classifier("--freeze-encoder", "--pooler-dropout", "0.5").train()
    assert not torch.equal(scores(model), scores(model))
    assert torch.equal(scores(model.eval()), scores(model))


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "-0.1", "nan"])
def test_dropout_out_of_range(value):
    with pytest.raises(OptionError, match="--pooler-dropout .* must be at least 0 and below 1"):
        classifier("--pooler-dropout", value)


@pytest.mark.parametrize("name", ["", "a.b"])
def test_a_name_that_no_parameter_can_have(name):
    with pytest.raises(OptionError, match="--classification-head-name '.*' must be a word without dots"):
        classifier().register_classification_head(name, 2)


def test_a_frozen_encoder_without_a_head_has_nothing_to_learn():
    with pytest.raises(OptionError, match="--freeze-encoder leaves nothing to learn"):
        classifier("--freeze-encoder", classes=0).start_training()
    classifier("--freeze-encoder").start_training()


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def loaded(state, *flags, **options):
    model = classifier(*flags, **options)
    model.load_state_dict({name: value.clone() for name, value in state.items()}, strict=True)
    return model


def test_a_language_model_s_checkpoint_gives_all_but_the_head():
    state = randomised(classifier(classes=0)).state_dict()
    model = loaded(state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    fresh = classifier().classification_heads[HEAD]
    assert torch.equal(model.classification_heads[HEAD].dense.weight, fresh.dense.weight)


def test_a_classifier_s_checkpoint_gives_its_head():
    state = randomised(classifier()).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded(state).state_dict().items())


@pytest.mark.parametrize(
    "flags, classes, says",
    [
        ([], 5, "3 classes and a dense layer of 16, this model's 5 classes and a dense layer of 16;"),
        (["--classification-head", "linear"], 3, "3 classes and a dense layer of 16, this model's 3 classes;"),
    ],
)
def test_a_head_of_another_shape_is_renewed_and_said_so(flags, classes, says, caplog):
    state = randomised(classifier()).state_dict()
    model = loaded(state, *flags, classes=classes)
    assert says in caplog.text and caplog.text.count("starts at random") == 1
    fresh = classifier(*flags, classes=classes).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, (fresh if "classification_heads" in name else state)[name])


def test_a_head_that_is_not_asked_for_is_left_out_and_said_so(caplog):
    model = loaded(randomised(classifier()).state_dict(), classes=0)
    assert not names(model) and f"classification head {HEAD} is left out" in caplog.text


def test_a_longer_position_table_is_cut():
    state = randomised(classifier("--max-source-positions", "64")).state_dict()
    model = loaded(state)
    assert torch.equal(model.encoder.embed_positions.weight, state["encoder.embed_positions.weight"][: 32 + 2])
    assert_close(scores(model), scores(loaded(state, "--max-source-positions", "64")))


@pytest.mark.parametrize(
    "was, now, classes, says",
    [
        (["--max-source-positions", "64"], [], 3,
         "knows 64 positions and this model has 32: give --max-source-positions 64 as before, or --reset-optimizer"),
        ([], [], 5, f"head {HEAD} in this shape: give .* and --num-classes as before, or --reset-optimizer"),
        ([], ["--classification-head", "linear"], 3, f"does not know the classification head {HEAD} in this shape"),
    ],
)  # fmt: skip
def test_weights_of_another_shape_start_a_training_and_resume_none(was, now, classes, says):
    model = loaded(randomised(classifier(*was)).state_dict(), *now, classes=classes)
    model.start_training(resumed=False)  # as after --finetune-from-model and --reset-optimizer
    with pytest.raises(OptionError, match=says):
        model.start_training(resumed=True)
    same = loaded(randomised(classifier(*was)).state_dict(), *was)
    same.start_training(resumed=True)


def test_a_shorter_position_table_is_refused():
    says = "position table ends at 16 tokens and this model's at 32: give --max-source-positions 16"
    with pytest.raises(WrongCheckpoint, match=says):
        loaded(classifier("--max-source-positions", "16").state_dict())


def test_sinusoidal_positions_know_no_length():
    state = classifier("--max-source-positions", "16", arch="transformer_mlm").state_dict()
    assert loaded(state, arch="transformer_mlm").encoder.max_positions() == 32


def test_another_dictionary_is_refused():
    with pytest.raises(WrongCheckpoint, match="knows 25 symbols and the data's dictionary has 26: binarise the data"):
        loaded(classifier().state_dict(), words=dictionary(22))


def test_the_symbol_that_stock_tasks_append_is_the_same_row_for_both():
    """masked_lm and sentence_prediction both add <mask> to what dict.txt lacks."""
    appended = dictionary()
    appended.add_symbol("<mask>")
    assert loaded(classifier(words=WORDS).state_dict(), words=appended).encoder.dictionary == WORDS
