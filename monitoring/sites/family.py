"""Family: judge the sites of a window together, so that all of them share one false-alarm rate.

A window in which no site drifted alarms at the rate of the reference, at whatever site. Each of K
sites is judged at the K-th part; where some alarm, the others share the rate among themselves
alone (Holm, Scand J Stat 1979; 6:65), which holds whatever the sites have in common. Within a site
the rate is divided as that of any window.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cxr_mm.core.types import plural
from cxr_mm.core.verdict import Reason, Status, Verdict
from monitoring.reference import Reference
from monitoring.verdict import DriftReport, Scores, decide, in_order, score
from monitoring.window import LoadedWindow

NAMELESS = "no site"
"""Title of the records that name no site."""
ORDER: tuple[Status, ...] = ("alarm", "warn", "ok", "too_small")


@dataclass(frozen=True)
class Family:
    """Reports of all sites of a window, and the verdict on all of them.

    Args:
        verdict: the most severe of any site, with every site's reasons.
        reports: site → its report.
        rate: share of the false-alarm rate that the last sites were judged at.
    """

    verdict: Verdict
    reports: dict[str, DriftReport]
    rate: float


def title_of_site(site: str) -> str:
    """A site as a person reads it."""
    return site or NAMELESS


def evaluate_sites(windows: Mapping[str, LoadedWindow], reference: Reference) -> Family:
    """Evaluate the windows of several sites, at least one, with one false-alarm rate over all."""
    scores = {site: score(loaded.window, reference) for site, loaded in windows.items()}
    return decide_sites(scores, windows, reference)


def decide_sites(
    scores: Mapping[str, Scores], windows: Mapping[str, LoadedWindow], reference: Reference
) -> Family:
    """Decide, after the verdicts before, which scores of the sites are reasons."""
    reports: dict[str, DriftReport] = {}
    alarmed: set[str] = set()
    while True:
        rate = reference.params.false_alarm_rate / max(1, len(windows) - len(alarmed))
        for site in windows.keys() - alarmed:
            loaded = windows[site]
            reports[site] = decide(scores[site], loaded.window, reference, rate, loaded.notes)
        further = {s for s, r in reports.items() if r.verdict.status == "alarm"} - alarmed
        if not further:
            ordered = {site: reports[site] for site in windows}
            return Family(_overall(ordered), ordered, rate)
        alarmed |= further


def _overall(reports: Mapping[str, DriftReport]) -> Verdict:
    verdicts = {site: report.verdict for site, report in reports.items()}
    some = next(iter(verdicts.values()))
    by_status = {
        status: [title_of_site(s) for s, v in verdicts.items() if v.status == status]
        for status in ORDER
    }
    reasons = tuple(
        in_order(_of_site(site, reason) for site, v in verdicts.items() for reason in v.reasons)
    )
    headline = f"{plural(len(verdicts), 'site')}: " + "; ".join(
        f"{status.replace('_', ' ')} {len(sites)}"
        + (f" ({', '.join(sites)})" if status != "ok" else "")
        for status, sites in by_status.items()
        if sites
    )
    if reasons:
        headline += f". First: {reasons[0].text}"
    return Verdict(
        status=next(status for status in ORDER if by_status[status]),
        task=some.task,
        digest=some.digest,
        n=sum(v.n for v in verdicts.values()),
        n_labelled=sum(v.n_labelled for v in verdicts.values()),
        first=min((v.first for v in verdicts.values() if v.first), default=None),
        last=max((v.last for v in verdicts.values() if v.last), default=None),
        headline=headline,
        reasons=reasons,
        sites=verdicts,
    )


def _of_site(site: str, reason: Reason) -> Reason:
    title = title_of_site(site)
    named = {name: f"{title}: {getattr(reason, name)}" for name in ("title", "text")}
    return reason.model_copy(update={**named, "name": f"{site}/{reason.name}"})
