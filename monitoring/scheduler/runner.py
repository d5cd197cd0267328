"""Runner: runs the pending windows of a task one by one, under a lease."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cxr_mm.core.errors import CancelledError, CxrError, LogError, StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.types import plural
from cxr_mm.core.verdict import ERROR_EXIT_CODE, EXIT_CODES, REPORT_STAMP, VERDICT_FILE, Verdict
from monitoring.alerts import Alerts, Notice
from monitoring.config import MonitorParams, ReportSettings
from monitoring.report.workspace import retain_reports, retain_snapshots
from monitoring.scheduler.cron import Cron, Window
from monitoring.scheduler.state import Lease, PendingWindow, State, Windows
from monitoring.sites.aggregate import AGGREGATES, Aggregate

LOOK_SECONDS = 0.1
TAIL = 500
"""Characters of output that an error message quotes."""


def report_sandboxed(
    command: Sequence[str],
    window: Window,
    folder: Path,
    settings: ReportSettings,
    stopped: Callable[[], bool],
) -> Verdict:
    """Run the report of a window and read its verdict.

    Args:
        command: arguments of Python; bounds of the window and folder are added to them.
        window: what is reported.
        folder: where.
        settings: caps.
        stopped: whether the report is to be killed.

    Raises:
        StageError: it failed, with its last words, or took too much memory or time.
        CancelledError: it was stopped.
    """
    words = [
        *("--since", window.since.isoformat()),
        *("--until", window.until.isoformat()),
        *("--out", str(folder)),
    ]
    capped = ["-m", "monitoring.scheduler.capped", str(settings.memory_mib), str(os.getpid()), "--"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *capped, sys.executable, *command, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the runner alone, which lets it finish
        )
        try:
            code = _ended(process, settings.minutes * 60, stopped)
        finally:
            _kill(process)
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    if code not in EXIT_CODES.values():
        raise StageError(_failure(code, text, settings), field=str(window))
    return read_verdict(folder)


def read_verdict(folder: Path) -> Verdict:
    """The verdict that a report left.

    Raises:
        StageError: there is none.
    """
    try:
        return Verdict.of_facts(read_json(folder / VERDICT_FILE))
    except (OSError, ValueError, AttributeError) as error:
        raise StageError("the report left no verdict", field=str(folder)) from error


def read_aggregates(folder: Path) -> dict[str, Aggregate]:
    """What a report left of each site.

    Raises:
        StageError: it is damaged.
    """
    try:
        found = read_json(folder / VERDICT_FILE).get(AGGREGATES, {})
        return {site: Aggregate.model_validate(content) for site, content in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise StageError("the report's aggregates are damaged", field=str(folder)) from error


def _ended(process: "subprocess.Popen[bytes]", seconds: float, stopped: Callable[[], bool]) -> int:
    """Wait for the end; the exit code."""
    end = time.monotonic() + seconds
    while (code := process.poll()) is None:
        if stopped():
            raise CancelledError("the report was stopped")
        if time.monotonic() > end:
            raise StageError(f"the report took more than {seconds / 60:g} minutes")
        time.sleep(LOOK_SECONDS)
    return code


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(code: int, text: str, settings: ReportSettings) -> str:
    last = text.splitlines()[-1][-TAIL:] if text else "no output"
    if "MemoryError" in text or "Unable to allocate" in text or "bad_alloc" in text:
        return f"the report took more than {settings.memory_mib} MiB of memory ({last})"
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"the report failed with {ended}: {last}"


WORKSPACE_NAME = "workspace"
SEVERITY_ORDER = (
    0,
    EXIT_CODES["too_small"],
    EXIT_CODES["warn"],
    ERROR_EXIT_CODE,
    EXIT_CODES["alarm"],
)


@dataclass(frozen=True)
class ServedModel:
    """The model in service: its digest, and the command that reports its windows."""

    digest: str
    command: Sequence[str]
    """As `report_sandboxed` takes it."""


@dataclass(frozen=True)
class RunResult:
    """Result of one pass over the pending windows.

    Args:
        exit_codes: of the reports; 2 for a failed one.
        again: whether a later retry is needed.
        held_by: other holder of the lease, in which case nothing was run.
    """

    exit_codes: tuple[int, ...] = ()
    again: bool = False
    held_by: str | None = None

    @property
    def exit_code(self) -> int:
        """The most severe: 20 alarm, 2 a report that failed, 10 warn, 3 too few studies, 0 ok."""
        return max(self.exit_codes, key=SEVERITY_ORDER.index, default=0)


class Runner:
    """Runs windows of one task.

    Args:
        state: the database.
        task: its name.
        model: returns the model in service; called in each pass, since another may be promoted.
        reports: folder that the reports of this task go into; Evidently's workspace is beside it.
        settings: caps, alerts, retention.
        say: callback for progress lines.
        stopped: whether to kill the current report.
        ending: whether to begin no further report.
    """

    def __init__(
        self,
        state: State,
        task: str,
        model: Callable[[], ServedModel],
        reports: Path,
        settings: MonitorParams,
        say: Callable[[str], None],
        stopped: Callable[[], bool] = lambda: False,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._windows, self._task, self._model = Windows(state, task), task, model
        self._reports, self._settings = reports, settings
        self._say, self._stopped, self._ending = say, stopped, ending
        self._lease = Lease(state, task, settings.schedule.lease_seconds)
        self._alerts = Alerts(state, settings.alerts)

    def catch_up(self, cron: Cron, now: datetime | None = None) -> RunResult:
        """Run every window that has ended and was not run, oldest first.

        The first time that is the newest one alone.

        Raises:
            CxrError: the database or the bundle cannot be read.
        """

        def missed(digest: str) -> list[Window]:
            moment = now or datetime.now(UTC)
            self._windows.remember_schedule(cron)
            last = self._windows.last_end(digest)
            if last is None:
                newest = cron.newest(moment)
                return [newest] if newest else []
            return self._newest(list(cron.windows(last, moment)))

        return self._run(missed, alerting=True)

    def backfill(self, windows: Iterable[Window]) -> RunResult:
        """Run windows of the past that were not run; no one is alerted.

        Raises:
            CxrError: the database or the bundle cannot be read.
        """
        return self._run(lambda _: list(windows), alerting=False)

    def _newest(self, windows: list[Window]) -> list[Window]:
        newest = windows[-self._settings.schedule.catch_up :]
        if left := windows[: len(windows) - len(newest)]:
            self._say(
                f"{plural(len(left), 'missed window')} left out, from "
                f"{left[0].since:%Y-%m-%d %H:%M} to {left[-1].until:%Y-%m-%d %H:%M}"
                " UTC: python -m monitoring backfill makes them"
            )
        return newest

    def _run(self, select: Callable[[str], list[Window]], *, alerting: bool) -> RunResult:
        if other := self._lease.take():
            self._say(f"{self._task}: held by {other}; nothing is run")
            return RunResult(held_by=other)
        try:
            model, holder = self._model(), self._lease.holder
            digest = model.digest
            windows = select(digest)
            self._windows.add(digest, windows)
            self._windows.give_up(holder)
            pending = self._windows.pending(digest, holder)
            if not alerting:
                pending = [each for each in pending if each.window in set(windows)]
            codes = [
                code for each in pending if (code := self._one(each, model, alerting)) is not None
            ]
            if alerting:
                self._deliver(None)
            self._retain()
            again = bool(self._windows.pending(digest, holder))
            return RunResult(tuple(codes), again)
        finally:
            self._lease.release()

    def _one(self, pending: PendingWindow, model: ServedModel, alerting: bool) -> int | None:
        """Run one window; returns its exit code, None if it was stopped or is not ours."""
        holder = self._lease.holder
        last = self._windows.last_end(pending.digest, done=True)
        alerting = alerting and (last is None or pending.window.until >= last)
        folder = Path(pending.folder) if pending.folder else self._folder(pending.window)
        if self._ending() or self._lost() or not self._windows.claim(pending, holder, str(folder)):
            return None
        try:
            verdict = report_sandboxed(
                model.command, pending.window, folder, self._settings.report, self._lost
            )
            aggregates = read_aggregates(folder)
        except CancelledError as stopped:
            self._windows.release(pending, holder)
            self._say(f"{self._task}, {pending.window}: {stopped}")
            return None
        except CxrError as error:
            if self._windows.fail(pending, holder, str(error)):
                self._say(f"{self._task}, {pending.window}: {error}")
                if alerting:
                    self._deliver(Notice.of_failure(self._task, pending.digest, pending.window))
            return ERROR_EXIT_CODE
        if self._windows.finish(pending, holder, verdict, aggregates):
            self._say(f"{pending.window}: {verdict.line} See {folder}")
            if alerting:
                self._deliver(Notice.of_verdict(verdict, pending.window))
        return verdict.exit_code

    def _lost(self) -> bool:
        return self._stopped() or self._lease.lost.is_set()

    def _deliver(self, notice: Notice | None) -> None:
        """Send a notice and the queue; a failed alert never loses the report."""
        try:
            troubles = self._alerts.send(self._task, notice)
        except LogError as error:
            troubles = [str(error)]
        for trouble in troubles:
            self._say(f"alert not delivered, it is sent again later: {trouble}")

    def _folder(self, window: Window) -> Path:
        """Unused folder for the report, named by the end of the window."""
        moment = window.until
        while True:
            folder = self._reports / moment.strftime(REPORT_STAMP)
            if not folder.exists() and not self._windows.folder_taken(str(folder)):
                return folder
            moment += timedelta(seconds=1)

    def _retain(self) -> None:
        settings = self._settings.retention
        try:
            retain_reports(self._reports, settings.keep_days, settings.keep_last)
            workspace = self._reports.with_name(WORKSPACE_NAME)
            retain_snapshots(workspace, self._task, settings.keep_days, settings.keep_last)
        except OSError as error:
            self._say(f"old reports cannot be removed: {error}")


def run_all(
    runners: Sequence[Runner], step: Callable[[Runner], RunResult], say: Callable[[str], None]
) -> RunResult:
    """Let the runner of each model do a step; what another process is at is left to it.

    A model whose step fails stops no other. Two processes share the tasks in this way.
    """
    results = []
    for runner in runners:
        try:
            results.append(step(runner))
        except CxrError as error:
            say(str(error))
            results.append(RunResult((ERROR_EXIT_CODE,), again=True))
    return RunResult(
        exit_codes=tuple(code for result in results for code in result.exit_codes),
        again=any(result.again for result in results),
        held_by=next((result.held_by for result in results if result.held_by), None),
    )
