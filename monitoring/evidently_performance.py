"""Performance as a metric of Evidently's own kind, tested at the limit that our verdict has.

Evidently 0.7 has no metric of a finding that is often unlabelled, nor a test at a learnt limit.
Importing this module is slow, and switches Evidently's telemetry off.
"""

import os
import warnings
from typing import Any

os.environ.setdefault("DO_NOT_TRACK", "1")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from evidently.core.metric_types import (
        MetricTest,
        MetricTestResult,
        SingleValueCalculation,
        SingleValueMetric,
        TestStatus,
    )

from monitoring.concept import Metric, MetricResult, performance
from monitoring.reasons import METRIC_NAMES


class LearntLimit(MetricTest):  # type: ignore[misc]
    """Fails where the score of a change exceeds its learnt limit."""

    class Config:  # noqa: D106
        type_alias = "cxr_mm:test:LearntLimit"

    score: float
    limit: float

    def to_test(self) -> Any:
        def run(context: Any, metric: Any, value: Any) -> MetricTestResult:
            del context
            return MetricTestResult(
                id="learnt_limit",
                name=f"{value.display_name}: within its learnt limit",
                description=f"{value.value:.3f}; score {self.score:.1f}, limit {self.limit:.1f}",
                status=TestStatus.SUCCESS if self.score <= self.limit else TestStatus.FAIL,
                metric_config=metric.to_metric_config(),
                test_config=self.dict(),
            )

        return run


class FindingPerformance(SingleValueMetric):  # type: ignore[misc]
    """A figure of one finding over the studies that have its label."""

    class Config:  # noqa: D106
        type_alias = "cxr_mm:metric:FindingPerformance"

    finding: str
    figure: str


class FindingPerformanceCalculation(SingleValueCalculation[FindingPerformance]):  # type: ignore[misc]
    """Reads `label.*`, `probability.*` and `positive.*` of both data sets."""

    def calculate(self, context: Any, current_data: Any, reference_data: Any) -> Any:
        del context
        return tuple(self.result(self._value(data)) for data in (current_data, reference_data))

    def display_name(self) -> str:
        return f"{self.metric.finding}: {METRIC_NAMES[self._figure]}"

    def _value(self, data: Any) -> float:
        finding = self.metric.finding
        return float(performance(data.as_dataframe(), [finding])[finding, self._figure][0])

    @property
    def _figure(self) -> Metric:
        figure: Metric = self.metric.figure
        return figure


def performance_metric(result: MetricResult, limit: float) -> FindingPerformance:
    """The metric of a figure that our verdict has judged."""
    return FindingPerformance(
        finding=result.finding,
        figure=result.metric,
        tests=[LearntLimit(score=result.score, limit=limit)],
    )


def performance_columns(finding: str) -> list[str]:
    """Columns that the metric of a finding reads."""
    return [f"{kind}.{finding}" for kind in ("label", "probability", "positive")]
