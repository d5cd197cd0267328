"""What a report reads of the log: windows, those before, rejected images, and a part of many."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import monitoring.window
from cxr_mm.core.record import ServiceEvent
from cxr_mm.prediction_log import open_log
from monitoring.report.report import verdict_before
from monitoring.verdict import Window, evaluate_window
from monitoring.window import AT_ONCE, are_among, load_window, newest_rows
from tests.monitoring.conftest import whole

DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def log(tmp_path):
    with open_log(f"sqlite:///{tmp_path / 'log.db'}") as opened:
        yield opened


def write(log, made, day, labels=True):
    records, outcomes = made
    log.add_records(r.model_copy(update={"created_at": r.created_at + day * DAY}) for r in records)
    if labels:
        log.add_outcomes(outcomes)
    return records


def read(log, frozen, day, **more):
    return load_window(log, frozen, START + day * DAY, START + (day + 1) * DAY, **more)


def test_the_longer_window_has_the_labels_of_this_and_the_windows_before(log, frozen, make):
    for day in range(7):
        write(log, make(30, 50 + day), day, labels=day != 5)
    found = read(log, frozen, 6).window
    assert (found.studies, found.n_labelled) == (30, 30)
    assert len(found.labelled) == 30
    assert len(found.longer) == 4 * 30  # of five windows one has no labels
    assert found.longer["created_at"].min() >= START + 2 * DAY


def test_of_many_studies_a_part_is_compared_and_all_are_counted(log, frozen, make, monkeypatch):
    monkeypatch.setattr(monitoring.window, "MOST_STUDIES", 50)
    write(log, make(80, 60), 0)
    found = read(log, frozen, 0)
    assert len(found.window.table) == 50
    assert (found.window.studies, found.window.n_labelled) == (80, 80)
    assert "50 of 80 studies, drawn at random, are compared" in found.notes
    verdict = evaluate_window(found.window, frozen, found.notes).verdict
    assert (verdict.n, verdict.n_labelled) == (80, 80)


def test_only_the_newest_answer_of_a_study_counts(log, frozen, make):
    records = write(log, make(30, 61), 0)
    again = [
        r.model_copy(update={"record_id": f"again {i}", "clinical": {**r.clinical, "age": 99.0}})
        for i, r in enumerate(records)
    ]
    log.add_records(r.model_copy(update={"created_at": START + DAY / 2}) for r in again)
    found = read(log, frozen, 0)
    assert (found.window.table["clinical.age"] == 99.0).all()
    assert "30 predictions of a study asked before; its newest counts" in found.notes


def test_a_report_of_one_source_reads_nothing_of_another(log, frozen, make):
    for day in range(3):
        records, outcomes = make(40, 70 + day)
        for number, record in enumerate(records):
            moved = {"created_at": record.created_at + day * DAY}
            moved["source"] = "pacs" if number % 4 == 0 else "page"
            log.add_records([record.model_copy(update=moved)])
        log.add_outcomes(outcomes)
    refusal = ServiceEvent(
        created_at=START + 2.5 * DAY, task="made_up", digest=frozen.digest, kind="rejected_image"
    )
    for number in range(8):
        source = "pacs" if number < 3 else "page"
        log.add_events([refusal.model_copy(update={"event_id": str(number), "source": source})])
    found = read(log, frozen, 2, source="pacs")
    assert (found.window.studies, found.window.n_labelled) == (10, 10)
    assert (len(found.window.longer), len(found.window.events)) == (30, 3)
    assert found.notes[0].startswith("Studies of the source pacs alone")
    whole_day = read(log, frozen, 2).window
    assert (whole_day.studies, len(whole_day.events)) == (40, 8)


def test_rejected_images_of_this_model_alarm(log, frozen, make):
    write(log, make(60, 62), 0)
    for digest, count in ((frozen.digest, 12), ("b" * 64, 90)):
        log.add_events(
            ServiceEvent(
                created_at=START + DAY / 2, task="made_up", digest=digest, kind="rejected_image"
            )
            for _ in range(count)
        )
    report = evaluate_window(read(log, frozen, 0).window, frozen)
    assert (report.images.rejected, report.images.images) == (12, 72)
    assert report.verdict.status == "alarm"
    assert report.verdict.reasons[0].name == "images.rejected"


def test_where_nearly_all_images_are_refused_the_few_that_are_left_do_not_hide_it(
    log, frozen, make
):
    write(log, make(10, 63), 0)
    refusal = ServiceEvent(
        created_at=START + DAY / 2, task="made_up", digest=frozen.digest, kind="rejected_image"
    )
    assert evaluate_window(read(log, frozen, 0).window, frozen).verdict.status == "too_small"
    log.add_events(refusal.model_copy(update={"event_id": str(i)}) for i in range(40))
    report = evaluate_window(read(log, frozen, 0).window, frozen)
    assert report.verdict.status == "alarm"
    assert report.verdict.reasons[0].name == "images.rejected"
    assert "10 studies: too few" in report.verdict.headline
    assert report.checks == []


def test_an_alarm_is_held_until_it_falls_below_the_limit_of_a_warning(window, frozen):
    for seed in range(500, 540):
        found = whole(window(60, seed, age=0.42))
        alone = evaluate_window(found, frozen).verdict
        if alone.status == "warn" and alone.reasons[0].name == "clinical.age":
            break
    before = evaluate_window(whole(window(60, 1, age=2.0)), frozen).verdict
    assert before.status == "alarm"
    after = Window(**{**vars(found), "before": before})
    assert evaluate_window(after, frozen).verdict.status == "alarm"
    calm = Window(**{**vars(whole(window(60, 1))), "before": before})
    assert evaluate_window(calm, frozen).verdict.status == "ok"


def test_studies_of_a_large_window_are_looked_up_in_little_memory():
    count = 2 * AT_ONCE
    studies = np.array([f"{i * 7919 % (count // 2):064}" for i in range(count)], "S64")
    known = np.unique(studies[::10])
    tracemalloc.start()
    newest, marked = newest_rows(studies), are_among(studies, known)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * studies.nbytes
    last = {study: i for i, study in enumerate(studies.tolist())}
    assert newest.tolist() == sorted(last.values())
    names = set(known.tolist())
    assert marked.tolist() == [study in names for study in studies.tolist()]
    assert not are_among(studies, known[:0]).any()


def test_the_verdict_before_is_of_the_same_model_and_of_an_earlier_window(tmp_path, window, frozen):
    verdict = evaluate_window(whole(window(60, 1)), frozen).verdict
    ends = {"a": START - 2 * DAY, "b": START - DAY, "c": START + DAY}
    for name, last in ends.items():
        (tmp_path / name).mkdir()
        facts = {**verdict.model_dump(mode="json"), "last": last.isoformat(), "scores": {}}
        (tmp_path / name / "verdict.json").write_text(json.dumps(facts))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "verdict.json").write_text("{")
    found = verdict_before(tmp_path / "new", frozen.digest, START)
    assert datetime.fromisoformat(found.last) == START - DAY
    assert verdict_before(tmp_path / "new", "b" * 64, START) is None
    assert verdict_before(tmp_path / "new", frozen.digest, None) is None
