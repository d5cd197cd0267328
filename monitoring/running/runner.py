"""Runner: runs the windows of a task that are due, one by one, under the lease."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cxr_mm.contracts.verdict import ERROR_EXIT_CODE, EXIT_CODES, REPORT_STAMP
from cxr_mm.errors import CancelledError, CxrError, LogError
from monitoring.alerts import Alerts, Notice
from monitoring.retention import retain_reports, retain_snapshots
from monitoring.running.cron import Cron, Window
from monitoring.running.lease import Lease
from monitoring.running.reporting import report_apart
from monitoring.running.tables import State
from monitoring.running.windows import Due, Windows
from monitoring.settings import MonitorParams

WORKSPACE_NAME = "workspace"
GRAVITY = (0, EXIT_CODES["too_small"], EXIT_CODES["warn"], ERROR_EXIT_CODE, EXIT_CODES["alarm"])


@dataclass(frozen=True)
class Judged:
    """The model whose answers are judged: its digest, and the report's `command`."""

    digest: str
    command: Sequence[str]
    """As `report_apart` takes it."""


@dataclass(frozen=True)
class Pass:
    """What came of running what is due.

    Args:
        exit_codes: of the reports, 2 for one that failed.
        again: whether some are worth another try later.
        held_by: who else has the lease; nothing was run then.
    """

    exit_codes: tuple[int, ...] = ()
    again: bool = False
    held_by: str | None = None

    @property
    def exit_code(self) -> int:
        """The gravest: 20 alarm, 2 a report that failed, 10 warn, 3 too few studies, 0 ok."""
        return max(self.exit_codes, key=GRAVITY.index, default=0)


class Runner:
    """Runs windows of one task.

    Args:
        state: the database.
        task: its name.
        model: whose answers are judged, asked anew for each pass: another may be promoted.
        reports: folder that the reports of this task go into; Evidently's workspace is beside it.
        settings: caps, alerts, retention.
        say: takes a line for a person.
        stopped: whether the report at hand is to be killed.
        ending: whether no other is to be begun.
    """

    def __init__(
        self,
        state: State,
        task: str,
        model: Callable[[], Judged],
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

    def catch_up(self, cron: Cron, now: datetime | None = None) -> Pass:
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

    def backfill(self, windows: Iterable[Window]) -> Pass:
        """Run windows of the past that were not run; nobody is alerted.

        Raises:
            CxrError: the database or the bundle cannot be read.
        """
        return self._run(lambda _: list(windows), alerting=False)

    def _newest(self, windows: list[Window]) -> list[Window]:
        kept = windows[-self._settings.schedule.catch_up :]
        if left := windows[: len(windows) - len(kept)]:
            self._say(
                f"{len(left)} missed windows are left out, from {left[0].since:%Y-%m-%d %H:%M} to "
                f"{left[-1].until:%Y-%m-%d %H:%M} UTC: python -m monitoring backfill makes them"
            )
        return kept

    def _run(self, found: Callable[[str], list[Window]], *, alerting: bool) -> Pass:
        if other := self._lease.take():
            self._say(f"{self._task}: held by {other}; nothing is run")
            return Pass(held_by=other)
        try:
            model, holder = self._model(), self._lease.holder
            digest = model.digest
            windows = found(digest)
            self._windows.add(digest, windows)
            self._windows.give_up(holder)
            due = self._windows.due(digest, holder)
            if not alerting:
                due = [each for each in due if each.window in set(windows)]
            codes = [code for each in due if (code := self._one(each, model, alerting)) is not None]
            if alerting:
                self._deliver(None)
            self._retain()
            again = bool(self._windows.due(digest, holder))
            return Pass(tuple(codes), again)
        finally:
            self._lease.give_back()

    def _one(self, due: Due, model: Judged, alerting: bool) -> int | None:
        """Run one window; its exit code, None where it is not ours to run or was stopped."""
        holder = self._lease.holder
        last = self._windows.last_end(due.digest, done=True)
        alerting = alerting and (last is None or due.window.until >= last)
        folder = Path(due.folder) if due.folder else self._folder(due.window)
        if self._ending() or self._lost() or not self._windows.claim(due, holder, str(folder)):
            return None
        try:
            verdict = report_apart(
                model.command, due.window, folder, self._settings.report, self._lost
            )
        except CancelledError as stopped:
            self._windows.release(due, holder)
            self._say(f"{self._task}, {due.window}: {stopped}")
            return None
        except CxrError as error:
            if self._windows.fail(due, holder, str(error)):
                self._say(f"{self._task}, {due.window}: {error}")
                if alerting:
                    self._deliver(Notice.of_failure(self._task, due.digest, due.window))
            return ERROR_EXIT_CODE
        if self._windows.finish(due, holder, verdict):
            self._say(f"{due.window}: {verdict.line} See {folder}")
            if alerting:
                self._deliver(Notice.of_verdict(verdict, due.window))
        return verdict.exit_code

    def _lost(self) -> bool:
        return self._stopped() or self._lease.lost.is_set()

    def _deliver(self, notice: Notice | None) -> None:
        """Tell of a notice and of what waits; an alert that fails never loses the report."""
        try:
            troubles = self._alerts.tell(self._task, notice)
        except LogError as error:
            troubles = [str(error)]
        for trouble in troubles:
            self._say(f"alert not delivered, it is sent again later: {trouble}")

    def _folder(self, window: Window) -> Path:
        """A folder for the report, named for the end of the window, that nothing else was given."""
        moment = window.until
        while True:
            folder = self._reports / moment.strftime(REPORT_STAMP)
            if not folder.exists() and not self._windows.folder_taken(str(folder)):
                return folder
            moment += timedelta(seconds=1)

    def _retain(self) -> None:
        kept = self._settings.retention
        try:
            retain_reports(self._reports, kept.keep_days, kept.keep_last)
            workspace = self._reports.with_name(WORKSPACE_NAME)
            retain_snapshots(workspace, self._task, kept.keep_days, kept.keep_last)
        except OSError as error:
            self._say(f"old reports cannot be removed: {error}")
