"""Reports of one bundle by monitoring and by the stage `evaluate`, for the page to show."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import MONITORING_REPORTS, TaskPaths
from cxr_mm.core.task import Task
from cxr_mm.core.verdict import REPORT_STAMP, VERDICT_FILE, Verdict
from cxr_mm.evaluation.report.figures import CARD_FILE, PLOTS_FOLDER, read_metrics
from cxr_mm.models.registry import version_folder

SUMMARY_FILE, EVIDENTLY_FILE = "summary.html", "report.html"
PAGES = {
    "summary": SUMMARY_FILE,
    "evidently": EVIDENTLY_FILE,
    # As the summary links to it.
    EVIDENTLY_FILE: EVIDENTLY_FILE,
}
POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'self'"
)
"""Of a report: it runs its own scripts apart from this site, and reaches nothing."""


class Serving(Protocol):
    """A bundle, or whatever serves one and may serve another later."""

    @property
    def task(self) -> Task: ...

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Report:
    """A report of monitoring.

    Args:
        folder: holds verdict.json, summary.html and, where the window could be judged, report.html.
        made: when, UTC.
        verdict: its outcome.
    """

    folder: Path
    made: datetime
    verdict: Verdict


@dataclass(frozen=True)
class Evaluation:
    """What the stage evaluate has left.

    Args:
        metrics: what metrics.json holds.
        card: the model card, Markdown.
        plots: PNG files, in order of their names.
    """

    metrics: dict[str, Any]
    card: str
    plots: tuple[Path, ...]


@dataclass(frozen=True)
class Health:
    """Both, of one bundle; where there is nothing, the error that says so and what to run."""

    report: Report | StageError
    evaluation: Evaluation | StageError


def health(task: str, digest: str, root: Path = Path()) -> Health:
    """What is known of a bundle now.

    Args:
        task: name of its task.
        digest: of the bundle; what is of another one is not shown.
        root: folder of the project.
    """
    return Health(latest_report(task, digest, root), evaluation(task, digest, root))


def latest_report(task: str, digest: str, root: Path = Path()) -> Report | StageError:
    """The newest report of monitoring on this very bundle."""
    reports = _reports(root / MONITORING_REPORTS / task)
    for report in reports:
        if report.verdict.digest == digest:
            return report
    others = sorted({report.verdict.digest[:12] for report in reports})
    return StageError(
        f"the reports are of another model: {', '.join(others)}"
        if others
        else "monitoring has made no report",
        field=task,
        remedy="Run python -m monitoring report with this bundle and its prediction log",
    )


def _reports(folder: Path) -> list[Report]:
    """Those that can be read, newest first."""
    found = []
    for path in folder.glob(f"*/{VERDICT_FILE}"):
        try:
            # A folder that bears no time was written with --out, for another purpose.
            created = datetime.strptime(path.parent.name, REPORT_STAMP).replace(tzinfo=UTC)
            verdict = Verdict.of_facts(read_json(path))
        except (OSError, ValueError, AttributeError):
            continue
        found.append(Report(path.parent, created, verdict))
    return sorted(found, key=lambda report: report.made, reverse=True)


def evaluation(task: str, digest: str, root: Path = Path()) -> Evaluation | StageError:
    """What evaluate has left of this very bundle; figures of another are refused."""
    promoted = version_folder(task, digest, root) / "reports"
    folder = promoted if promoted.is_dir() else TaskPaths(task, root).reports
    try:
        metrics = read_metrics(folder, task, digest)
    except StageError as error:
        return error
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    return Evaluation(metrics, card, tuple(sorted((folder / PLOTS_FOLDER).glob("*.png"))))


def address(name: str, page: str) -> str:
    """Where `report_routes` serves a page (`summary` or `evidently`) of a bundle."""
    return f"/reports/{name}/{page}"


def report_routes(bundles: Mapping[str, Serving], root: Path = Path()) -> list[Route]:
    """Routes of the newest reports, one for each bundle and page; no part of a path is a variable.

    Args:
        bundles: by the name in the address, as a rule the task's.
        root: folder of the project.
    """
    return [
        Route(address(name, page), partial(_served, bundle, file, root))
        for name, bundle in bundles.items()
        for page, file in PAGES.items()
    ]


def _served(bundle: Serving, file: str, root: Path, request: Request) -> Response:
    del request  # which file it is was settled before anyone asked
    report = latest_report(bundle.task.name, bundle.digest, root)
    if isinstance(report, StageError) or not (report.folder / file).is_file():
        return PlainTextResponse("There is no such report of this model.", status_code=404)
    return FileResponse(report.folder / file, headers={"Content-Security-Policy": POLICY})
