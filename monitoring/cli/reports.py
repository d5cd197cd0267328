"""Verbs of reports: freeze the reference, report a window, add labels, simulate drift."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from cxr_mm.core.config import PARAMS_FILE, for_task, load_params
from cxr_mm.core.errors import ParamsError
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.types import plural
from cxr_mm.models.registry import resolved
from cxr_mm.prediction_log import open_log
from monitoring.cli.options import Bundle, Frozen, GroupBy, Log, moment
from monitoring.reference import load_reference
from monitoring.reference import reference as run_reference
from monitoring.report.report import WindowRequest, report_by_site
from monitoring.report.report import report as run_report
from monitoring.window import read_outcomes

commands = typer.Typer()
Source = Literal["page", "rest", "pacs"]


@commands.command()
def report(
    bundle: Bundle,
    log: Log,
    reference: Frozen = None,
    since: Annotated[
        str | None, typer.Option(help="Start of the window, ISO 8601; UTC without an offset.")
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
    workspace: Annotated[
        Path | None, typer.Option(help="Evidently's workspace, to which the report is added.")
    ] = None,
    source: Annotated[
        Source | None,
        typer.Option(help="Only studies that came by the page, from programs, or by a PACS."),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Only studies of this site.")] = None,
    group_by: GroupBy = None,
    turn: Annotated[
        Path | None,
        typer.Option(help="Folder by which schedule and backfill say when a report may decide."),
    ] = None,
) -> None:
    """Compare a window of the log with the reference, as a whole or site by site.

    Prints one line. Exit code: 0 ok, 10 warn, 20 alarm, 3 too few studies, 2 error.
    """
    request = WindowRequest(
        bundle, log, reference, moment(since), moment(until), out, labels, source, site, turn
    )
    if group_by is None:
        verdict, folder = run_report(request, workspace)
    elif site is None and workspace is None:
        verdict, folder = report_by_site(request)
    else:
        raise ParamsError(
            "sites are reported together, without a workspace of Evidently's",
            field="--group-by",
            remedy="Leave --site and --workspace out; monitoring dashboard shows sites over time",
        )
    print(f"{verdict.line} See {folder / 'summary.html'}")
    raise typer.Exit(verdict.exit_code)


@commands.command()
def reference(
    task: Annotated[str, typer.Argument(help="A shipped task, or the path of a task file.")],
    params: Annotated[Path, typer.Option(help="Parameters.")] = PARAMS_FILE,
) -> None:
    """Stage: freeze the held-out studies and learn the thresholds."""
    from cxr_mm.core.task import load_task

    loaded = load_task(task)
    paths = TaskPaths(loaded.name)
    run_reference(loaded, for_task(load_params(params), loaded), paths)
    frozen = load_reference(paths.reference)
    tested = "no window can be tested"
    if frozen.thresholds.windows:
        tested = f"windows from {frozen.thresholds.smallest} studies are tested"
    print(
        f"{plural(len(frozen.table), 'held-out study')}, {plural(len(frozen.checks), 'check')}; "
        f"{tested}. See {paths.reference}"
    )
    for reason in frozen.unjudged:
        print(f"not judged: {reason}")


@commands.command()
def labels(
    log: Log,
    csv: Annotated[Path, typer.Option(help="study_id and one column per finding: 1, 0 or empty.")],
    bundle: Bundle,
    reference: Frozen = None,
) -> None:
    """Add outcomes to the log, joined by study; concept drift is measured on them."""
    frozen = load_reference(reference or resolved(bundle).parent / "reference")
    with open_log(log, create=False) as opened:
        outcomes = read_outcomes(csv, frozen.task.finding_names, opened.hash_id)
        known = opened.study_hashes() & {o.study_hash for o in outcomes}
        opened.add_outcomes(outcomes)
    studies = len({o.study_hash for o in outcomes})
    added = f"{plural(len(outcomes), 'outcome')} of {plural(studies, 'study')} added"
    print(f"{added}, {len(known):,} of them in the log")


@commands.command()
def scenarios(
    bundle: Bundle,
    out: Annotated[Path | None, typer.Option(help="JSON file with every figure.")] = None,
    studies: Annotated[int, typer.Option(help="Labelled studies at most.")] = 2200,
    references: Annotated[int, typer.Option(help="References frozen for shifts.")] = 10,
    streams: Annotated[int, typer.Option(help="Streams per shift, size and window.")] = 40,
    divisions: Annotated[int, typer.Option(help="References frozen for false alarms.")] = 40,
    undrifted: Annotated[int, typer.Option(help="Undrifted windows per division.")] = 10,
    baselines: Annotated[int, typer.Option(help="Windows per shift for Evidently's preset.")] = 20,
) -> None:
    """Simulate shifts of a task's studies: how often, how soon and why does monitoring alarm?"""
    from cxr_mm.models.bundle import load_bundle
    from monitoring.simulation.run import SimulationConfig, run, text_tables

    folder = resolved(bundle)
    task = load_bundle(folder).task
    config = SimulationConfig(studies, references, streams, divisions, undrifted, baselines)
    results = run(folder, TaskPaths(task.name), config, print)
    print("\n".join(text_tables(results)))
    if out is not None:
        write_json(out, asdict(results))
        print(f"See {out}")
