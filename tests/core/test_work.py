"""Work in shards: results are kept on the way, and only those that are missing are made again."""

import pytest

from cxr_mm.core.shards import work
from cxr_mm.core.shards.work import keeping_results, run_here, shard_size, shards_of


class Squares:
    """Work that squares numbers, notes what it was asked, and may be killed at one."""

    def __init__(self, dies_at=None):
        self.asked, self.dies_at = [], dies_at

    def __call__(self):
        return self.work

    def work(self, numbers):
        for number in numbers:
            if number == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(number)
            yield {"shard": number, "square": str(number**2), "raw": bytes([number])}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "WORTH_KEEPING", 5)
    return tmp_path / "parts"


def test_a_killed_run_goes_on_with_the_results_that_are_missing(folder):
    first, second = Squares(dies_at=3), Squares()
    with pytest.raises(KeyboardInterrupt), keeping_results(first, folder, 5, "a") as kept:
        list(run_here(kept, range(5)))
    assert first.asked == [0, 1, 2]
    with keeping_results(second, folder, 5, "a") as kept:
        results = list(run_here(kept, range(5)))
    assert second.asked == [3, 4]
    assert results == list(Squares().work(range(5)))
    assert not folder.exists()


def test_results_of_another_computation_are_removed(folder):
    with pytest.raises(KeyboardInterrupt), keeping_results(Squares(3), folder, 5, "a") as kept:
        list(run_here(kept, range(5)))
    other = Squares()
    with keeping_results(other, folder, 5, "b") as kept:
        assert len(list(folder.glob("*"))) == 0
        list(run_here(kept, range(5)))
    assert other.asked == [0, 1, 2, 3, 4]


def test_a_short_computation_keeps_nothing(folder):
    short = Squares()
    with keeping_results(short, folder, 4, "a") as kept:
        assert kept is short
    assert not folder.exists()


@pytest.mark.parametrize(("items", "size"), [(1, 16), (16 * 2048, 16), (40_000, 32), (10**9, 4096)])
def test_a_shard_is_of_whole_batches_and_small(items, size):
    assert shard_size(items, 16) == size
    assert len(shards_of(items, size)) * size - items in range(size)
