"""The time of the stage explain: loops stop before it is over, and what is left out is said."""

import logging

import pytest

from cxr_mm.explain.budget import TimeBudget


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def reached(budget, clock, what, count, seconds):
    """Studies of a loop each of which takes some seconds."""
    found = []
    for study in budget.each(what, list(range(count))):
        clock.now += seconds
        found.append(study)
    return found


def test_all_is_measured_where_time_suffices(clock):
    budget = TimeBudget(60, clock)
    assert reached(budget, clock, "quick", 12, 5) == list(range(12))
    assert budget.unmeasured == {}


def test_no_study_is_begun_that_would_not_end_in_time(clock, caplog):
    budget = TimeBudget(58, clock)
    with caplog.at_level(logging.INFO):
        assert len(reached(budget, clock, "quick", 12, 5)) == 11
    assert clock.now <= 158
    assert budget.unmeasured == {"quick": "11 of 12 studies reached"}
    assert caplog.messages == ["quick: about 60 s for 12 studies, of which there is time for 58 s"]


def test_a_part_takes_its_share_of_what_is_left_and_tells_the_whole(clock):
    budget = TimeBudget(100, clock)
    part = budget.part(0.5)
    assert len(reached(part, clock, "first", 30, 10)) == 5
    assert len(reached(budget.part(0.5), clock, "second", 30, 10)) == 2
    assert reached(budget, clock, "third", 2, 10) == [0, 1]
    assert set(budget.unmeasured) == {"first", "second"}


def test_nothing_is_begun_when_the_time_is_over(clock):
    budget = TimeBudget(10, clock)
    clock.now += 11
    assert reached(budget, clock, "late", 3, 1) == []
    assert budget.unmeasured == {"late": "0 of 3 studies reached"}


def test_without_a_limit_all_is_measured(clock):
    budget = TimeBudget(None, clock)
    assert len(reached(budget.part(0.1), clock, "all", 50, 1000)) == 50
    assert budget.unmeasured == {}
