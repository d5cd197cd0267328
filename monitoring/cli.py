"""Command line of monitoring: thin verbs over reference, report and labels."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cxr_mm.contracts.verdict import ERROR_EXIT_CODE
from cxr_mm.errors import CxrError, LogError
from cxr_mm.params import PARAMS_FILE, for_task, load_params
from cxr_mm.paths import TaskPaths
from cxr_mm.prediction_log import open_log
from monitoring.outcomes import read_outcomes
from monitoring.reference import load_reference
from monitoring.reference import reference as run_reference
from monitoring.report import report as run_report

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Has the data or the concept drifted since the model was made?\n\n"
    "Research use only. Nothing leaves this machine.",
)
Bundle = Annotated[Path, typer.Option(help="Folder of the model's bundle.")]
Log = Annotated[str, typer.Option(help="Prediction log, as sqlite:///predictions.db.")]
Frozen = Annotated[
    Path | None, typer.Option(help="Folder of the stage reference; default: beside the bundle.")
]


@app.command()
def report(
    bundle: Bundle,
    log: Log,
    reference: Frozen = None,
    since: Annotated[
        str | None, typer.Option(help="Start of the window, ISO 8601; UTC unless it says else.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="End of the window (not included); default: now.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default: reports/monitoring/TASK/TIME.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV of outcomes for this report only: study_id, finding columns."),
    ] = None,
) -> None:
    """Compare a window of the log with the reference.

    Prints one line. Exit code: 0 ok, 10 warn, 20 alarm, 3 too few studies to judge, 2 error.
    """
    verdict, folder = run_report(
        bundle, log, reference, _moment(since), _moment(until), out, labels
    )
    print(f"{verdict.line} See {folder / 'summary.html'}")
    raise typer.Exit(verdict.exit_code)


@app.command()
def reference(
    task: Annotated[str, typer.Argument(help="A shipped task, or the path of a task file.")],
    params: Annotated[Path, typer.Option(help="Parameters.")] = PARAMS_FILE,
) -> None:
    """Stage: freeze the held-out studies and learn the thresholds."""
    from cxr_mm.data.tasks import load_task

    loaded = load_task(task)
    paths = TaskPaths(loaded.name)
    run_reference(loaded, for_task(load_params(params), loaded), paths)
    frozen = load_reference(paths.reference)
    print(
        f"{len(frozen.table)} held-out studies, {len(frozen.checks)} checks; windows from "
        f"{frozen.thresholds.smallest} studies are judged. See {paths.reference}"
    )


@app.command()
def labels(
    log: Log,
    csv: Annotated[Path, typer.Option(help="study_id and one column per finding: 1, 0 or empty.")],
    bundle: Bundle,
    reference: Frozen = None,
) -> None:
    """Add outcomes to the log, joined by study; concept drift is measured on them."""
    frozen = load_reference(reference or bundle.parent / "reference")
    with open_log(log, create=False) as opened:
        outcomes = read_outcomes(csv, frozen.task.finding_names, opened.hash_id)
        known = opened.study_hashes() & {o.study_hash for o in outcomes}
        opened.add_outcomes(outcomes)
    studies = len({o.study_hash for o in outcomes})
    print(f"{len(outcomes)} outcomes of {studies} studies added, {len(known)} of them in the log")


def main() -> None:
    """Run a verb; an error that a user can mend is one line on stderr and exit code 2."""
    try:
        app(prog_name="python -m monitoring")
    except CxrError as error:
        print(error, file=sys.stderr)
        sys.exit(ERROR_EXIT_CODE)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise LogError(
            "no time", field=text, remedy="Write it as 2026-03-01 or 2026-03-01T12:00+01:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
