"""Page: everything that a report shows of a window, and the same as plain values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import pandas as pd

from monitoring.concept_drift import Estimate, estimate
from monitoring.diagnostics import ChangePoint, GroupResult, Service, detect, score_groups
from monitoring.reference import Reference
from monitoring.verdict import DriftReport, Window


@dataclass(frozen=True)
class Page:
    """What a report shows.

    Args:
        judgement: of the window.
        reference: what it was held against.
        window: what was judged.
        service: how the service ran.
    """

    judgement: DriftReport
    reference: Reference
    window: Window
    service: Service

    @property
    def findings(self) -> Sequence[str]:
        """Names of the task's findings."""
        return self.reference.task.finding_names

    @cached_property
    def estimates(self) -> list[Estimate]:
        """Performance as the probabilities predict it."""
        if not self.judgement.checks:
            return []
        return estimate(self.window.table, self.reference.table, self.findings)

    @cached_property
    def groups(self) -> list[GroupResult]:
        """Performance by subgroup."""
        if not self.judgement.concept:
            return []
        return score_groups(self._labelled, self.reference)

    @cached_property
    def since(self) -> list[ChangePoint]:
        """What streaming detectors say of the errors."""
        if not self.judgement.concept:
            return []
        return detect(self._labelled, self.reference.table, self.findings)

    @property
    def _labelled(self) -> pd.DataFrame:
        longer, own = self.window.longer, self.window.labelled
        return longer if len(longer) > len(own) else own


def facts(page: Page) -> dict[str, object]:
    """Verdict and every figure behind it, as plain values."""
    report = page.judgement
    return {
        **report.verdict.model_dump(mode="json"),
        "exit_code": report.verdict.exit_code,
        "false_alarm_rates": report.rates,
        "scores": {result.check.name: result.score for result in report.checks},
        "performance": {
            "longer" if result.longer else "window": [vars(metric) for metric in result.metrics]
            for result in report.concept
        },
        "subgroups": [asdict(group) for group in page.groups],
        "estimated": [asdict(one) for one in page.estimates],
        "since": [
            {**asdict(one), "when": one.when.isoformat() if one.when else None}
            for one in page.since
        ],
        "images": asdict(report.images) if report.images else None,
        "service": page.service.facts(),
    }
