"""Cron: which windows a line cuts, also where the clock is put forward and back."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from cxr_mm.core.errors import ParamsError
from monitoring.scheduler.cron import Cron, Window

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SPRING = datetime(2026, 3, 29, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 25, tzinfo=UTC)


def lengths(line, around, zone="Europe/Berlin"):
    windows = list(Cron(line, zone).whole_windows(around - 3 * DAY, around + 3 * DAY))
    assert all(one.until == other.since for one, other in pairwise(windows))
    return [(w.until - w.since) / HOUR for w in windows]


@pytest.mark.parametrize("line", ["0 6 * * *", "30 2 * * *", "0 2 * * *", "0 3 * * *"])
def test_a_day_has_23_hours_in_spring_and_25_in_autumn_once(line):
    for around, changed in ((SPRING, 23), (AUTUMN, 25)):
        found = lengths(line, around)
        assert (found.count(changed), found.count(24)) == (1, len(found) - 1)


@pytest.mark.parametrize(
    ("zone", "spring", "autumn"),
    [
        ("Africa/Cairo", "2026-04-24", "2026-10-30"),
        ("America/Santiago", "2026-09-06", "2026-04-05"),
        ("Asia/Beirut", "2026-03-29", "2026-10-25"),
        ("America/Havana", "2026-03-08", "2026-11-01"),
    ],
)
def test_where_midnight_is_skipped_or_repeated_a_day_has_23_or_25_hours_once(zone, spring, autumn):
    for day, changed in ((spring, 23), (autumn, 25)):
        around = datetime.fromisoformat(day).replace(tzinfo=UTC)
        found = lengths("0 0 * * *", around, zone)
        assert (found.count(changed), found.count(24)) == (1, len(found) - 1)


def test_a_year_of_midnights_in_cairo_has_365_windows():
    start = datetime(2026, 1, 1, tzinfo=UTC) - 2 * HOUR
    ends = [w.until for w in Cron("0 0 * * *", "Africa/Cairo").windows(start, start + 365 * DAY)]
    assert len(ends) == 365
    assert max(b - a for a, b in pairwise(ends)) == 25 * HOUR


def test_a_time_that_is_skipped_keeps_its_order_among_those_after_it():
    found = Cron("0,30 2,3 * * *", "Europe/Berlin").windows(SPRING, SPRING + 6 * HOUR)
    assert [w.until for w in found] == [SPRING + HOUR, SPRING + 1.5 * HOUR]


def test_hours_go_on_through_a_change_of_the_clock():
    assert set(lengths("0 * * * *", SPRING)) == {1}
    assert set(lengths("0 * * * *", AUTUMN)) == {1}


def test_weekdays_are_counted_from_sunday_as_cron_does():
    sunday = datetime(2026, 3, 1, tzinfo=UTC)
    for line in ("0 6 * * 0", "0 6 * * 7", "0 6 * * sun"):
        assert Cron(line).after(sunday) == datetime(2026, 3, 1, 6, tzinfo=UTC)
    assert Cron("0 6 * * 1-5").after(sunday) == datetime(2026, 3, 2, 6, tzinfo=UTC)
    found = Cron("0 6 * * 5,6-7").whole_windows(sunday, sunday + 14 * DAY)
    assert {w.until.weekday() for w in found} == {4, 5, 6}
    assert {
        w.until.weekday() for w in Cron("0 6 * * */2").whole_windows(sunday, sunday + 14 * DAY)
    } == {6, 1, 3, 5}


def test_the_newest_window_has_ended():
    now = datetime(2026, 3, 1, 6, tzinfo=UTC)
    assert Cron("0 6 * * *").newest(now) == Window(now - DAY, now)
    assert Cron("0 6 * * *").newest(now - HOUR) == Window(now - 2 * DAY, now - DAY)
    leap = Cron("0 0 29 2 *").newest(now)
    assert leap is None or (leap.since.year, leap.until.year) == (2020, 2024)


def test_windows_follow_the_last_one_that_is_known():
    last = datetime(2026, 3, 1, 5, tzinfo=UTC)
    found = list(Cron("0 6 * * *").windows(last, last + 2 * DAY))
    assert found[0] == Window(last, last + HOUR)
    assert found[1] == Window(last + HOUR, last + HOUR + DAY)


@pytest.mark.parametrize(
    "line",
    ["x", "0 6 * *", "@daily", "61 * * * *", "0 6 * * 8", "0 0 30 2 *", "0 6 1 * 1", "0 6 * * 5-1"],
)
def test_what_is_no_line_is_one_error(line):
    with pytest.raises(ParamsError, match="--cron"):
        Cron(line)


def test_what_is_no_time_zone_is_one_error():
    for zone in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises(ParamsError, match="no such time zone"):
            Cron("0 6 * * *", zone)
