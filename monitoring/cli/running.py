"""Verbs of the schedule: run it, backfill past windows, show its status, serve the dashboards."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mm.core.errors import LogError
from cxr_mm.core.paths import MONITORING_REPORTS
from cxr_mm.core.types import plural
from cxr_mm.prediction_log.database import checked_url
from monitoring.cli.options import Frozen, GroupBy, Log, moment
from monitoring.config import MonitorParams, load_settings
from monitoring.report.dashboard import DASHBOARD_FILE, write_dashboard
from monitoring.report.workspace import serve_workspace
from monitoring.scheduler.cron import Cron
from monitoring.scheduler.runner import (
    WORKSPACE_NAME,
    Runner,
    RunResult,
    ServedModel,
    fill_all,
    run_all,
)
from monitoring.scheduler.schedule import Stop, run_schedule, stopping
from monitoring.scheduler.state import State, open_state
from monitoring.scheduler.status import status as collect_status
from monitoring.scheduler.status import status_text
from monitoring.scheduler.windows import read_aggregates

if TYPE_CHECKING:
    from monitoring.reference import Reference

commands = typer.Typer()
MOST_COUNTED = 1000
"""Windows of a year that are counted; of more the number is extrapolated."""
Bundles = Annotated[
    list[Path],
    typer.Option("--bundle", help="Folder of a bundle, or its current.json; may be repeated."),
]
Line = Annotated[
    str, typer.Option("--cron", help="When a window ends: '0 6 * * *' is each day at six.")
]
Zone = Annotated[str, typer.Option(help="Time zone of --cron, as Europe/Berlin.")]
Settings = Annotated[
    Path | None, typer.Option("--settings", help="Default: monitoring.yaml, if it exists.")
]
Reports = Annotated[Path, typer.Option(help="Folder that gets a folder for each task.")]
WORKSPACE = MONITORING_REPORTS / WORKSPACE_NAME


@commands.command()
def schedule(
    bundle: Bundles,
    log: Log,
    cron: Line,
    timezone: Zone = "UTC",
    reference: Frozen = None,
    settings: Settings = None,
    reports: Reports = MONITORING_REPORTS,
    group_by: GroupBy = None,
    once: Annotated[bool, typer.Option("--once", help="Run what is due, then end.")] = False,
) -> None:
    """Report each window of each model when it ends, until SIGTERM; missed ones first.

    With --once the exit code is the most severe: 20 alarm, 2 a report failed, 10 warn, 3 too few, 0
    ok.
    """
    times, params = Cron(cron, timezone), load_settings(settings)
    stop = Stop(params.schedule.grace_seconds)
    with closing(open_state(log)) as state:
        runners = [
            _runner(state, one, log, reference, params, reports, stop, group_by) for one in bundle
        ]

        def catch_up(times: Cron) -> RunResult:
            result = run_all(runners, lambda runner: runner.catch_up(times), _say)
            if result.held_by:
                _say(f"the rest is left to {result.held_by}")
            return result

        if once:
            with stopping(stop.request):
                code = catch_up(times).exit_code
            raise typer.Exit(code)
        for one in bundle:
            frozen = _reference(one, reference)
            rate, now = frozen.params.false_alarm_rate, datetime.now(UTC)
            _say(f"{frozen.task.name}: {expected_false_alarms(times, rate, now)}")
        run_schedule(catch_up, times, params.schedule, stop, _say)


@commands.command()
def backfill(
    bundle: Bundles,
    log: Log,
    cron: Line,
    since: Annotated[str, typer.Option("--from", help="Start, ISO 8601; UTC without an offset.")],
    until: Annotated[str | None, typer.Option("--to", help="End; default: now.")] = None,
    timezone: Zone = "UTC",
    reference: Frozen = None,
    settings: Settings = None,
    reports: Reports = MONITORING_REPORTS,
    group_by: GroupBy = None,
) -> None:
    """Report windows of the past that were not reported yet; no one is alerted.

    Run it in several processes to share the windows; none is reported twice. Each ends when all are
    done. The exit code is as that of `schedule --once`, over the windows that it reported itself.
    """
    times, params, now = Cron(cron, timezone), load_settings(settings), datetime.now(UTC)
    start, end = moment(since) or now, moment(until) or now
    windows = list(times.whole_windows(start, min(end, now)))
    if not windows:
        raise LogError("no window between them", field=f"--from {since}")
    stop = Stop(params.schedule.grace_seconds)
    with closing(open_state(log)) as state, stopping(stop.request):
        runners = [
            _runner(state, one, log, reference, params, reports, stop, group_by) for one in bundle
        ]
        result = fill_all(runners, windows, now, stop.requested, _say)
    raise typer.Exit(result.exit_code)


@commands.command()
def dashboard(
    log: Log,
    task: Annotated[str, typer.Option(help="Whose windows.")],
    since: Annotated[
        str | None, typer.Option(help="Start, ISO 8601; default: a year before the end.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End; default: now.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File; default: reports/monitoring/TASK/dashboard.html.")
    ] = None,
) -> None:
    """Draw a year of windows by model and site, and how the sites differ, on one page.

    It is drawn from what was stored of each window that `schedule` or `backfill` reported; no
    record is read.
    """
    end = moment(until) or datetime.now(UTC)
    start = moment(since) or end - timedelta(days=365)
    file = out or MONITORING_REPORTS / task / DASHBOARD_FILE
    with closing(open_state(log)) as state:
        windows = write_dashboard(read_aggregates(state, task, start, end), task, file)
    print(f"{plural(windows, 'window')} drawn. See {file}")


@commands.command()
def status(
    log: Log,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say for each task the newest verdict, when the next window ends, and what is overdue."""
    with closing(open_state(log)) as state:
        facts = collect_status(state, log)
    print(json.dumps(facts, indent=2) if as_json else status_text(facts).rstrip())


@commands.command()
def ui(
    workspace: Annotated[Path, typer.Option(help="Evidently's workspace.")] = WORKSPACE,
    host: Annotated[str, typer.Option(help="An address of the loopback.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve Evidently's dashboards over time, to this machine alone, until Ctrl-C."""
    serve_workspace(workspace, host, port)


def expected_false_alarms(times: Cron, rate: float, now: datetime) -> str:
    """Say how many false alarms a year the windows of a schedule are expected to give.

    Args:
        times: when windows end.
        rate: share of undrifted windows that alarm by design.
        now: start of the year.
    """
    year = timedelta(days=365)
    counted = list(islice(times.windows(now, now + year), MOST_COUNTED))
    windows = float(len(counted))
    if len(counted) == MOST_COUNTED:  # as many in the rest of the year
        windows *= year / (counted[-1].until - now)
    return (
        f"About {windows:.0f} windows a year: {rate * windows:.0f} false alarms are expected on "
        f"average over references ({100 * rate:g} % of undrifted windows); one may have more"
    )


def _reference(bundle: Path, reference: Path | None) -> "Reference":
    from cxr_mm.models.registry import resolved  # slow to import
    from monitoring.reference import load_reference

    return load_reference(reference or resolved(bundle).parent / "reference")


def _runner(
    state: State,
    bundle: Path,
    log: str,
    reference: Path | None,
    params: MonitorParams,
    reports: Path,
    stop: Stop,
    group_by: str | None = None,
) -> Runner:
    from cxr_mm.core.paths import bundle_digest
    from cxr_mm.models.registry import resolved  # slow to import

    def model() -> ServedModel:
        folder = resolved(bundle)
        words = ["-m", "monitoring", "report", "--bundle", str(folder)]
        words += ["--log", checked_url(log).render_as_string(hide_password=False)]
        if group_by is None:
            words += ["--workspace", str(reports / WORKSPACE_NAME)]
        else:
            words += ["--group-by", group_by]
        words += ["--reference", str(reference)] if reference else []
        return ServedModel(bundle_digest(folder), words)

    task = _reference(bundle, reference).task.name
    return Runner(state, task, model, reports / task, params, _say, stop.now, stop.requested)


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}", flush=True)
