"""Stages of the work on one image: how long each takes, for whoever counts it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Observe = Callable[[str, float], None]
"""Is called with the name of a stage and its seconds."""
STAGES = ("receive", "header", "decode", "answer", "explain", "build", "send")
"""In their order; `send` is of one object, the others are of one image."""


def unobserved(_stage: str, _seconds: float) -> None:
    """Count nothing."""


class Stages:
    """Times the stages of an image.

    Args:
        observe: is told.
    """

    def __init__(self, observe: Observe = unobserved) -> None:
        self._observe = observe

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time the body; one that raises is not counted."""
        started = time.perf_counter()
        yield
        self._observe(stage, time.perf_counter() - started)


UNTIMED = Stages()
"""Counts nothing."""
