"""Schedule: APScheduler starts a pass at the end of each window and after a failure.

Its jobs are kept in memory alone: pending windows are in the database, which each pass reads.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers import SchedulerNotRunningError
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.date import DateTrigger

from cxr_mm.core.errors import CxrError
from monitoring.config import ScheduleSettings
from monitoring.scheduler.cron import Cron
from monitoring.scheduler.runner import RunResult


class Stop:
    """Stop request: `requested` begins nothing new, `now` also kills the current report."""

    def __init__(self, grace: float) -> None:
        self._grace, self._requested_at = grace, 0.0

    def request(self) -> None:
        """Request the stop."""
        self._requested_at = self._requested_at or time.monotonic()

    def requested(self) -> bool:
        """Whether a stop was requested."""
        return bool(self._requested_at)

    def now(self) -> bool:
        """Whether the grace period is over, too."""
        return self.requested() and time.monotonic() > self._requested_at + self._grace


def run_schedule(
    catch_up: Callable[[Cron], RunResult],
    cron: Cron,
    settings: ScheduleSettings,
    stop: Stop,
    say: Callable[[str], None],
) -> None:
    """Catch up at once and whenever a window ends, until SIGTERM or Ctrl-C; the main thread only.

    Args:
        catch_up: one pass.
        cron: when windows end.
        settings: when a failed one is tried again.
        stop: requested by a signal.
        say: callback for progress lines.
    """
    scheduler = BlockingScheduler(
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "misfire_grace_time": None},
        timezone=UTC,
    )
    busy = threading.Lock()

    def one_pass() -> None:
        with busy:
            if (
                stop.requested()
            ):  # perhaps before the scheduler ran, so that no one could shut it down
                _shut_down(scheduler)
                return
            try:
                result = catch_up(cron)
            except CxrError as error:
                say(str(error))
                result = RunResult(again=True)
            if stop.requested():
                return
            if result.again:
                later = datetime.now(UTC) + timedelta(minutes=settings.retry_minutes)
                scheduler.add_job(one_pass, DateTrigger(later), id="again", replace_existing=True)

    def ended() -> None:
        stop.request()
        # In a thread: the signal may have come while this one has the scheduler's locks.
        threading.Thread(target=_shut_down, args=(scheduler,), daemon=True).start()

    with stopping(ended):
        scheduler.add_job(one_pass, DateTrigger(datetime.now(UTC)))
        scheduler.add_job(one_pass, cron.trigger)
        scheduler.start()
        with busy:  # the report at hand ends, or is killed when the grace is over
            pass


@contextmanager
def stopping(callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` on SIGTERM or Ctrl-C; main thread only."""
    signals = (signal.SIGTERM, signal.SIGINT)
    former = {each: signal.signal(each, lambda *_: callback()) for each in signals}
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


def _shut_down(scheduler: BlockingScheduler) -> None:
    with suppress(SchedulerNotRunningError):
        scheduler.shutdown(wait=False)
