"""Rounds: several ways to do one thing, timed in turn, so that noise meets all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Seconds = dict[str, list[float]]


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """Seconds of each way in each round; one round before them warms up and does not count."""
    taken: Seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:
                taken[name].append(time.perf_counter() - started)
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of one way's seconds as a multiple of another's."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def device() -> str:
    """What the rounds ran on."""
    return f"cpu, {torch.get_num_threads()} threads"
