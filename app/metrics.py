"""Metrics: how much was asked, how long it took and what was refused, for Prometheus.

Text format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from app.model_watcher import ModelWatcher
from app.monitoring_reports import Report, Serving, latest_report
from app.service import InferenceService, StudySession
from app.upload_cache import UploadCache
from cxr_mm.core.errors import CancelledError
from cxr_mm.core.prediction import Answer
from cxr_mm.core.record import Outcome
from cxr_mm.core.study import Study
from cxr_mm.core.verdict import STATUS_NUMBERS
from cxr_mm.explain.attribution import Attribution
from cxr_mm.inference.predictor import Predictor
from cxr_mm.prediction_log import PredictionLog

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
T = TypeVar("T")


class Metrics:
    """Figures of one server; safe for threads.

    Args:
        root: folder of the project, where monitoring leaves its reports.
    """

    def __init__(self, root: Path = Path()) -> None:
        stored = self._registry = CollectorRegistry()
        labels = ("kind", "task")
        self._done = Counter("cxr_mm_done", "What was answered.", labels, registry=stored)
        self._errors = Counter("cxr_mm_errors", "What failed.", (*labels, "error"), registry=stored)
        self._refused = Counter("cxr_mm_refused", "What was refused.", ("reason",), registry=stored)
        self._seconds = Histogram(
            "cxr_mm_seconds", "Time to answer.", labels, buckets=SECONDS, registry=stored
        )
        self._queued = Gauge("cxr_mm_queue_length", "Asks that wait.", ("page",), registry=stored)
        started = time.monotonic()
        up = Gauge("cxr_mm_up_seconds", "Time since the start.", registry=stored)
        up.set_function(lambda: time.monotonic() - started)
        self._verdicts = _Verdicts(root)
        stored.register(self._verdicts)

    @contextmanager
    def timed(self, kind: str, task: str) -> Iterator[None]:
        """Time what the body does; where it raises, count the error instead.

        Args:
            kind: `prediction`, `explanation` and the like.
        """
        start = time.monotonic()
        with self.failing(kind, task):
            yield
        self._seconds.labels(kind, task).observe(time.monotonic() - start)

    @contextmanager
    def failing(self, kind: str, task: str) -> Iterator[None]:
        """Count the error, by its type, that the body raises; one who stopped it is no error."""
        try:
            yield
        except CancelledError:
            raise
        except Exception as error:
            self._errors.labels(kind, task, type(error).__name__).inc()
            raise

    def count(self, kind: str, task: str, number: int = 1) -> None:
        """Count what was done, such as `feedback`."""
        self._done.labels(kind, task).inc(number)

    def refuse(self, reason: str) -> None:
        """Count one request turned away."""
        self._refused.labels(reason).inc()

    def watch_queue(self, page: str, length: Callable[[], float]) -> None:
        """Ask `length` for the queue of a page whenever the figures are read."""
        self._queued.labels(page).set_function(length)

    def watch_verdict(self, bundle: Serving) -> None:
        """Look up what monitoring last said of a bundle whenever the figures are read."""
        self._verdicts.bundles.append(bundle)

    def text(self) -> bytes:
        """All figures in the text format 0.0.4."""
        return generate_latest(self._registry)


class InstrumentedService(InferenceService):
    """A reading service whose work is counted; its methods are those of InferenceService."""

    def __init__(
        self,
        predictor: Predictor | ModelWatcher,
        log: PredictionLog | None,
        metrics: Metrics,
        uploads: UploadCache | None = None,
    ) -> None:
        super().__init__(predictor, log, uploads)
        self.metrics = metrics

    def study(self, *args: Any, **options: Any) -> Study:
        with self.metrics.failing("study", self.task.name):
            return super().study(*args, **options)

    def answer(self, *args: Any, **options: Any) -> StudySession:
        with self.metrics.timed("prediction", self.task.name):
            return super().answer(*args, **options)

    def logged(self, answers: Sequence[Answer]) -> str:
        # Every answer passes here, also those of a worklist and where no log is kept.
        self.metrics.count("prediction", self.task.name, len(answers))
        return super().logged(answers)

    def explained(self, *args: Any, **options: Any) -> Attribution | None:
        return self._counted("explanation", super().explained, *args, **options)

    def explanation(self, *args: Any, **options: Any) -> Path:
        return self._counted("explanation", super().explanation, *args, **options)

    def details(self, *args: Any, **options: Any) -> tuple[str, str]:
        return self._counted("explanation", super().details, *args, **options)

    def moved(self, *args: Any, **options: Any) -> dict[str, float]:
        return self._counted("what_if", super().moved, *args, **options)

    def feedback(self, outcomes: Sequence[Outcome]) -> None:
        return self._counted("feedback", super().feedback, outcomes)

    def _counted(self, kind: str, created: Callable[..., T], *args: Any, **options: Any) -> T:
        with self.metrics.timed(kind, self.task.name):
            result = created(*args, **options)
        self.metrics.count(kind, self.task.name)
        return result


class _Verdicts(Collector):
    """The newest verdict of each bundle, looked up when the figures are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bundles: list[Serving] = []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "cxr_mm_monitoring_verdict",
            "Newest verdict of monitoring: 0 ok, 1 warn, 2 alarm, -1 too few studies.",
            labels=("task", "digest"),
        )
        for bundle in self.bundles:
            report = latest_report(bundle.task.name, bundle.digest, self.root)
            if isinstance(report, Report):
                labels = (bundle.task.name, bundle.digest)
                family.add_metric(labels, STATUS_NUMBERS[report.verdict.status])
        yield family
