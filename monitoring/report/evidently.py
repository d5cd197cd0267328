"""Evidently's own report of a window, made to agree with our verdict, and its dashboards.

Evidently 0.7: `Report([...]).run(current, reference)`. Its default tests are one p-value per
column with no correction; here each column has the score and the limit of the verdict, registered
with Evidently as a drift method of its own, and so has each embedding, by EmbeddingsDrift over the
studies that have one. What a dashboard draws must be a metric of a snapshot, so the figures of
a window are kept as a snapshot of their own, the means of a table with one row. Importing this
module is slow, and switches Evidently's telemetry off.
"""

import math
import os
import warnings
from abc import ABC
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cxr_mm.core.allocator import without_collection
from monitoring.concept_drift import COLUMNS_OF_FINDING, Metric, performance
from monitoring.reference import Reference
from monitoring.report.workspace import FIGURES_RUN, REPORT_RUN, locked_index, snapshot_file
from monitoring.table import EMBEDDINGS
from monitoring.verdict import METRIC_NAMES, DriftReport

os.environ.setdefault("DO_NOT_TRACK", "1")

with warnings.catch_warnings(), without_collection():
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.metric_types import (
        MetricTest,
        MetricTestResult,
        SingleValueCalculation,
        SingleValueMetric,
        TestStatus,
    )
    from evidently.core.report import Snapshot
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.legacy.metrics.data_drift.embedding_drift_methods import DriftMethod
    from evidently.metrics import EmbeddingsDrift, MeanValue
    from evidently.metrics.embeddings import EmbeddingsDriftCalculation
    from evidently.presets import DataDriftPreset
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel
    from evidently.ui.workspace import Workspace

MOST_ROWS = 2000
"""Rows of a window that the page shows; of more, as many drawn at random."""
MOST_POINTS = 250
"""Embeddings of each side that the page's map (t-SNE) shows."""
FEWEST_POINTS = 20
KINDS = {"number": "number", "category": "category", "missing": "category"}
MISSING = ".missing"
METHODS = {"number": "anderson_darling", "category": "exact chi-square"}
"""Kind of column → statistic behind its score."""
PANELS: Mapping[str, str] = {
    "verdict": "Verdict: 0 ok, 1 warn, 2 alarm, -1 too few studies",
    "share_drifted": "Share of columns that drifted",
    "auc": "AUC, where labels came",
    "volume": "Studies",
}
"""Figures that the dashboard draws: their names and titles; a window has those that it knows."""


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


class LearntScore(DriftMethod):  # type: ignore[misc]
    """Drift of an embedding by the score and limit of the verdict."""

    class Config:  # noqa: D106
        type_alias = "cxr_mm:drift_method:LearntScore"

    score: float
    limit: float

    def __call__(
        self,
        current_emb: pd.DataFrame,  # noqa: ARG002
        reference_emb: pd.DataFrame,  # noqa: ARG002
    ) -> tuple[float, bool, str]:
        return self.score, self.score > self.limit, "energy distance, learnt threshold"


class PresentEmbeddingsDrift(EmbeddingsDrift):  # type: ignore[misc]
    """EmbeddingsDrift over the studies that have the embedding."""

    class Config:  # noqa: D106
        type_alias = "cxr_mm:metric:PresentEmbeddingsDrift"


class PresentEmbeddingsDriftCalculation(EmbeddingsDriftCalculation, ABC):  # type: ignore[misc]
    """Drops the rows that Evidently's own leaves in: those without the embedding."""

    def _gen_input_data(self, context: Any, task_name: str | None) -> Any:
        data = super()._gen_input_data(context, task_name)
        names = context.data_definition.embeddings[self.metric.embeddings_name]
        data.current_data = _thinned(data.current_data.dropna(subset=names), MOST_POINTS)
        data.reference_data = _thinned(data.reference_data.dropna(subset=names), MOST_POINTS)
        return data


# Evidently finds a metric's calculation by the first generic base, which a subclass of a
# calculation has not; ABC keeps it from looking.
PresentEmbeddingsDrift.__calculation_type__ = PresentEmbeddingsDriftCalculation


def write_page(
    current: pd.DataFrame, reference: Reference, report: DriftReport, folder: Path
) -> Any:
    """Write report.html and report.json into a folder; returns Evidently's snapshot.

    Args:
        current: the evaluated window.
        reference: what it was compared with.
        report: the outcome; its scores and limits are the ones shown.
        folder: must exist.
    """
    methods = _methods(current, reference, report)
    scores = {r.check.name: r.score for r in report.checks}
    for name, method in methods.items():
        register_method(name, method, scores[name])
    embeddings = _embeddings(current, reference)
    definition = DataDefinition(
        numerical_columns=[n for n in methods if methods[n] == METHODS["number"]],
        categorical_columns=[n for n in methods if methods[n] == METHODS["category"]],
        embeddings=embeddings,
    )
    parts = (c for group in embeddings.values() for c in group)
    answers = (f"{kind}.{n}" for n in reference.task.finding_names for kind in COLUMNS_OF_FINDING)
    columns = list(dict.fromkeys([*methods, *parts, *answers]))
    window, frozen = (
        Dataset.from_pandas(
            _with_missing(_thinned(table, MOST_ROWS), list(methods))[columns],
            data_definition=definition,
        )
        for table in (current, reference.table)
    )
    metrics = [
        *_data_metrics(methods, embeddings, scores, report),
        *_performance_metrics(report),
    ]
    # Threads of t-SNE wait for one another: on a busy machine they cost a hundred times one alone.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snapshot = Report(metrics, metadata={"verdict": report.verdict.line}).run(window, frozen)
        snapshot.save_html(str(folder / "report.html"))
        snapshot.save_json(str(folder / "report.json"))
    return snapshot


def _methods(current: pd.DataFrame, reference: Reference, report: DriftReport) -> dict[str, str]:
    """Columns of the page and the statistic of each, by name."""
    tables = current, reference.table
    methods = {
        r.check.name: METHODS[KINDS[r.check.method]]
        for r in report.checks
        if r.check.method in KINDS
        and (r.check.method == "missing" or all(t[r.check.name].notna().any() for t in tables))
    }
    return dict(sorted(methods.items()))


def _data_metrics(
    methods: dict[str, str],
    embeddings: dict[str, list[str]],
    scores: dict[str, float],
    report: DriftReport,
) -> Iterator[Any]:
    """Evidently's preset, each column with its score and our limit; then embeddings."""
    assert report.limits is not None
    limit = report.limits.alarm
    if methods:
        yield DataDriftPreset(
            columns=list(methods),
            per_column_method={name: _registered(name) for name in methods},
            per_column_threshold=dict.fromkeys(methods, limit),
            drift_share=1e-9,
        )
    for name in embeddings:
        method = LearntScore(score=scores[name], limit=limit)
        yield PresentEmbeddingsDrift(embeddings_name=name, drift_method=method)


def _performance_metrics(report: DriftReport) -> Iterator[Any]:
    """Performance on the labelled studies of the window itself."""
    for result in (r for r in report.concept if not r.longer):
        limit = result.limit(report.rates["concept"])
        for metric in result.metrics:
            test = LearntLimit(score=metric.score, limit=limit)
            yield FindingPerformance(finding=metric.finding, figure=metric.metric, tests=[test])


def register_method(column: str, statistic: str, score: float) -> None:
    """Make the score of a column known to Evidently as a drift method; a later one replaces it."""

    def scored(_: object, __: object, ___: object, threshold: float) -> tuple[float, bool]:
        return score, score > threshold

    register_stattest(
        StatTest(
            name=_registered(column),
            display_name=f"{statistic}, learnt threshold",
            allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
            default_threshold=np.inf,
        ),
        scored,
    )


def _registered(column: str) -> str:
    return f"cxr_mm:{column}"


def _embeddings(current: pd.DataFrame, reference: Reference) -> dict[str, list[str]]:
    """Components of each embedding that enough studies have for a map."""
    embeddings: dict[str, list[str]] = {}
    for modality, projection in reference.projections.items():
        group = EMBEDDINGS[modality]
        names = [f"{group}.{i}" for i in range(len(projection))]
        tables = (current, reference.table)
        if min(len(t[names].dropna()) for t in tables) >= FEWEST_POINTS:
            embeddings[group] = names
    return embeddings


def _with_missing(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The table with a column for each missing share that is watched."""
    flags = {
        name: np.where(table[name.removesuffix(MISSING)].isna(), "missing", "given")
        for name in names
        if name.endswith(MISSING)
    }
    return table.assign(**flags)


def _thinned(table: pd.DataFrame, most: int) -> pd.DataFrame:
    if len(table) > most:
        table = table.sample(most, random_state=0)
    return table.reset_index(drop=True)


def add_snapshot(
    workspace: Path, task: str, snapshot: Any, when: datetime, figures: Mapping[str, float]
) -> None:
    """Keep what Evidently found in a window, and draw its figures on the dashboard of the task.

    A window that is reported again takes the place of its former snapshots.

    Args:
        workspace: folder of the workspace; made where it is not there.
        task: whose project; made with its dashboard where it is not there.
        snapshot: what `Report.run` gave; None for a window too small to be compared.
        when: end of the window.
        figures: names and values, among them those of PANELS.
    """
    moment = when.astimezone(UTC).replace(tzinfo=None)  # Evidently compares times without offset
    runs = {FIGURES_RUN: _figures(figures)}
    if snapshot is not None:
        runs[REPORT_RUN] = snapshot
    with locked_index(workspace) as index:
        opened = Workspace.create(str(workspace))
        if task not in index:
            index[task] = {"project": _new_project(opened, task), "windows": {}}
        entry = index[task]
        project, key = entry["project"], moment.isoformat()
        for former in entry["windows"].pop(key, {}).values():
            snapshot_file(workspace, project, former).unlink(missing_ok=True)
        stored = entry["windows"][key] = {}
        for name, run in runs.items():
            model = run.to_snapshot_model()
            model.timestamp, model.name = moment, name
            stored[name] = str(opened.add_run(project, Snapshot.load_model(model)).id)


def _new_project(workspace: Workspace, task: str) -> str:
    """A project with its dashboard; its id."""
    project = workspace.create_project(task, "Windows of the prediction log against the reference")
    for name, title in PANELS.items():
        labels = {"column": name}
        sampled = PanelMetric(legend=name, metric="MeanValue", metric_labels=labels)
        project.dashboard.add_panel(line_plot_panel(title, [sampled], size="half"), tab="Over time")
    return str(project.id)


def _figures(figures: Mapping[str, float]) -> Snapshot:
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    definition = DataDefinition(numerical_columns=list(known))
    table = Dataset.from_pandas(pd.DataFrame([known]), data_definition=definition)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Report([MeanValue(column=name) for name in known]).run(table, None)
