"""The verdict of a drift report: ok, warn, alarm or too small, with reasons and an exit code."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from cxr_mm.core.types import Frozen

Status = Literal["ok", "warn", "alarm", "too_small"]
Level = Literal["warn", "alarm"]
EXIT_CODES: dict[Status, int] = {"ok": 0, "too_small": 3, "warn": 10, "alarm": 20}
STATUS_NUMBERS: dict[Status, int] = {"ok": 0, "warn": 1, "alarm": 2, "too_small": -1}
"""Status as a number, for dashboards and Prometheus."""
VERDICT_FILE = "verdict.json"
"""File in a report's folder with the verdict and every figure behind it."""
REPORT_STAMP = "%Y%m%dT%H%M%SZ"
"""Format of a report folder's name: the end of its window, or the time of the report, UTC."""
ERROR_EXIT_CODE = 2
"""Exit code where no report could be written; it is no verdict."""


class Reason(Frozen):
    """One quantity that drifted further than windows without drift do."""

    drift: Literal["data", "concept"]
    name: str
    """Column, embedding, or finding and metric."""
    title: str
    level: Level
    score: float
    """Standard deviations above windows without drift; comparable across reasons."""
    limit: float
    """Score above which this level begins."""
    text: str
    """What changed, from which value to which."""


class Verdict(Frozen):
    """The result of a drift report on one window.

    `too_small` means no result: the window has fewer studies than the smallest size for which
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
    """Limitations: records left out, labels missing, synthetic data."""
    sites: dict[str, "Verdict"] = Field(default_factory=dict)
    """Verdict of each site, where a window was judged site by site; empty names no site."""

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Read the verdict from the content of `VERDICT_FILE`.

        Raises:
            ValueError: it has no valid verdict.
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


def most_severe(reasons: tuple[Reason, ...]) -> Literal["ok", "warn", "alarm"]:
    """The most severe level among the reasons."""
    levels = {reason.level for reason in reasons}
    return "alarm" if "alarm" in levels else "warn" if levels else "ok"
