"""Retention: which pages go, and that no verdict does."""

import os
import time

import pytest

from monitoring.report.workspace import retain_reports

DAY = 86_400


@pytest.fixture
def reports(tmp_path):
    """Five reports of different age, and what is none."""
    for age in (1, 20, 40, 50, 60):
        folder = tmp_path / f"{age} days"
        (folder / "more").mkdir(parents=True)
        for name in ("summary.html", "report.html", "more/figure.png", "verdict.json"):
            (folder / name).write_text("{}")
        aged(folder / "verdict.json", age)
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    for age in (0, 2):
        aside = tmp_path / f".{age}"
        aside.mkdir()
        (aside / "verdict.json").write_text("{}")
        aged(aside, age)
    return tmp_path


def aged(path, days):
    moment = time.time() - days * DAY
    os.utime(path, (moment, moment))


def whole(reports):
    return {path.parent.parent.name for path in reports.glob("*/more/figure.png")}


def test_pages_of_old_reports_go_and_their_verdicts_stay(reports):
    redacted = retain_reports(reports, keep_days=30, keep_last=1)
    assert {folder.name for folder in redacted} == {"40 days", "50 days", "60 days"}
    assert whole(reports) == {"1 days", "20 days"}
    assert len([v for v in reports.glob("*/verdict.json") if v.parent.name[0] != "."]) == 5
    assert [path.name for path in (reports / "60 days").iterdir()] == ["verdict.json"]
    assert (reports / "thesis" / "thesis.txt").read_text() == "precious"
    assert retain_reports(reports, keep_days=30, keep_last=1) == []


def test_the_newest_stay_whole_whatever_their_age(reports):
    retain_reports(reports, keep_days=30, keep_last=4)
    assert whole(reports) == {"1 days", "20 days", "40 days", "50 days"}


def test_what_was_left_half_written_goes_after_a_day(reports):
    retain_reports(reports, keep_days=30, keep_last=1)
    assert (reports / ".0").exists()
    assert not (reports / ".2").exists()


def test_a_folder_that_is_not_there_is_no_error(tmp_path):
    assert retain_reports(tmp_path / "nowhere", keep_days=1, keep_last=1) == []
