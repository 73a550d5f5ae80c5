"""The loss of `--criterion relation_distillation`: by hand, its identities, and what it refuses."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from fairseq_plugins.compat import Refusal
from fairseq_plugins.criterions.relation_distillation import (
    RELATIONS,
    RelationDistillation,
    RelationDistillationConfig,
)
from fairseq_plugins.models._teacher import Teacher
from tests.models_support import build, dictionary, sentences

WORDS = dictionary()
WORDS.add_symbol("<mask>")


def encoder(layers=2, width=16, heads=2, *flags, seed=1):
    torch.manual_seed(seed)
    shape = ["--encoder-layers", layers, "--encoder-embed-dim", width, "--encoder-ffn-embed-dim", 24,
             "--encoder-attention-heads", heads, "--dropout", 0, "--attention-dropout", 0]  # fmt: skip
    words = [str(word) for word in (*shape, "--tokens-per-sample", 32, *flags)]
    return build("transformer_mlm_base", WORDS, *words, task="masked_lm").double()


def sample(*lengths, tokens=None):
    tokens = sentences(WORDS, list(lengths)) if tokens is None else tokens
    return {"net_input": {"src_tokens": tokens, "src_lengths": tokens.ne(WORDS.pad()).sum(1),
                          "segments": torch.zeros_like(tokens)},
            "ntokens": int(tokens.ne(WORDS.pad()).sum()), "nsentences": len(tokens)}  # fmt: skip


class Task:
    """Hands over a student and a teacher, as the task does."""

    source_dictionary = target_dictionary = WORDS

    def __init__(self, student, teacher):
        self.student = student
        self.teacher = Teacher(teacher.encoder, torch.arange(len(WORDS)), teacher.encoder.attention_layers)
        self.asked = None

    def begin_distillation(self, compared, minilm):
        self.asked = (compared, minilm)
        return SimpleNamespace(encoder=self.student.encoder, layer=self.student.learn_relations(compared),
                               teacher=self.teacher)  # fmt: skip


def criterion(student, teacher, **options):
    cfg = RelationDistillationConfig(**{"relation_heads": 4, **options})
    return RelationDistillation(cfg, Task(student, teacher))


def by_formula(student, teacher, tokens, relations, heads):
    """The papers' sum, text by text and row by row."""
    total = 0.0
    for row in tokens:
        text = row[row.ne(WORDS.pad())][None]
        of = [model.encoder.project(model.encoder.attention_layers, text)[1]["projections"] for model in
              (teacher, student)]  # fmt: skip
        for i, j in relations:
            spread = []
            for found in of:
                a, b = (getattr(found, part)[0].unflatten(1, (heads, -1)).transpose(0, 1) for part in (i, j))
                spread.append((a @ b.mT / math.sqrt(a.size(2))).softmax(2))
            total = total + (spread[0] * (spread[0].log() - spread[1].log())).sum() / (heads * text.size(1))
    return total


@pytest.mark.parametrize(
    "relations, heads, student_width, student_heads",
    [("q-q,k-k,v-v", 4, 16, 2), ("q-q,k-k,v-v", 8, 24, 3), ("q-k,v-v", 2, 16, 8), ("k-v,v-q", 4, 8, 1)],
)
def test_the_loss_is_the_papers_formula(relations, heads, student_width, student_heads):
    student, teacher = encoder(1, student_width, student_heads, seed=2), encoder(3)
    found, size, log = criterion(student, teacher, relations=relations, relation_heads=heads)(student, sample(7, 3, 5))
    pairs = [word.split("-") for word in relations.split(",")]
    tokens = sample(7, 3, 5)["net_input"]["src_tokens"]
    assert_close(found, by_formula(student, teacher, tokens, pairs, heads), atol=1e-9, rtol=0)
    assert size == 3 and float(found) > 1e-3
    assert sum(float(log[f"{i}{j}_loss"]) for i, j in pairs) == pytest.approx(float(found))


def test_two_tokens_by_hand():
    """One head, width 4: A A^T / 2 of the teacher is [[0, 0], [0, 2]], of the student all 0."""
    student, teacher = encoder(1, 4, 1), encoder(1, 4, 1)
    for model, values in ((student, [[0.0] * 4] * 2), (teacher, [[0.0] * 4, [2.0, 0, 0, 0]])):
        model.encoder.project = lambda *_, values=values: (
            None,
            {"projections": SimpleNamespace(q=torch.tensor([values])), "padding": torch.zeros(1, 2, dtype=torch.bool),
             "auxiliary": []},
        )  # fmt: skip
        model.learn_relations = lambda wanted: 1
    loss, _, _ = criterion(student, teacher, relations="q-q", relation_heads=1)(student, sample(2))
    p = math.exp(2) / (1 + math.exp(2))  # the second row: softmax(0, 2) against a half
    assert float(loss) == pytest.approx((p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))) / 2, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"relations": "q-k,v-v", "relation_heads": 0}], ids=["MiniLMv2", "MiniLM"])
def test_a_student_that_is_its_teacher_has_no_loss(options):
    student, teacher = encoder(3), encoder(3)
    loss, _, _ = criterion(student, teacher, **options)(student, sample(9, 4, 6))
    assert float(loss) == pytest.approx(0, abs=1e-12)
    loss.backward()
    assert all(parameter.grad.abs().max() < 1e-9 for parameter in student.parameters() if parameter.requires_grad)


def test_padding_changes_nothing():
    student, teacher = encoder(1, 8, seed=2), encoder(3)
    loss = criterion(student, teacher)
    together = loss(student, sample(9, 4))[0]
    tokens = sample(9, 4)["net_input"]["src_tokens"]
    alone = [loss(student, sample(tokens=row[row.ne(WORDS.pad())][None]))[0] for row in tokens]
    left = torch.stack([row.roll(int(row.eq(WORDS.pad()).sum())) for row in tokens])
    assert_close(together, sum(alone), atol=1e-10, rtol=0)
    assert_close(loss(student, sample(tokens=left))[0], together, atol=1e-10, rtol=0)


def test_the_teacher_is_no_part_of_the_criterion():
    student, teacher = encoder(1, 8), encoder(3)
    loss = criterion(student, teacher)
    assert loss.state_dict() == {} and not list(loss.parameters()) and len(list(loss.modules())) == 1
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    learned = [*student.parameters(), *loss.parameters()]
    optimiser, losses = torch.optim.SGD(learned, lr=0.5, weight_decay=0.1), []
    for _ in range(5):
        optimiser.zero_grad()
        losses.append(loss(student.train(), sample(9, 4))[0])
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_task_is_told_what_is_compared():
    student, teacher = encoder(1, 16), encoder(3)
    for options, asked in (({}, (["k", "q", "v"], False)), ({"relations": "q-q", "relation_heads": 0}, (["q"], True))):
        task = Task(student, teacher)
        RelationDistillation(RelationDistillationConfig(**{"relation_heads": 4, **options}), task)
        assert task.asked == asked


def test_router_losses_of_a_student_are_added():
    student, teacher = encoder(3, 16, 2, "--moe-experts", 2, "--moe-freq", 1), encoder(3)
    plain, balanced = (
        criterion(student, teacher, moe_balance_weight=weight)(student, sample(9, 4)) for weight in (0, 1)
    )
    assert balanced[2]["moe_layers"] == 2  # the last layer's experts are behind its projections
    assert_close(balanced[0] - plain[0], 2 * balanced[2]["moe_balance"].double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"relations": "q-q,x-k"}, "--relations q-q,x-k: give some of q-q, q-k, q-v, k-q"),
        ({"relations": ""}, "--relations : give some of"),
        ({"relations": "q-q,q-q"}, "each once"),
        ({"relation_heads": -1}, "--relation-heads -1 must be at least 1, or 0 for the attention heads"),
        ({"relation_heads": 5}, "--relation-heads 5 does not divide the student's width 8"),
        ({"relation_heads": 8, "width": 12}, "--relation-heads 8 does not divide the student's width 12"),
        ({"relation_heads": 3, "width": 12}, "--relation-heads 3 does not divide the teacher's width 16"),
        ({"relation_heads": 0, "heads": 4},
         "--relation-heads 0 compares attention heads, and the student has 4, the teacher 2"),
        ({"moe_balance_weight": -1.0}, "--moe-balance-weight -1.0 must not be negative"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence(options, message):
    student = encoder(1, options.pop("width", 8), options.pop("heads", 2))
    with pytest.raises(Refusal) as refusal:
        criterion(student, encoder(1), **options)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_another_task_is_refused():
    other = SimpleNamespace(source_dictionary=WORDS, target_dictionary=WORDS)
    with pytest.raises(Refusal, match="needs --task relation_distillation"):
        RelationDistillation(RelationDistillationConfig(), other)


def test_there_are_nine_relations():
    assert len(RELATIONS) == 9 and {"q-q", "q-k", "v-v"} < set(RELATIONS)
