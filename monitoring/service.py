"""Service: how much was asked in a window, how fast it was answered, what failed, and silences."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from cxr_mm.prediction_log.windows import ServiceCount

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Service:
    """Figures of a window.

    Args:
        hours: counts of each hour in which anything was asked, in order.
        predictions: answered.
        refused, bad_input, failures: not answered, by why.
        slowest: the highest of the hours' 95th percentiles of latency, in ms.
        longest_gap: longest stretch without any request, bounds of the window included, in hours.
    """

    hours: tuple[ServiceCount, ...]
    predictions: int
    refused: int
    bad_input: int
    failures: int
    slowest: float | None
    longest_gap: float

    def facts(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **{k: v for k, v in asdict(self).items() if k != "hours"},
            "hours": [{**asdict(hour), "start": hour.start.isoformat()} for hour in self.hours],
        }


def service(hours: Sequence[ServiceCount], since: datetime | None, until: datetime) -> Service:
    """Sum up the hours of a window."""
    slow = [hour.latency_p95 for hour in hours if hour.latency_p95 is not None]
    return Service(
        hours=tuple(hours),
        predictions=sum(hour.records for hour in hours),
        refused=sum(hour.events.get("refused_film", 0) for hour in hours),
        bad_input=sum(hour.events.get("bad_input", 0) for hour in hours),
        failures=sum(hour.events.get("failure", 0) for hour in hours),
        slowest=max(slow, default=None),
        longest_gap=_longest_gap(hours, since, until),
    )


def _longest_gap(hours: Sequence[ServiceCount], since: datetime | None, until: datetime) -> float:
    """Whole hours between two hours in which something was asked."""
    starts = [hour.start for hour in hours]
    ends = [start + HOUR for start in starts]
    before = [since or (starts[0] if starts else until), *ends]
    gaps = [(start - end) / HOUR for end, start in zip(before, [*starts, until], strict=True)]
    return max(0.0, *gaps)
