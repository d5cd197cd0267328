"""Summary parts: the tables of the summary page; everything that came from data is escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from monitoring.concept import MetricResult
from monitoring.estimate import Estimate
from monitoring.groups import GroupResult
from monitoring.reasons import METRIC_NAMES, level_of
from monitoring.service import Service
from monitoring.streaming import Since


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>" if top else f"<table>{body}</table>"


def scored(score: float, warn: float, alarm: float) -> str:
    """A score in the colour of its level."""
    return f'<span class="{level_of(score, warn, alarm) or "ok"}">{score:.1f}</span>'


def metrics_table(metrics: Sequence[MetricResult], warn: float, alarm: float) -> str:
    """Performance against the reference."""
    rows = (
        (
            escape(m.finding),
            METRIC_NAMES[m.metric],
            f"{m.reference:.3f}",
            f"{m.current:.3f}",
            f"{m.low:.3f} to {m.high:.3f}",
            str(m.n),
            scored(m.score, warn, alarm),
        )
        for m in metrics
    )
    head = ("Finding", "Metric", "Reference", "Window", "95 % without drift", "Labelled", "Score")
    return table(head, rows)


def groups_part(groups: Sequence[GroupResult]) -> str:
    """The most changed metric of each subgroup."""
    if not groups:
        return ""
    rows = (
        (
            escape(f"{group.characteristic}: {group.level}"),
            str(group.n),
            escape(f"{first.finding}, {METRIC_NAMES[first.metric]}"),
            f"{first.reference:.3f}",
            f"{first.current:.3f}",
            f"{first.low:.3f} to {first.high:.3f}",
            scored(first.score, group.limit, float("inf")),
        )
        for group in groups
        for first in group.metrics[:1]
    )
    head = ("Subgroup", "Labelled", "Most changed", "Reference", "Window", "95 % without", "Score")
    return "<h2>Subgroups</h2><p>They inform and raise no alarm.</p>" + table(head, rows)


def estimates_part(estimates: Sequence[Estimate]) -> str:
    """Performance foretold, and how well that held where labels came."""
    rows = (
        (
            escape(one.finding),
            METRIC_NAMES[one.metric],
            f"{one.reference:.3f}",
            f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})",
            "" if one.held is None else f"{one.foretold:.3f} foretold, {one.found:.3f} found",
            {None: "no label to tell by", True: "yes", False: "<b>no</b>"}[one.held],
        )
        for one in estimates
    )
    head = ("Finding", "Metric", "Reference", "Foretold", "Of the labelled studies", "Held")
    return (
        "<h2>Performance as the probabilities foretell it</h2>"
        "<p>It holds only while the model is calibrated; of a changed concept it knows nothing.</p>"
        + table(head, rows)
    )


def since_part(found: Sequence[Since]) -> str:
    """Since when streaming detectors see more errors."""
    if not found:
        return ""
    rows = (
        (
            escape(one.finding),
            one.detector,
            "nothing"
            if one.when is None
            else f"since study {one.study} of {one.n}, {one.when.isoformat(timespec='minutes')}",
        )
        for one in found
    )
    return (
        "<h2>Streaming detectors on errors</h2><p>They say since when; they raise no alarm.</p>"
        + table(("Finding", "Detector", "A change of errors"), rows)
    )


def service_part(service: Service) -> str:
    """Volume, latency, errors and silences."""
    slowest = "not measured" if service.slowest is None else f"{service.slowest:.0f} ms"
    rows = (
        ("Predictions", f"{service.predictions:,}"),
        ("Films refused by the gate", str(service.refused)),
        ("Inputs that could not be read", str(service.bad_input)),
        ("Faults of the program", str(service.failures)),
        ("95th percentile of latency, slowest hour", slowest),
        ("Longest silence", f"{service.longest_gap:.0f} h"),
    )
    return "<h2>Service</h2>" + table((), rows)
