"""Rounds: every way has its turn, the first round does not count, ratios are round by round."""

import pytest

from benchmarks.harness.timing import in_turn, ratio


def test_ways_take_turns_and_the_first_round_does_not_count(monkeypatch):
    clock, order = [0.0], []

    def way(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds if len(order) > 2 else 100

        return run

    monkeypatch.setattr("benchmarks.harness.timing.time.perf_counter", lambda: clock[0])
    taken = in_turn({"a": way("a", 1), "b": way("b", 3)}, 2)
    assert order == ["a", "b"] * 3
    assert taken == {"a": [1, 1], "b": [3, 3]}


def test_a_round_that_was_slow_for_both_changes_nothing():
    assert ratio([2, 20, 2], [1, 10, 1]) == 2
    with pytest.raises(ValueError, match="zip"):
        ratio([1, 2], [1])
