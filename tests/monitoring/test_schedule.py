from itertools import pairwise

import pytest

from interp.errors import ConfigError
from interp.monitoring.schedule import Budget, Schedule


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def trained(steps, *, share, cost, each=1.0, every=1, total=None, known=True):
    """A training of even steps with snapshots of one price: the steps at which one was taken, and what they cost."""
    clock, schedule = Clock(), Schedule(every)
    budget = Budget(share, total=steps if known else total, clock=clock)

    def look():
        with budget.spending():
            clock.now += cost

    look()
    taken = [0]
    for step in range(1, steps + 1):
        clock.now += each
        if step == steps or (schedule.due(step) and budget.affords(step, schedule.left(step, steps) if known else 1)):
            look()
            taken.append(step)
    return taken, budget


def test_steps_that_are_due():
    log = Schedule("log")
    due = [step for step in range(1001) if log.due(step)]
    assert due[:9] == [0, 1, 2, 3, 4, 6, 7, 10, 13]  # 10^(k/8), rounded: 1, 1.33, 1.78, 2.37, 3.16, 4.22, ...
    assert due[-9:] == [100, 133, 178, 237, 316, 422, 562, 750, 1000]
    assert [step for step in range(101) if Schedule(30).due(step)] == [0, 30, 60, 90]
    assert [step for step in range(101) if Schedule("epoch", steps_per_epoch=50).due(step)] == [0, 50, 100]


@pytest.mark.parametrize("every", ["log", 7, 50])
def test_what_is_left_is_what_will_be_due(every):
    schedule = Schedule(every)
    for step in (1, 7, 20, 99, 350):
        for total in (20, 100, 350):
            assert schedule.left(step, total) == sum(schedule.due(i) for i in range(step, total))


def test_a_training_without_pressure_takes_all():
    taken, budget = trained(100, share=0.5, cost=0.1, every=10)
    assert taken == list(range(0, 101, 10))
    assert budget.own == pytest.approx(1.1)
    assert budget.training == pytest.approx(100)


def test_snapshots_are_thinned_out_evenly_within_the_budget():
    taken, budget = trained(1000, share=0.02, cost=1.0, every=10)
    assert budget.own / budget.training <= 0.02
    assert len(taken) == 20  # 20 seconds of 1000
    gaps = [b - a for a, b in pairwise(taken[1:-1])]
    assert min(gaps) >= 50
    assert max(gaps) <= 70


def test_log_spaced_ones_are_thinned_out_too_and_early_ones_can_be_afforded():
    taken, budget = trained(1000, share=0.02, cost=1.5, every="log")
    assert budget.own / budget.training <= 0.02
    assert len(taken) == 13
    assert taken[1] <= 3
    assert taken[-2] >= 500


def test_without_a_known_end_only_what_has_passed_is_spent():
    taken, budget = trained(1000, share=0.02, cost=1.0, every=10, known=False)
    # the n-th costs until then n seconds, which are 2 % of 50 n steps; the last comes in any case
    assert taken == [0, *range(100, 1000, 50), 1000]
    assert budget.own / budget.training == pytest.approx(0.02)


def test_first_and_last_are_taken_though_they_are_too_dear():
    taken, budget = trained(10, share=0.02, cost=5.0)
    assert taken == [0, 10]
    assert budget.own / budget.training == pytest.approx(1.0)


def test_preparations_count_but_are_not_the_price_of_a_snapshot():
    clock = Clock()
    budget = Budget(0.1, total=10, clock=clock)
    with budget.spending(snapshot=False):
        clock.now += 3
        assert budget.own == 3
        assert budget.training == 0
    assert (budget.own, budget.cost) == (3, 0)
    clock.now += 4
    assert budget.training == 4


def test_options_out_of_range():
    for every in (0, -3, True):
        with pytest.raises(ConfigError, match="or so many steps"):
            Schedule(every)
    with pytest.raises(ConfigError, match="needs steps_per_epoch"):
        Schedule("epoch")
    for share in (0, 1.1, -1):
        with pytest.raises(ConfigError, match="share"):
            Budget(share)
    with pytest.raises(ConfigError, match="1 step or more"):
        Budget(0.1, total=0)
