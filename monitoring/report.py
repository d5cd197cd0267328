"""Report: a window of the log against the reference → one folder, one verdict.

The folder holds verdict.json (the verdict), summary.html (the verdict and every figure behind
it), report.html and report.json (Evidently's, column by column; not for a window too small to
judge). It is written aside and renamed.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from cxr_mm.contracts.record import Outcome, PredictionRecord
from cxr_mm.contracts.verdict import Verdict
from cxr_mm.errors import LogError, StageError
from cxr_mm.files import folder_written_aside, write_json, write_text
from cxr_mm.prediction_log import PredictionLog, open_log
from monitoring.judge import Judgement, judge
from monitoring.outcomes import read_outcomes
from monitoring.reference import Reference, bundle_digest, load_reference
from monitoring.summary import summary_page
from monitoring.table import newest_per_study, records_table

VERDICT_FILE = "verdict.json"


def report(
    bundle: Path,
    log: str,
    reference: Path | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    out: Path | None = None,
    labels: Path | None = None,
) -> tuple[Verdict, Path]:
    """Judge a window and write the report; returns the verdict and the folder.

    Args:
        bundle: folder of the model whose predictions are judged.
        log: URL of the prediction log.
        reference: folder of the stage reference; default: `reference` beside the bundle.
        since: first moment of the window (included), with UTC offset; default: the beginning.
        until: end of the window (not included); default: now.
        out: folder to write; default: reports/monitoring/TASK/TIME. An existing one is replaced
            only where it is a report.
        labels: CSV of outcomes that count in this report only, above those in the log.

    Raises:
        LogError: the log cannot be read, or the window holds nothing of this model.
        StageError: there is no reference, or one of another model.
        BundleError: there is no bundle.
        ManifestError: the labels cannot be read.
    """
    frozen = load_reference(reference or bundle.parent / "reference")
    _check_digest(frozen, bundle)
    now = datetime.now(UTC)
    until = until or now
    with open_log(log, create=False, secret=labels is not None) as opened:
        records = opened.read_window(frozen.task.name, since, until)
        outcomes = _outcomes(opened, labels, frozen)
    own, notes = _own(records, frozen)
    table = newest_per_study(
        records_table(own, frozen.task, frozen.quality, frozen.projections, outcomes)
    )
    if len(table) < len(own):
        notes.append(
            f"{len(own) - len(table)} predictions repeat a study; the newest of each counts"
        )
    if frozen.task.synthetic:
        notes.append("The reference is synthetic: made-up studies, no patients")
    judgement = judge(table, frozen, tuple(notes))
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    folder = out or Path("reports") / "monitoring" / frozen.task.name / stamp
    _write(judgement, frozen, table, folder)
    return judgement.verdict, folder


def _write(judgement: Judgement, frozen: Reference, table: pd.DataFrame, folder: Path) -> None:
    if folder.exists() and not (folder / VERDICT_FILE).exists():
        raise StageError(
            "exists and is no report", field=str(folder), remedy="Give another folder with --out"
        )
    with folder_written_aside(folder) as aside:
        write_json(aside / VERDICT_FILE, _facts(judgement))
        if judgement.checks:
            from monitoring.evidently_page import write_page  # slow to import

            write_page(table, frozen, judgement, aside)
        page = summary_page(judgement, frozen, table, has_report=bool(judgement.checks))
        write_text(aside / "summary.html", page)


def _facts(judgement: Judgement) -> dict[str, object]:
    """Verdict and scores as plain values."""
    concept = judgement.concept
    return {
        **judgement.verdict.model_dump(mode="json"),
        "exit_code": judgement.verdict.exit_code,
        "false_alarm_rate": judgement.rate,
        "scores": {result.check.name: result.score for result in judgement.checks},
        "performance": [vars(metric) for metric in concept.metrics] if concept else [],
    }


def _check_digest(frozen: Reference, bundle: Path) -> None:
    digest = bundle_digest(bundle)
    if frozen.digest != digest:
        raise StageError(
            f"the reference was made with the bundle {frozen.digest[:12]}, this is {digest[:12]}",
            field=str(bundle),
            remedy=f"Run python -m monitoring reference {frozen.task.name}",
        )


def _outcomes(log: PredictionLog, labels: Path | None, frozen: Reference) -> list[Outcome]:
    found = log.read_outcomes()
    if labels is not None:
        found += read_outcomes(labels, frozen.task.finding_names, log.hash_id)
    return found


def _own(
    records: Sequence[PredictionRecord], frozen: Reference
) -> tuple[list[PredictionRecord], list[str]]:
    """Records of the reference's model, and what to say of the others.

    Raises:
        LogError: there is none.
    """
    own = [r for r in records if r.digest == frozen.digest]
    others = Counter(r.digest[:12] for r in records if r.digest != frozen.digest)
    named = ", ".join(f"{digest} ({n})" for digest, n in others.most_common())
    if not own:
        among = f"; there are predictions of other models: {named}" if others else ""
        raise LogError(
            f"no prediction of the model {frozen.digest[:12]} in this window{among}",
            field=frozen.task.name,
            remedy="Choose another window, or the bundle that made the predictions",
        )
    if not others:
        return own, []
    return own, [f"{others.total()} predictions of other models are left out: {named}"]
