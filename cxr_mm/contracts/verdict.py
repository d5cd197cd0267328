"""Verdict: one word per window, its reasons in the order of their weight, and an exit code."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from cxr_mm.contracts.frozen import Frozen

Status = Literal["ok", "warn", "alarm", "too_small"]
Level = Literal["warn", "alarm"]
EXIT_CODES: dict[Status, int] = {"ok": 0, "too_small": 3, "warn": 10, "alarm": 20}
STATUS_NUMBERS: dict[Status, int] = {"ok": 0, "warn": 1, "alarm": 2, "too_small": -1}
"""As dashboards and Prometheus have them."""
VERDICT_FILE = "verdict.json"
"""In a report's folder: the verdict, and every figure behind it."""
REPORT_STAMP = "%Y%m%dT%H%M%SZ"
"""Name of a report's folder: the end of its window, or when it was made, UTC."""
ERROR_EXIT_CODE = 2
"""A report that could not be made; never a verdict."""


class Reason(Frozen):
    """One thing that moved further than undrifted windows do."""

    drift: Literal["data", "concept"]
    name: str
    """Column, embedding, or finding and metric."""
    title: str
    level: Level
    score: float
    """Standard deviations above what undrifted windows show; comparable across reasons."""
    limit: float
    """Score above which this level begins."""
    text: str
    """What moved, from where to where."""


class Verdict(Frozen):
    """What a report says of one window.

    `too_small` is no judgement: the window has fewer studies than the smallest size for which
    thresholds were learnt.
    """

    status: Status
    task: str
    digest: str
    n: int
    """Distinct studies in the window."""
    n_labelled: int
    first: str | None
    last: str | None
    """Time of the oldest and of the newest prediction in the window, ISO 8601, UTC."""
    headline: str
    reasons: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know besides: records left out, labels missing, made-up data."""

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Out of what `VERDICT_FILE` holds.

        Raises:
            ValueError: it holds no verdict.
        """
        return cls.model_validate({k: v for k, v in facts.items() if k in cls.model_fields})

    @property
    def exit_code(self) -> int:
        """0 ok, 3 too small to judge, 10 warn, 20 alarm."""
        return EXIT_CODES[self.status]

    @property
    def line(self) -> str:
        """The verdict in one line."""
        return f"{self.status.upper().replace('_', ' ')} {self.task}: {self.headline}"


def worst(reasons: tuple[Reason, ...]) -> Literal["ok", "warn", "alarm"]:
    """The gravest level among the reasons."""
    levels = {reason.level for reason in reasons}
    return "alarm" if "alarm" in levels else "warn" if levels else "ok"
