"""Attempt: one run of the report of a window, from the claim to what is stored and queued of it."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cxr_mm.core.errors import CancelledError, CxrError, LogError
from cxr_mm.core.verdict import ERROR_EXIT_CODE, Verdict
from cxr_mm.prediction_log.database import is_unavailable
from monitoring.alerts import Alerts, Notice
from monitoring.config import ReportSettings
from monitoring.report.turn import Turn
from monitoring.scheduler.cron import Window
from monitoring.scheduler.lease import Lease
from monitoring.scheduler.sandbox import read_aggregates, report_sandboxed
from monitoring.scheduler.windows import Also, PendingWindow, Windows


@dataclass(frozen=True)
class Claim:
    """A window that this runner has the lease of, and the folder of its report."""

    pending: PendingWindow
    lease: Lease
    folder: Path


class Attempt:
    """One run of the report of a claimed window.

    The report may begin while others are at earlier windows. It decides when each of these has a
    verdict, or has failed; verdicts and notices are stored in that order, by whichever runner.

    Args:
        windows: of the task.
        alerts: where notices are queued.
        claim: the window.
        task: its name.
        is_ours: whether this runner would run a window that is free.
        stopped: whether to kill the report.
        say: callback for progress lines.
    """

    def __init__(
        self,
        windows: Windows,
        alerts: Alerts,
        claim: Claim,
        task: str,
        is_ours: Callable[[Window], bool],
        stopped: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._windows, self._alerts, self._task = windows, alerts, task
        self._pending, self._folder = claim.pending, claim.folder
        self._holder, self._lost = claim.lease.holder, claim.lease.lost
        self._is_ours, self._stopped, self._say = is_ours, stopped, say
        self._is_decided = False

    def run(self, command: Sequence[str], settings: ReportSettings) -> int | None:
        """Run the report; its exit code, None if it was stopped or given back."""
        window = self._pending.window
        try:
            with tempfile.TemporaryDirectory() as name:
                turn = Turn(Path(name))
                verdict = report_sandboxed(
                    command, window, self._folder, settings, turn, lambda: self._step(turn)
                )
            aggregates = read_aggregates(self._folder)
        except CancelledError as stopped:
            self._windows.release(self._pending, self._holder)
            self._say(f"{self._task}, {window}: {stopped}")
            return None
        except CxrError as error:
            self._fail(str(error))
            return ERROR_EXIT_CODE
        if not self._is_decided:
            self._decide(verdict)
        if self._windows.finish(self._pending, self._holder, aggregates):
            self._say(f"{window}: {verdict.line} See {self._folder}")
        return verdict.exit_code

    def _step(self, turn: Turn) -> bool:
        """Give the report its turn, or store what it has decided; whether it had its turn.

        Raises:
            CancelledError: it is to be killed.
        """
        if self._stopped() or self._lost.is_set():
            raise CancelledError("the report was stopped")
        try:
            if not turn.given:
                self._give(turn)
            elif not self._is_decided and (verdict := turn.announced()):
                self._decide(verdict)
        except LogError as error:
            if not is_unavailable(error):
                raise  # otherwise the database may be back in the next step
        return turn.given

    def _give(self, turn: Turn) -> None:
        earlier = self._windows.earlier(self._pending)
        if any(self._is_ours(each.window) for each in earlier if not each.held):
            raise CancelledError("given back, as an earlier window is free")
        if not any(each.held for each in earlier):
            turn.give(self._windows.verdict_before(self._pending))

    def _decide(self, verdict: Verdict) -> None:
        notice = Notice.of_verdict(verdict, self._pending.window)
        self._windows.decide(self._pending, self._holder, verdict, self._queued(notice))
        self._is_decided = True

    def _fail(self, message: str) -> None:
        window = self._pending.window
        notice = Notice.of_failure(self._task, self._pending.digest, window)
        if self._windows.fail(self._pending, self._holder, message, self._queued(notice)):
            self._say(f"{self._task}, {window}: {message}")

    def _queued(self, notice: Notice) -> Also | None:
        """Publish a notice, and what queues it; nothing where no one is alerted."""
        if not self._is_alerting():
            return None
        try:
            self._alerts.publish(notice)
        except CxrError as error:
            self._say(f"figures for Prometheus are not written: {error}")
        return partial(self._alerts.queue, notice)

    def _is_alerting(self) -> bool:
        """Whether anyone is alerted: of no window that ends before one that has a verdict."""
        if not self._pending.alerting:
            return False
        last = self._windows.last_end(self._pending.digest, decided=True)
        return last is None or self._pending.window.until >= last
