"""Erasure and retention: what was to go is gone to the last byte, and the chain still holds."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log import (
    ChainBreak,
    ErasurePlan,
    PredictionLog,
    erase_patient,
    erase_study,
    retain,
    verify,
)

SECRET = "a secret that is long enough"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def log(database):
    with PredictionLog(database, SECRET) as opened:
        yield opened


@pytest.fixture
def add(answer):
    """`add(log, study, patient, hours)`: a prediction so many hours after noon."""

    def add(log, study, patient=None, hours=0.0):
        created = {"created_at": NOON + hours * HOUR}
        record = log.record(answer(study, patient)).model_copy(update=created)
        log.add_records([record])
        return record

    return add


def asked(database, query):
    engine = create_engine(database)
    with engine.connect() as connection:
        rows = connection.execute(text(query)).all()
    engine.dispose()
    return rows


def test_only_what_is_of_the_patient_goes(log, add, outcome):
    first, other, second = add(log, "1", "p"), add(log, "2", "q"), add(log, "3", "p")
    nameless = add(log, "3")
    unknown = add(log, "4")
    theirs = [outcome(r.study_hash) for r in (first, second)]
    others = [outcome(r.study_hash) for r in (other, unknown)]
    log.add_outcomes([*theirs, *others])
    plan = ErasurePlan(predictions=3, outcomes=2, events=0)
    assert erase_patient(log, "p", dry_run=True) == plan
    assert verify(log).erased["predictions"] == 0
    assert erase_patient(log, "p") == plan
    assert log.read_window("icu") == [other, unknown]
    assert nameless.study_hash not in log.study_hashes()
    assert log.read_outcomes() == others
    assert len(log.window_index("icu")) == 2
    assert list(log.read_positions([1, 2, 3, 4])) == [other]


def test_the_chain_holds_and_says_that_something_was_erased_but_not_of_whom(log, add, database):
    record = add(log, "1", "p")
    add(log, "2", "q")
    erase_patient(log, "p")
    found = verify(log)
    assert found.first_break is None
    assert found.rows["predictions"] == 2
    assert found.erased["predictions"] == 1
    (act,) = asked(database, "SELECT act, tables FROM audit_log")
    assert act.act == "erase"
    held = str(act) + str(asked(database, "SELECT * FROM predictions WHERE position = 1"))
    for gone in (record.patient_hash, record.study_hash, record.record_id, "icu", record.digest):
        assert gone not in held


def test_of_a_study_go_its_predictions_and_outcomes_whoever_it_is_of(log, add, outcome):
    again, other, nameless = add(log, "1", "p"), add(log, "2", "p"), add(log, "1")
    log.add_outcomes([outcome(again.study_hash), kept := outcome(other.study_hash)])
    plan = ErasurePlan(predictions=2, outcomes=1, events=0)
    assert nameless.study_hash == again.study_hash
    assert erase_study(log, "1", dry_run=True) == plan
    assert erase_study(log, "1") == plan
    assert log.read_window("icu") == [other]
    assert log.read_outcomes() == [kept]
    assert verify(log).first_break is None
    assert not erase_study(log, "p")


def test_a_patient_whom_the_log_does_not_know_leaves_no_trace(log, add):
    add(log, "1", "p")
    assert not erase_patient(log, "no one")
    assert verify(log).rows["audit_log"] == 0


def test_bytes_of_what_was_erased_are_in_no_file(url, file, add, outcome):
    with PredictionLog(url, SECRET) as log:
        stored = add(log, "kept", "q")
        gone = [add(log, f"study-{number}", "p") for number in range(40)]
        log.add_outcomes([outcome(r.study_hash, comment="wrote Müller") for r in gone])
        add(log, "last", "q")
        values = [gone[0].patient_hash, gone[7].study_hash, gone[39].record_id, "wrote M"]
        held = b"".join(path.read_bytes() for path in file.parent.iterdir())
        assert all(value.encode() in held for value in values)
        erase_patient(log, "p")
        held = b"".join(path.read_bytes() for path in file.parent.iterdir())
        for record in gone:
            values += [record.study_hash, record.record_id]
        assert not [value for value in values if value.encode() in held]
        assert held.count(np.asarray(stored.image_embedding, "<f4").tobytes()) == 2


def test_bytes_of_what_retention_removed_are_in_no_file(url, file, add):
    with PredictionLog(url, SECRET) as log:
        gone = [add(log, f"study-{number}", "p", number / 100) for number in range(40)]
        add(log, "last", "q", 2)
        retain(log, NOON + HOUR)
        held = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert not [r.study_hash for r in gone if r.study_hash.encode() in held]


def test_bytes_that_a_reader_still_holds_are_reported(url, file, add):
    with PredictionLog(url, SECRET, wait=0.1) as log:
        add(log, "1", "p")
        with closing(sqlite3.connect(file, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM predictions").fetchall()
            with pytest.raises(LogError, match="while others read"):
                erase_patient(log, "p")
        assert log.read_window("icu") == []


def test_a_row_emptied_behind_the_back_of_the_log_is_found(log, add, database):
    for number in range(3):
        add(log, f"{number}", f"p{number}")
    erase_patient(log, "p0")
    engine = create_engine(database)
    with engine.begin() as connection:
        row = "erased_at = (SELECT erased_at FROM predictions WHERE position = 1)"
        connection.execute(text(f"UPDATE predictions SET {row} WHERE position = 3"))
    engine.dispose()
    assert verify(log).first_break == ChainBreak("predictions", 3, "changed")


def test_something_written_into_an_emptied_row_is_found(log, add, database):
    add(log, "1", "p")
    erase_patient(log, "p")
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE predictions SET task = 'icu' WHERE position = 1"))
    engine.dispose()
    assert verify(log).first_break == ChainBreak("predictions", 1, "changed")


def test_retention_removes_what_is_older_and_the_outcomes_of_studies_then_gone(
    log, add, outcome, refusal, database
):
    add(log, "old", "p", 0)
    add(log, "again", "p", 1)
    last = [add(log, "again", "p", 3), add(log, "new", "p", 4)]
    late = outcome(log.hash_id("old"), recorded_at=NOON + 5 * HOUR)
    stored = [outcome(log.hash_id("again")), outcome("never seen", recorded_at=NOON + 5 * HOUR)]
    log.add_outcomes([outcome("never seen and old"), late, *stored])
    log.add_events([refusal(), refusal(created_at=NOON + 3 * HOUR)])
    plan = ErasurePlan(predictions=2, outcomes=2, events=1)
    assert retain(log, NOON + 2 * HOUR, dry_run=True) == plan
    assert retain(log, NOON + 2 * HOUR) == plan
    assert log.read_window("icu") == last
    assert log.read_outcomes() == stored
    assert len(log.read_events("icu")) == 1
    found = verify(log)
    assert found.first_break is None
    assert found.rows == {"audit_log": 1, "predictions": 2, "outcomes": 2, "events": 1}
    assert asked(database, "SELECT min(position) FROM predictions") == [(3,)]
    assert not retain(log, NOON + 2 * HOUR)


def test_an_old_record_between_younger_ones_is_emptied_and_removed_with_them_later(
    log, add, database
):
    young = [add(log, "1", hours=3)]
    add(log, "late from the spool", hours=1)
    young.append(add(log, "2", hours=3.5))
    assert retain(log, NOON + 2 * HOUR).predictions == 1
    assert log.read_window("icu") == young
    assert verify(log).erased["predictions"] == 1
    assert verify(log).first_break is None
    assert retain(log, NOON + 4 * HOUR).predictions == 2
    assert asked(database, "SELECT count(*) FROM predictions") == [(0,)]
    fresh = add(log, "3", hours=5)
    assert log.read_window("icu") == [fresh]
    found = verify(log)
    assert found.first_break is None
    assert found.heads[1].position == 4


def test_retention_again_and_again_leaves_a_chain_that_holds(log, add):
    for number in range(12):
        add(log, f"{number}", f"p{number % 3}", number)
        if number % 3 == 2:
            retain(log, NOON + (number - 4) * HOUR)
        if number == 7:
            erase_patient(log, "p1")
        assert verify(log).first_break is None
    assert len(log.read_window("icu")) == 4


def test_rows_removed_beyond_what_retention_said_are_found(log, add, database):
    for number in range(5):
        add(log, f"{number}", hours=number)
    retain(log, NOON + 2 * HOUR)
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM predictions WHERE position = 3"))
    engine.dispose()
    assert verify(log).first_break == ChainBreak("predictions", 3, "removed")


def test_a_moment_without_an_offset_is_refused(log):
    with pytest.raises(LogError, match="no UTC offset"):
        retain(log, datetime(2026, 3, 1))
