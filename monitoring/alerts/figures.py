"""The figures of a notice, as a Prometheus text file."""

import re
import time

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from cxr_mm.core.errors import ParamsError
from cxr_mm.core.verdict import STATUS_NUMBERS
from monitoring.alerts.notice import Notice
from monitoring.config import PrometheusSettings


def write_figures(notice: Notice, settings: PrometheusSettings) -> None:
    """Write the file, whole or not at all.

    Raises:
        ParamsError: it cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", notice.task)
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(settings.folder / f"cxr_mm_{name}.prom"), figures(notice))
    except OSError as error:
        raise ParamsError(
            f"cannot be written ({error.strerror})", field=str(settings.folder)
        ) from error


def figures(notice: Notice) -> CollectorRegistry:
    """Gauges of a notice; those of the verdict are left out where the report failed."""
    metrics: dict[str, tuple[str, float]] = {
        "report_failed": ("Whether the newest report failed.", notice.status == "failed"),
        "report_seconds": ("When the newest report was made, since 1970.", int(time.time())),
        "window_end_seconds": ("End of its window, since 1970.", notice.until.timestamp()),
    }
    if notice.status != "failed":
        metrics |= {
            "verdict": (
                "Newest verdict: 0 ok, 1 warn, 2 alarm, -1 too few studies.",
                STATUS_NUMBERS[notice.status],
            ),
            "studies": ("Studies of its window.", notice.n),
            "labelled": ("Those of them that have a label.", notice.n_labelled),
            "reasons": ("Reasons of the verdict, at most ten.", len(notice.reasons)),
        }
    registry = CollectorRegistry()
    for name, (text, value) in metrics.items():
        gauge = Gauge(f"cxr_mm_monitoring_{name}", text, ["task", "digest"], registry=registry)
        gauge.labels(notice.task, notice.digest).set(value)
    return registry
