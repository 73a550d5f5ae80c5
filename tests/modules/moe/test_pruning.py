"""Expert pruning by hand values: which experts stay, when, and that a resumed training decides the same."""

import copy

import pytest
import torch

from fairseq_plugins.modules.moe.pruning import LayerPruning, PruningSchedule

EAGER = PruningSchedule("eager", updates=16, windows=4, threshold=0.5)


def survivors(schedule, window, score_E, alive_E=None):
    """Numbers of the experts that stay."""
    alive_E = [True] * len(score_E) if alive_E is None else alive_E
    kept_E = schedule.survivors(window, score_E, alive_E)
    assert len(kept_E) == len(score_E)
    return [expert for expert, kept in enumerate(kept_E) if kept]


# ---- the schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "updates, windows, expected",
    [
        (16, 4, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]),  # windows of two updates, all over after 8 of 16
        (10, 2, [0, 0, 0, 1, 1, 2, 2]),  # 5 updates in two windows
        (9, 1, [0, 0, 0, 0, 1, 1]),
    ],
)
def test_windows_share_the_first_half(updates, windows, expected):
    schedule = PruningSchedule("eager", updates=updates, windows=windows)
    assert [schedule.windows_done(done) for done in range(len(expected))] == expected


def test_eager_drops_below_the_threshold_over_the_number_of_living():
    # Of 4 living: least = 0.5 * 20 / 4 = 2.5. Of 3 living, without the first: 0.5 * 12 / 3 = 2.
    assert survivors(EAGER, 1, [8.0, 7.5, 2.5, 2.0]) == [0, 1, 2]
    assert survivors(EAGER, 1, [8.0, 7.5, 2.5, 2.0], [False, True, True, True]) == [1, 2, 3]


def test_eager_ignores_what_dead_experts_still_hold():
    assert survivors(EAGER, 2, [100.0, 3.0, 1.0], [False, True, True]) == [1, 2]  # least = 0.5 * 4 / 2 = 1


def test_the_best_expert_passes_every_threshold():
    strict = PruningSchedule("eager", updates=16, threshold=1.0)
    assert survivors(strict, 1, [2.0, 2.0, 2.0]) == [0, 1, 2]
    assert survivors(strict, 1, [2.0, 2.1, 2.0]) == [1]
    assert survivors(strict, 1, [0.0, 0.0]) == [0, 1]  # nothing seen, nothing known


def test_threshold_zero_drops_nobody_before_the_end():
    lenient = PruningSchedule("eager", updates=16, threshold=0.0)
    assert survivors(lenient, 3, [5.0, 0.0, 1.0]) == [0, 1, 2]
    assert survivors(lenient, 4, [5.0, 0.0, 1.0]) == [0]


@pytest.mark.parametrize("variant", ["eager", "staged"])
def test_after_the_last_window_the_best_living_expert_stays(variant):
    schedule = PruningSchedule(variant, updates=16, windows=4)
    assert survivors(schedule, 4, [9.0, 3.0, 5.0], [False, True, True]) == [2]
    assert survivors(schedule, 4, [3.0, 3.0]) == [0]


def test_staged_keeps_a_number_that_the_window_fixes():
    staged = PruningSchedule("staged", updates=16, windows=4)
    score_E = [float(expert) for expert in range(16)]
    assert [len(survivors(staged, window, score_E)) for window in (1, 2, 3, 4)] == [8, 4, 2, 1]
    assert survivors(staged, 2, score_E) == [12, 13, 14, 15]
    assert len(survivors(PruningSchedule("staged", updates=10, windows=5), 1, [1.0] * 32)) == 16


def test_two_pass_drops_nobody_while_it_records():
    assert PruningSchedule("two-pass").windows_done(10**6) == 0


@pytest.mark.parametrize(
    "values, flag",
    [
        (dict(variant="lazy", updates=16), "--moe-prune lazy"),
        (dict(variant="eager", updates=0), "--moe-prune-updates"),
        (dict(variant="staged", updates=7), "--moe-prune-updates"),
        (dict(variant="eager", updates=16, windows=0), "--moe-prune-windows 0"),
        (dict(variant="eager", updates=16, threshold=1.5), "--moe-prune-threshold 1.5"),
        (dict(variant="eager", updates=16, threshold=-0.1), "--moe-prune-threshold -0.1"),
    ],
)
def test_a_bad_schedule_is_refused_with_its_flag(values, flag):
    with pytest.raises(ValueError, match=flag):
        PruningSchedule(**values)


# ---- a layer ---------------------------------------------------------------------------------------------------------

LOAD_E = torch.tensor([4.0, 3.0, 3.0, 0.0])  # the hit rate prefers the first expert
GATE_SUM_E = torch.tensor([1.0, 2.5, 0.25, 0.0])  # the alpha score the second


def layer(**values):
    values = {"schedule": EAGER, **values}
    return LayerPruning(4, values.pop("schedule"), **values), torch.ones(4, dtype=torch.bool)


def train(pruning, alive_E, first, last, batches=1, load_E=LOAD_E, gate_sum_E=GATE_SUM_E):
    """Updates `first + 1` to `last`; returns the living experts before each of them."""
    living = []
    for done in range(first, last):
        for _ in range(batches):
            pruning.set_num_updates(done)
            pruning.decide(alive_E)
            pruning.observe(load_E, gate_sum_E)
        living.append(alive_E.nonzero().view(-1).tolist())
    return living


@pytest.mark.parametrize(
    "score, expected",
    [
        # alpha: least = 0.5 * 3.75 / 4 = 0.47; then 0.5 * 3.5 / 2 = 0.875
        ("alpha", [[0, 1, 2, 3]] * 2 + [[0, 1]] * 6 + [[1]] * 2),
        # hit: 0.5 * 10 / 4 = 1.25; then 0.5 * 10 / 3 = 1.67
        ("hit", [[0, 1, 2, 3]] * 2 + [[0, 1, 2]] * 6 + [[0]] * 2),
    ],
)
def test_an_eager_training(score, expected):
    assert train(*layer(score=score), 0, 10) == expected


def test_the_same_update_again_decides_once():
    pruning, alive_E = layer()
    assert train(pruning, alive_E, 0, 2, batches=3) == [[0, 1, 2, 3]] * 2
    pruning.set_num_updates(2)
    assert pruning.decide(alive_E) and not pruning.decide(alive_E)


def test_each_window_starts_from_nothing():
    pruning, alive_E = layer()
    train(pruning, alive_E, 0, 2)
    one = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert train(pruning, alive_E, 2, 5, gate_sum_E=one)[-1] == [1]  # the first expert's earlier score is forgotten


def test_nothing_is_counted_once_the_schedule_is_through():
    pruning, alive_E = layer()
    train(pruning, alive_E, 0, 12)
    assert pruning.score.tolist() == [0, 0, 0, 0]


def test_scores_are_exact_in_half_precision_and_large():
    pruning, alive_E = layer(schedule=PruningSchedule("two-pass"))
    pruning.half()
    pruning.decide(alive_E)
    for _ in range(1000):
        pruning.observe(torch.full((4,), 4096.0), torch.tensor([4096.0, 0.5, 0.25, 2**-20]))
    assert pruning.score.tolist() == [4096000 << 20, 500 << 20, 250 << 20, 1000]


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_resumed_training_decides_as_an_uninterrupted_one(stop):
    draw = torch.Generator().manual_seed(0)
    batches = torch.rand(12, 4, generator=draw)

    def updates(pruning, alive_E, first, last):
        living = []
        for done in range(first, last):
            living += train(pruning, alive_E, done, done + 1, gate_sum_E=batches[done])
        return living

    whole, alive_E = layer(schedule=PruningSchedule("eager", updates=16, threshold=0.9))
    expected = updates(whole, alive_E, 0, 12)
    assert len({str(living) for living in expected}) > 2  # there is something to get wrong
    first, alive_E = layer(schedule=whole.schedule)
    begun = updates(first, alive_E, 0, stop)
    second, _ = layer(schedule=whole.schedule)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert begun + updates(second, alive_E.clone(), stop, 12) == expected


def test_an_old_state_dict_loads_and_pruning_begins_with_the_update_it_meets():
    pruning, alive_E = layer()
    pruning.load_state_dict({})
    assert train(pruning, alive_E, 1000, 1010) == train(*layer(), 0, 10)


def test_a_number_said_before_loading_decides_nothing():
    """fairseq does so when it resumes, and when it only generates."""
    whole, alive_E = layer()
    train(whole, alive_E, 0, 3)
    pruning, _ = layer(choose=lambda: 1 / 0)
    pruning.set_num_updates(3)
    pruning.load_state_dict(whole.state_dict())
    assert pruning.progress.tolist() == [0, 1] and torch.equal(pruning.score, whole.score)


def test_a_new_training_from_a_pruned_model_begins_anew():
    pruning, alive_E = layer()
    train(pruning, alive_E, 0, 5)
    again, _ = layer()
    again.load_state_dict(pruning.state_dict())
    assert train(again, torch.ones(4, dtype=torch.bool), 0, 10) == train(*layer(), 0, 10)


def test_workers_decide_on_their_sum():
    """Two workers with opposite batches: each alone would keep another expert."""
    batches = [torch.tensor([3.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.5, 0.0])]
    total = sum(batches)

    def summed(counted_E):
        assert counted_E.dtype == torch.long
        return (total * 2**20).long()

    kept = [train(*layer(sum_over_workers=summed), 0, 9, gate_sum_E=batch)[-1] for batch in batches]
    assert kept == [[0], [0]]
    assert [train(*layer(), 0, 9, gate_sum_E=batch)[-1] for batch in batches] == [[0], [2]]


def test_the_second_of_two_passes_starts_with_the_chosen_expert():
    pruning, alive_E = layer(schedule=PruningSchedule("two-pass"), choose=lambda: 2, gate_one=True)
    assert not pruning.gate_is_one
    assert train(pruning, alive_E, 0, 3) == [[2], [2], [2]] and pruning.gate_is_one
    resumed, _ = layer(schedule=PruningSchedule("two-pass"), choose=lambda: 1 / 0)  # is not asked again
    resumed.load_state_dict(pruning.state_dict())
    assert train(resumed, alive_E, 3, 5) == [[2], [2]]


@pytest.mark.parametrize("gate_one", [False, True])
def test_the_gate_is_fixed_when_the_schedule_is_through(gate_one):
    pruning, alive_E = layer(gate_one=gate_one)
    train(pruning, alive_E, 0, 8)
    assert not pruning.gate_is_one
    train(pruning, alive_E, 8, 9)
    assert bool(pruning.gate_is_one) == gate_one
