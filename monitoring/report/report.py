"""Report: a window of the log against the reference → one folder, one verdict.

The folder holds verdict.json (the verdict), summary.html (the verdict and every figure behind
it), report.html and report.json (Evidently's, column by column; not for a window too small to
test). It is written under another name, then renamed.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import atomic_directory, read_json, write_json, write_text
from cxr_mm.core.paths import MONITORING_REPORTS, bundle_digest
from cxr_mm.core.verdict import REPORT_STAMP, STATUS_NUMBERS, VERDICT_FILE, Verdict
from cxr_mm.models.registry import resolved
from cxr_mm.prediction_log import open_log
from monitoring.diagnostics import service
from monitoring.reference import Reference, load_reference
from monitoring.report.page import Page, facts, summary_page
from monitoring.verdict import evaluate_window
from monitoring.window import load_window


def report(
    bundle: Path,
    log: str,
    reference: Path | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    out: Path | None = None,
    labels: Path | None = None,
    workspace: Path | None = None,
    source: str | None = None,
) -> tuple[Verdict, Path]:
    """Evaluate a window and write the report; returns the verdict and the folder.

    Args:
        bundle: folder of the model whose predictions are evaluated.
        log: URL of the prediction log.
        reference: folder of the stage reference; default: `reference` beside the bundle.
        since: first moment of the window (included), with UTC offset; default: the beginning.
        until: end of the window (not included); default: now.
        out: folder to write; default: reports/monitoring/TASK/TIME, of one source
            reports/monitoring/TASK/SOURCE/TIME. An existing one is replaced only where it is a
            report.
        labels: CSV of outcomes that count in this report only, above those in the log.
        workspace: folder of Evidently's workspace, to which the report is added.
        source: where studies came from, `page` or `pacs`; None for both.

    Raises:
        LogError: the log cannot be read.
        StageError: there is no reference, or one of another model.
        BundleError: there is no bundle.
        ManifestError: the labels cannot be read.
    """
    bundle = resolved(bundle)
    frozen = load_reference(reference or bundle.parent / "reference")
    _check_digest(frozen, bundle)
    now = datetime.now(UTC)
    until = until or now
    parent = MONITORING_REPORTS / frozen.task.name / (source or "")
    folder = out or parent / now.strftime(REPORT_STAMP)
    before = verdict_before(folder, frozen.digest, since)
    with open_log(log, create=False, secret=labels is not None) as opened:
        loaded = load_window(opened, frozen, since, until, labels, before, source)
        hours = opened.service_counts(frozen.task.name, since, until, frozen.digest)
    decision = evaluate_window(loaded.window, frozen, loaded.notes)
    page = Page(decision, frozen, loaded.window, service(hours, since, until))
    snapshot = _write(page, folder)
    if workspace is not None:
        from monitoring.report.evidently import add_snapshot  # slow to import

        add_snapshot(workspace, frozen.task.name, snapshot, until, figures(page))
    return decision.verdict, folder


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


def _write(page: Page, folder: Path) -> Any:
    """Write the folder; returns Evidently's snapshot, None where the window is too small."""
    snapshot = None
    if folder.exists() and not (folder / VERDICT_FILE).exists():
        raise StageError(
            "exists and is no report", field=str(folder), remedy="Give another folder with --out"
        )
    with atomic_directory(folder) as aside:
        write_json(aside / VERDICT_FILE, facts(page))
        if page.report.checks:
            from monitoring.report.evidently import write_page  # slow to import

            snapshot = write_page(page.window.table, page.reference, page.report, aside)
        write_text(aside / "summary.html", summary_page(page))
    return snapshot


def _check_digest(frozen: Reference, bundle: Path) -> None:
    digest = bundle_digest(bundle)
    if frozen.digest != digest:
        raise StageError(
            f"the reference was made with the bundle {frozen.digest[:12]}, this is {digest[:12]}",
            field=str(bundle),
            remedy=f"Run python -m monitoring reference {frozen.task.name}",
        )
