"""Metrics for Prometheus: number of requests, their latency, errors and refusals.

Text format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from app.monitoring_reports import Report, Serving, latest_report
from cxr_mm.core.errors import CancelledError
from cxr_mm.core.verdict import STATUS_NUMBERS

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Figures of one server; safe for threads.

    Args:
        root: folder of the project, where monitoring leaves its reports.
    """

    def __init__(self, root: Path = Path()) -> None:
        stored = self._registry = CollectorRegistry()
        labels = ("kind", "task")
        self._done = Counter("cxr_mm_done", "Requests answered.", labels, registry=stored)
        self._errors = Counter(
            "cxr_mm_errors", "Requests that failed.", (*labels, "error"), registry=stored
        )
        self._refused = Counter("cxr_mm_refused", "Requests refused.", ("reason",), registry=stored)
        self._seconds = Histogram(
            "cxr_mm_seconds", "Time to answer.", labels, buckets=SECONDS, registry=stored
        )
        self._queued = Gauge(
            "cxr_mm_queue_length", "Requests that wait.", ("page",), registry=stored
        )
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
        """Count the error, by its type, that the body raises; cancellation is no error."""
        try:
            yield
        except CancelledError:
            raise
        except Exception as error:
            self._errors.labels(kind, task, type(error).__name__).inc()
            raise

    def count(self, kind: str, task: str, number: int = 1) -> None:
        """Count requests answered, of a kind such as `feedback`."""
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
