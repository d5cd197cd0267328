"""Prometheus: the newest verdict as a text file for node_exporter's textfile collector.

Text exposition format 0.0.4; one file for each task, `cxr_mm_TASK.prom`.
"""

import re
import time

from cxr_mm.contracts.verdict import STATUS_NUMBERS
from cxr_mm.errors import ParamsError
from cxr_mm.files import write_text
from monitoring.alerts.notice import Notice
from monitoring.settings import PrometheusSettings


def write_figures(notice: Notice, settings: PrometheusSettings) -> None:
    """Write the file, whole or not at all.

    Raises:
        ParamsError: it cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", notice.task)
    whole = settings.folder / f"cxr_mm_{name}.whole"
    try:
        write_text(whole, figures(notice))
        # The collector reads whatever ends in .prom, also a file that is being written.
        whole.replace(whole.with_suffix(".prom"))
    except OSError as error:
        raise ParamsError(
            f"cannot be written ({error.strerror})", field=str(settings.folder)
        ) from error


def figures(notice: Notice) -> str:
    """The lines of the file."""
    found = {
        "report_failed": ("Whether the newest report failed.", float(notice.status == "failed")),
        "report_seconds": ("When the newest report was made, since 1970.", float(int(time.time()))),
        "window_end_seconds": ("End of its window, since 1970.", notice.until.timestamp()),
    }
    if notice.status != "failed":
        found |= {
            "verdict": (
                "Newest verdict: 0 ok, 1 warn, 2 alarm, -1 too few studies.",
                float(STATUS_NUMBERS[notice.status]),
            ),
            "studies": ("Studies of its window.", float(notice.n)),
            "labelled": ("Those of them that have a label.", float(notice.n_labelled)),
            "reasons": ("Reasons of the verdict, at most ten.", float(len(notice.reasons))),
        }
    labels = f'{{task="{_escaped(notice.task)}",digest="{_escaped(notice.digest)}"}}'
    return "".join(
        f"# HELP cxr_mm_monitoring_{name} {text}\n# TYPE cxr_mm_monitoring_{name} gauge\n"
        f"cxr_mm_monitoring_{name}{labels} {value:.0f}\n"
        for name, (text, value) in found.items()
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
