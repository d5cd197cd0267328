"""Runner: runs the pending windows of a task; several runners share them by leases."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cxr_mm.core.errors import CxrError, LogError
from cxr_mm.core.types import plural
from cxr_mm.core.verdict import ERROR_EXIT_CODE, EXIT_CODES, REPORT_STAMP
from cxr_mm.prediction_log.database import is_refused
from monitoring.alerts import Alerts
from monitoring.config import MonitorParams
from monitoring.report.workspace import retain_reports, retain_snapshots
from monitoring.scheduler.attempt import Attempt, Claim
from monitoring.scheduler.cron import Cron, Window
from monitoring.scheduler.state import State
from monitoring.scheduler.windows import PendingWindow, Windows

WORKSPACE_NAME = "workspace"
WAIT_SECONDS = 1.0
"""How often a backfill looks whether others are still at its windows."""
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
        held_by: another runner that is at some of them.
    """

    exit_codes: tuple[int, ...] = ()
    again: bool = False
    held_by: str | None = None

    @property
    def exit_code(self) -> int:
        """The most severe: 20 alarm, 2 a report that failed, 10 warn, 3 too few studies, 0 ok."""
        return max(self.exit_codes, key=SEVERITY_ORDER.index, default=0)


@dataclass(frozen=True)
class _Pass:
    """One pass.

    Args:
        model: in service.
        began: what failed later is left to the next pass.
        chosen: windows that are run; None for all that are pending.
    """

    model: ServedModel
    began: datetime
    chosen: frozenset[Window] | None

    def has(self, window: Window) -> bool:
        """Whether the window is run."""
        return self.chosen is None or window in self.chosen


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
        self._windows = Windows(state, task, settings.schedule.lease_seconds)
        self._task, self._model = task, model
        self._reports, self._settings = reports, settings
        self._say, self._stopped, self._ending = say, stopped, ending
        self._alerts = Alerts(state, settings.alerts)

    def catch_up(self, cron: Cron, now: datetime | None = None) -> RunResult:
        """Run every window that has ended and was not run, oldest first.

        The first time that is the newest one alone.

        Raises:
            CxrError: the database or the bundle cannot be read.
        """
        model, began = self._model(), datetime.now(UTC)
        missed = self._missed(cron, model.digest, now or began)
        self._windows.add(model.digest, missed, alerting=True)
        self._windows.remember_schedule(cron)
        return self._run(_Pass(model, began, None))

    def backfill(self, windows: Iterable[Window], began: datetime | None = None) -> RunResult:
        """Run windows of the past that were not run; no one is alerted.

        Args:
            windows: which.
            began: what failed later is not tried again; default: now.

        Raises:
            CxrError: the database or the bundle cannot be read.
        """
        model, chosen = self._model(), list(windows)
        self._windows.add(model.digest, chosen, alerting=False)
        return self._run(_Pass(model, began or datetime.now(UTC), frozenset(chosen)))

    def _missed(self, cron: Cron, digest: str, now: datetime) -> list[Window]:
        last = self._windows.last_end(digest)
        if last is None:
            first = cron.newest(now)
            return [first] if first else []
        windows = list(cron.windows(last, now))
        newest = windows[-self._settings.schedule.catch_up :]
        if left := windows[: len(windows) - len(newest)]:
            self._say(
                f"{plural(len(left), 'missed window')} left out, from "
                f"{left[0].since:%Y-%m-%d %H:%M} to {left[-1].until:%Y-%m-%d %H:%M}"
                " UTC: python -m monitoring backfill makes them"
            )
        return newest

    def _run(self, this: _Pass) -> RunResult:
        """Run what is pending and free, until nothing is."""
        codes, digest = [], this.model.digest
        while not self._ending() and (claim := self._claimed(this)):
            code = self._one(claim, this)
            if code is not None:
                codes.append(code)
            if claim.pending.alerting:
                self._deliver()
        held = [by for window, by in self._windows.held(digest).items() if this.has(window)]
        if codes:
            self._retain()
        self._deliver()
        again = bool(held or self._windows.pending(digest, datetime.now(UTC)))
        return RunResult(tuple(codes), again, held[0] if held else None)

    def _claimed(self, this: _Pass) -> Claim | None:
        """Claim the oldest window that is pending and free."""
        self._windows.give_up()
        for pending in self._windows.pending(this.model.digest, this.began):
            if this.has(pending.window) and (claim := self._claim(pending, this.began)):
                return claim
        return None

    def _claim(self, pending: PendingWindow, began: datetime) -> Claim | None:
        """Claim a window with an unused folder, named by its end, or that of an earlier attempt."""
        moment, former = pending.window.until, pending.folder
        while True:
            folder = Path(former) if former else self._reports / moment.strftime(REPORT_STAMP)
            moment += timedelta(seconds=1)
            if not former and folder.exists():
                continue
            try:
                lease = self._windows.claim(pending, began, str(folder))
            except LogError as error:
                if not is_refused(error):
                    raise
            else:
                return Claim(pending, lease, folder) if lease else None

    def _one(self, claim: Claim, this: _Pass) -> int | None:
        """Report a window; returns its exit code, None if it was stopped or given back."""
        try:
            attempt = Attempt(
                self._windows,
                self._alerts,
                claim,
                self._task,
                this.has,
                self._stopped,
                self._say,
            )
            return attempt.run(this.model.command, self._settings.report)
        finally:
            claim.lease.release()

    def _deliver(self) -> None:
        """Send what is queued, unless another runner does; a failure never loses the report."""
        try:
            while self._alerts.waits(self._task):
                lease = self._windows.tidier()
                if not lease.take():
                    return  # the other looks again when it has released the lease
                try:
                    troubles = self._alerts.deliver(self._task)
                finally:
                    lease.release()
                for trouble in troubles:
                    self._say(f"alert not delivered, it is sent again later: {trouble}")
                if troubles:
                    return
        except LogError as error:
            self._say(f"alerts are sent later: {error}")

    def _retain(self) -> None:
        """Remove old reports, unless another runner does."""
        settings, lease = self._settings.retention, self._windows.tidier()
        if not lease.take():
            return
        try:
            retain_reports(self._reports, settings.keep_days, settings.keep_last)
            workspace = self._reports.with_name(WORKSPACE_NAME)
            retain_snapshots(workspace, self._task, settings.keep_days, settings.keep_last)
        except OSError as error:
            self._say(f"old reports cannot be removed: {error}")
        finally:
            lease.release()


def run_all(
    runners: Sequence[Runner], step: Callable[[Runner], RunResult], say: Callable[[str], None]
) -> RunResult:
    """Let the runner of each model do a step; what another process is at is left to it.

    A model whose step fails stops no other.
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


def fill_all(
    runners: Sequence[Runner],
    windows: Iterable[Window],
    began: datetime,
    ending: Callable[[], bool],
    say: Callable[[str], None],
) -> RunResult:
    """Backfill until no other process is at any of the windows; of one that dies, take them over.

    Args:
        runners: of each model.
        windows: of the past.
        began: what failed later is not tried again.
        ending: whether to wait no longer.
        say: callback for progress lines.
    """
    chosen, codes = list(windows), list[int]()

    def one_pass(waiting: Sequence[Runner]) -> list[Runner]:
        left = []
        for runner in waiting:
            result = run_all([runner], lambda each: each.backfill(chosen, began), say)
            codes.extend(result.exit_codes)
            if result.held_by:
                left.append(runner)
        return left

    waiting = one_pass(runners)
    if waiting:
        say("other runners are at the rest; what one of them leaves is taken over")
    while waiting and not ending():
        time.sleep(WAIT_SECONDS)
        waiting = one_pass(waiting)
    return RunResult(tuple(codes))
