"""Report: a window of the log against the reference → one folder, one verdict.

The folder holds verdict.json (the verdict), summary.html (the verdict and every figure behind
it), report.html and report.json (Evidently's, column by column; not for a window too small to
test). It is written under another name, then renamed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import atomic_directory, read_json, write_json, write_text
from cxr_mm.core.paths import MONITORING_REPORTS, bundle_digest
from cxr_mm.core.verdict import REPORT_STAMP, STATUS_NUMBERS, VERDICT_FILE, Verdict
from cxr_mm.models.registry import resolved
from cxr_mm.prediction_log import PredictionLog, open_log
from monitoring.diagnostics import Service, service
from monitoring.reference import Reference, load_reference
from monitoring.report.page import Page, facts, sites_facts, sites_page, summary_page
from monitoring.report.turn import Turn
from monitoring.sites.aggregate import AGGREGATES, Aggregate
from monitoring.sites.comparison import compare, sums_of
from monitoring.sites.family import decide_sites
from monitoring.verdict import decide, score
from monitoring.window import LoadedWindow, load_window, longer_start


@dataclass(frozen=True)
class WindowRequest:
    """Which window is reported, against what, and where to.

    Args:
        bundle: folder of the model whose predictions are evaluated.
        log: URL of the prediction log.
        reference: folder of the stage reference; default: `reference` beside the bundle.
        since: first moment of the window (included), with UTC offset; default: the beginning.
        until: end of the window (not included); default: now.
        out: folder to write; default: reports/monitoring/TASK/TIME, of one source or site
            reports/monitoring/TASK/SOURCE/TIME. An existing one is replaced only where it is a
            report.
        labels: CSV of outcomes that count in this report only, above those in the log.
        source: where studies came from, `page`, `rest` or `pacs`; None for all.
        site: whose studies are meant; None for all.
        turn: folder of the turn that the report waits for before it decides; None decides at once,
            after the newest report of an earlier window beside `out`.
    """

    bundle: Path
    log: str
    reference: Path | None = None
    since: datetime | None = None
    until: datetime | None = None
    out: Path | None = None
    labels: Path | None = None
    source: str | None = None
    site: str | None = None
    turn: Path | None = None


class _Window:
    """A request with its reference, end and folder.

    Raises:
        StageError: there is no reference, or one of another model.
        BundleError: there is no bundle.
    """

    def __init__(self, request: WindowRequest) -> None:
        self.request, bundle = request, resolved(request.bundle)
        self.reference = load_reference(request.reference or bundle.parent / "reference")
        _check_digest(self.reference, bundle)
        now = datetime.now(UTC)
        self.until = request.until or now
        task, part = self.reference.task.name, (request.source or "", _as_folder(request.site))
        default = MONITORING_REPORTS.joinpath(task, *part, now.strftime(REPORT_STAMP))
        self.folder = request.out or default

    def open_log(self) -> PredictionLog:
        """The log, with its secret where labels are to be joined."""
        return open_log(self.request.log, create=False, secret=self.request.labels is not None)

    def load(self, log: PredictionLog, site: str | None) -> LoadedWindow:
        """The studies of a site, or of all."""
        request = self.request
        return load_window(
            log,
            self.reference,
            request.since,
            self.until,
            request.labels,
            request.source,
            site,
        )

    def before(self) -> Verdict | None:
        """The verdict of the window before, when this one may decide."""
        if self.request.turn is not None:
            return Turn(self.request.turn).wait()
        return verdict_before(self.folder, self.reference.digest, self.request.since)

    def announce(self, verdict: Verdict) -> None:
        """Let the next window decide, while the pages of this one are drawn."""
        if self.request.turn is not None:
            Turn(self.request.turn).announce(verdict)

    def service(self, log: PredictionLog, site: str | None) -> Service:
        """What the service did, at a site or at all."""
        task, since, digest = self.reference.task.name, self.request.since, self.reference.digest
        hours = log.service_counts(task, since, self.until, digest, site)
        return service(hours, since, self.until)


def report(request: WindowRequest, workspace: Path | None = None) -> tuple[Verdict, Path]:
    """Evaluate a window and write the report; returns the verdict and the folder.

    Args:
        request: which window.
        workspace: folder of Evidently's workspace, to which the report is added.

    Raises:
        LogError: the log cannot be read.
        StageError: there is no reference, or one of another model.
        BundleError: there is no bundle.
        ManifestError: the labels cannot be read.
    """
    window, site = _Window(request), request.site
    with window.open_log() as log:
        loaded = window.load(log, site)
        done = window.service(log, site)
    frozen = window.reference
    scores = score(loaded.window, frozen)
    loaded = loaded.after(window.before())
    rate = frozen.params.false_alarm_rate
    decision = decide(scores, loaded.window, frozen, rate, loaded.notes)
    window.announce(decision.verdict)
    page = Page(decision, frozen, loaded.window, done)
    snapshot = _write(page, window.folder, site or "")
    if workspace is not None:
        from monitoring.report.evidently import add_snapshot  # slow to import

        add_snapshot(workspace, frozen.task.name, snapshot, window.until, figures(page))
    return decision.verdict, window.folder


def report_by_site(request: WindowRequest) -> tuple[Verdict, Path]:
    """Evaluate a window site by site under one false-alarm rate, and compare the sites.

    A site that the model served in the windows before is judged too where it has no request now.

    Raises:
        CxrError: as `report`.
    """
    window = _Window(request)
    frozen = window.reference
    with window.open_log() as log:
        start = longer_start(request.since, window.until)
        sites = log.sites(frozen.task.name, start, window.until, frozen.digest) or [""]
        loaded = {site: window.load(log, site) for site in sites}
        done = {site: window.service(log, site) for site in sites}
    scores = {site: score(one.window, frozen) for site, one in loaded.items()}
    before = window.before()
    verdicts = before.sites if before else {}
    loaded = {site: one.after(verdicts.get(site)) for site, one in loaded.items()}
    family = decide_sites(scores, loaded, frozen)
    window.announce(family.verdict)
    pages = {
        site: Page(one, frozen, loaded[site].window, done[site])
        for site, one in family.reports.items()
    }
    aggregates = {site: aggregate(page) for site, page in pages.items()}
    differences = compare({site: one.sums for site, one in aggregates.items()})
    with _replaced(window.folder) as aside:
        found = sites_facts(pages, family, differences)
        write_json(aside / VERDICT_FILE, found | {AGGREGATES: _plain(aggregates)})
        text = sites_page(pages, family, differences, frozen.task)
        write_text(aside / "summary.html", text)
    return family.verdict, window.folder


def aggregate(page: Page) -> Aggregate:
    """What a year's dashboard keeps of a window."""
    done, window = page.service, page.window
    return Aggregate(
        status=page.report.verdict.status,
        studies=window.studies,
        labelled=window.n_labelled,
        predictions=done.predictions,
        refused=done.refused,
        bad_input=done.bad_input,
        failures=done.failures,
        slowest=done.slowest,
        auc=figures(page).get("auc"),
        sums=sums_of(window.table, page.reference) if len(window.table) else {},
    )


def figures(page: Page) -> dict[str, float]:
    """Figures that the dashboard draws over time."""
    decision = page.report
    values: dict[str, float] = {
        "verdict": STATUS_NUMBERS[decision.verdict.status],
        "volume": page.window.studies,
    }
    if decision.limits:
        scores = np.array([result.score for result in decision.checks])
        values["share_drifted"] = float(np.mean(scores > decision.limits.alarm))
    own = [metric for r in decision.concept if not r.longer for metric in r.metrics]
    aucs = [metric.current for metric in own if metric.metric == "auc"]
    if aucs:
        values["auc"] = float(np.mean(aucs))
    return values


def verdict_before(folder: Path, digest: str, since: datetime | None) -> Verdict | None:
    """The newest verdict on the same model in a report beside this one, of before `since`.

    Folders bear times for names, so that the first that fits is the newest.
    """
    if since is None:
        return None
    for path in sorted(folder.parent.glob(f"*/{VERDICT_FILE}"), reverse=True):
        try:
            verdict = Verdict.of_facts(read_json(path))
        except (OSError, ValueError, AttributeError):
            continue  # a report that is being written, or damaged: not what this one is about
        ended = datetime.fromisoformat(verdict.last) if verdict.last else None
        if verdict.digest == digest and ended and ended < since:
            return verdict
    return None


def _write(page: Page, folder: Path, site: str) -> Any:
    """Write the folder; returns Evidently's snapshot, None where the window is too small."""
    snapshot = None
    with _replaced(folder) as aside:
        found = {AGGREGATES: _plain({site: aggregate(page)})}
        write_json(aside / VERDICT_FILE, facts(page) | found)
        if page.report.checks:
            from monitoring.report.evidently import write_page  # slow to import

            snapshot = write_page(page.window.table, page.reference, page.report, aside)
        write_text(aside / "summary.html", summary_page(page))
    return snapshot


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A folder that takes the place of a report when it is whole."""
    if folder.exists() and not (folder / VERDICT_FILE).exists():
        raise StageError(
            "exists and is no report", field=str(folder), remedy="Give another folder with --out"
        )
    with atomic_directory(folder) as aside:
        yield aside


def _plain(aggregates: Mapping[str, Aggregate]) -> dict[str, Any]:
    return {site: one.model_dump(mode="json") for site, one in aggregates.items()}


def _as_folder(site: str | None) -> str:
    """A folder of its own for each site, whatever its name is."""
    return "" if site is None else f"site-{sha256(site.encode()).hexdigest()[:12]}"


def _check_digest(frozen: Reference, bundle: Path) -> None:
    digest = bundle_digest(bundle)
    if frozen.digest != digest:
        raise StageError(
            f"the reference was made with the bundle {frozen.digest[:12]}, this is {digest[:12]}",
            field=str(bundle),
            remedy=f"Run python -m monitoring reference {frozen.task.name}",
        )
