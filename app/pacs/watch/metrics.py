"""Figures of the node for Prometheus: stages timed as they end, all else read from the queue."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.metrics import SECONDS
from app.pacs.queue import Queue
from app.pacs.queue.upkeep import status
from app.pacs.queue.watched import alerts, peer_states
from app.pacs.sections.watch import MetricsSettings
from cxr_mm.core.errors import LogError, ParamsError


class NodeMetrics:
    """Figures of one node; safe for threads.

    Args:
        queue: read whenever the figures are.
    """

    def __init__(self, queue: Queue) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "cxr_mm_pacs_stage_seconds",
            "Time of each stage of an image.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_QueueFigures(queue))

    def observe(self, stage: str, seconds: float) -> None:
        """Count one stage that has ended."""
        self._seconds.labels(stage).observe(seconds)

    @contextmanager
    def served(self, settings: MetricsSettings | None) -> Iterator[None]:
        """Answer requests for the figures while the body runs; None serves none.

        Raises:
            ParamsError: the address cannot be had.
        """
        if settings is None:
            yield
            return
        try:
            server, thread = start_http_server(settings.port, settings.host, self.registry)
        except OSError as error:
            raise ParamsError(
                f"{settings.host} port {settings.port} cannot be had ({error.strerror or error})",
                field="metrics.port",
                remedy="Choose another port, or end what listens there",
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _QueueFigures(Collector):
    """What is in the queue when the figures are asked for."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        try:
            yield from self._figures()
        except LogError:
            yield GaugeMetricFamily("cxr_mm_pacs_queue_up", "Whether the queue can be read.", 0)

    def _figures(self) -> list[Metric]:
        found, now = status(self._queue), self._queue.clock()
        received = GaugeMetricFamily(
            "cxr_mm_pacs_images", "Images in the queue, by state.", labels=("state",)
        )
        for state, number in found["received"].items():
            received.add_metric((state,), number)
        deliveries = GaugeMetricFamily(
            "cxr_mm_pacs_deliveries",
            "Objects in the queue, by destination and state.",
            labels=("destination", "state"),
        )
        for name, states in found["destinations"].items():
            for state, number in states.items():
                deliveries.add_metric((name, state), number)
        counts = CounterMetricFamily(
            "cxr_mm_pacs_counts", "Refusals and repeats, by reason.", labels=("reason", "peer")
        )
        for count in found["counts"]:
            counts.add_metric((count["what"], count["peer"]), count["number"])
        away = GaugeMetricFamily(
            "cxr_mm_pacs_peer_away_seconds", "For how long a peer is away.", labels=("peer",)
        )
        for peer in peer_states(self._queue):
            seconds = (now - peer.since).total_seconds() if peer.trouble else 0.0
            away.add_metric((peer.name,), seconds)
        raised = GaugeMetricFamily("cxr_mm_pacs_alerts", "Alerts raised.", labels=("cause",))
        for alert in alerts(self._queue):
            raised.add_metric((alert.cause,), not alert.over)
        age = found["oldest_seconds"] or 0.0
        return [
            GaugeMetricFamily("cxr_mm_pacs_queue_up", "Whether the queue can be read.", 1),
            GaugeMetricFamily(
                "cxr_mm_pacs_queue_length",
                "Images that wait for an answer.",
                found["received"].get("received", 0),
            ),
            GaugeMetricFamily("cxr_mm_pacs_queue_age_seconds", "Age of the oldest of them.", age),
            *(received, deliveries, counts, away, raised),
        ]
