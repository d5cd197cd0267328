"""Cron: bounds of windows from a crontab(5) line, computed by APScheduler's CronTrigger.

APScheduler 3 deviates from crontab(5) in three points, corrected here: it counts weekdays from
Monday; it requires both a day of the month and a weekday; and where the clock changes it fires
twice in the hour that is repeated, and not at all where midnight is skipped (Cairo, Santiago).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import dropwhile, pairwise, takewhile
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger

from cxr_mm.core.errors import ParamsError

LOOK_BACK = tuple(timedelta(days=days) for days in (1, 40, 800, 3000))
"""How far back the newest window is looked for; the last finds a 29 February."""
NAMED = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Window:
    """A stretch of time: `since` is in it, `until` is not; both UTC."""

    since: datetime
    until: datetime

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC"


CHANGE = timedelta(hours=2)
"""No clock is changed by more; the order of moments this close to one may be turned round."""
JUST_AFTER = timedelta(microseconds=1)


class WallClock(BaseTrigger):  # type: ignore[misc]
    """A trigger at times of the wall clock, each once a day whatever is done to the clock.

    A time that is skipped is as many minutes after the change as it is after the skipped hour's
    start; of a time that occurs twice, the first counts.

    Args:
        times: a trigger in UTC, which is taken for the wall clock's time.
        zone: where the clock hangs.
    """

    def __init__(self, times: CronTrigger, zone: ZoneInfo) -> None:
        self._times, self._zone = times, zone

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """The first moment from `now` on, or after the previous one; UTC."""
        start = previous_fire_time + JUST_AFTER if previous_fire_time else now
        shown = start.astimezone(self._zone).replace(tzinfo=UTC) - CHANGE
        coming = dropwhile(lambda pair: pair[1] < start, self._from(shown))
        first = next(coming, None)
        if first is None:
            return None
        near = takewhile(lambda pair: pair[0] <= first[0] + CHANGE, coming)
        return min([first[1], *(moment for _, moment in near if moment >= start)])

    def _from(self, shown: datetime) -> Iterator[tuple[datetime, datetime]]:
        """What the clock shows, written as UTC, and the moment that is."""
        while (fired := self._times.get_next_fire_time(None, shown)) is not None:
            yield fired, fired.replace(tzinfo=self._zone).astimezone(UTC)
            shown = fired + JUST_AFTER


class Cron:
    """The moments of a crontab line; a window lies between two neighbours.

    Args:
        line: minute, hour, day of the month, month, weekday (0 and 7 are Sunday).
        timezone: in which the line is meant, as Europe/Berlin.

    Raises:
        ParamsError: the line or the time zone is invalid, or the line never fires.
    """

    def __init__(self, line: str, timezone: str = "UTC") -> None:
        self.line, self.timezone = " ".join(line.split()), timezone
        fields = line.split()
        if len(fields) == 5 and fields[2] != "*" and fields[4] != "*":
            raise _wrong(line, "it names days of the month and weekdays, which cron joins by or")
        self._zone = _zone(timezone)
        try:
            if len(fields) == 5:
                fields[4] = _weekdays(fields[4])
            self.trigger = _trigger(fields, self._zone)
        except ValueError as error:
            raise _wrong(line, str(error)) from error
        if self._fires(datetime.now(UTC)) is None:
            raise _wrong(line, "no day ever matches it")

    def after(self, moment: datetime) -> datetime:
        """The first firing after a moment, UTC."""
        fired = self._fires(moment)
        if fired is None:
            raise _wrong(self.line, "it never fires again")
        return fired.astimezone(UTC)

    def windows(self, since: datetime, until: datetime) -> Iterator[Window]:
        """Windows one behind the other from `since` on, as far as they end by `until`."""
        start = since.astimezone(UTC)
        while (end := self.after(start)) <= until:
            yield Window(start, end)
            start = end

    def whole_windows(self, since: datetime, until: datetime) -> Iterator[Window]:
        """Windows between two firings, both of them from `since` to `until`."""
        return self.windows(self.after(since - timedelta(microseconds=1)), until)

    def newest(self, now: datetime) -> Window | None:
        """The last window that has ended; None where the line seldom fires."""
        for back in LOOK_BACK:
            ends = [window.until for window in self.windows(now - back, now)]
            if len(ends) > 1:
                return [Window(*pair) for pair in pairwise(ends)][-1]
        return None

    def _fires(self, moment: datetime) -> datetime | None:
        soon = moment.astimezone(UTC) + JUST_AFTER
        fired: datetime | None = self.trigger.get_next_fire_time(None, soon)
        return fired


def _trigger(fields: list[str], zone: ZoneInfo) -> Any:
    """By the wall clock where hours are named; every so many hours goes on through a change."""
    line = " ".join(fields)
    if len(fields) == 5 and not fields[1].startswith("*"):
        return WallClock(CronTrigger.from_crontab(line, timezone=UTC), zone)
    return CronTrigger.from_crontab(line, timezone=zone)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ParamsError(
            "no such time zone", field=f"--timezone {name!r}", remedy="Write it as Europe/Berlin"
        ) from error


def _weekdays(field: str) -> str:
    """Numbers from Sunday on (crontab) → names, which mean the same everywhere."""
    if field == "*":
        return field
    return ",".join(_days(part) for part in field.split(","))


def _days(part: str) -> str:
    span, _, step = part.partition("/")
    first, _, last = ("0-6" if span == "*" else span).partition("-")
    if not (first + last + step).isdigit():
        return part
    end = int(last or first)
    if not 0 <= int(first) <= end <= 7:
        raise ValueError(f"weekdays are 0 to 7, not {part}")
    return ",".join(NAMED[(day - 1) % 7] for day in range(int(first), end + 1, int(step or 1)))


def _wrong(line: str, reason: str) -> ParamsError:
    return ParamsError(reason, field=f"--cron {line!r}", remedy="Write it as '0 6 * * *'")
