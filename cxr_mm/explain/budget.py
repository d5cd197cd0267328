"""Time budget: what is measured within a limit, with a progress bar, and what is left."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from cxr_mm.core.progress import ProgressBar
from cxr_mm.core.types import plural

T = TypeVar("T")
LONG = 5.0
"""Seconds from which a part announces how long it is expected to take."""
_log = logging.getLogger(__name__)


class TimeBudget:
    """The seconds that are left for several loops.

    Args:
        seconds: limit from now on; None: no limit.
        clock: in seconds.

    Attributes:
        unmeasured: part → `N of M studies reached`, for parts that were cut short.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds
        self.unmeasured: dict[str, str] = {}

    def part(self, share: float) -> "TimeBudget":
        """A share (0 to 1] of the time that is left; what it leaves out is noted here too."""
        left = max(0.0, self._end - self._clock())
        part = TimeBudget(None if math.isinf(left) else share * left, self._clock)
        part.unmeasured = self.unmeasured
        return part

    def each(self, what: str, studies: Sequence[T]) -> Iterator[T]:
        """Yield studies as long as the next one is expected to end in time.

        Args:
            what: name of the part, shown beside the bar and in `unmeasured`.
            studies: in the order in which they matter.
        """
        start = self._clock()
        with ProgressBar(studies, desc=what, unit="study", leave=False) as bar:
            for done, study in enumerate(bar):
                now = self._clock()
                each = (now - start) / done if done else 0.0
                if done == 1:
                    _announce(what, each, len(studies), self._end - start)
                if now + each > self._end:
                    self.unmeasured[what] = f"{done} of {plural(len(studies), 'study')} reached"
                    return
                yield study


def _announce(what: str, each: float, count: int, left: float) -> None:
    """Say how long a part takes, estimated from its first study."""
    expected = each * count
    if expected < LONG:
        return
    limit = f", of which there is time for {left:.0f} s" if expected > left else ""
    _log.info("%s: about %.0f s for %s%s", what, expected, plural(count, "study"), limit)
