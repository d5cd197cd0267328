"""A log of version 1, as the former program made it, is read, kept and brought to version 2."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, inspect

from cxr_mm.contracts.record import Outcome
from cxr_mm.errors import LogError
from cxr_mm.prediction_log import PredictionLog
from cxr_mm.prediction_log.secret import keyed_hash

SECRET = "a secret that is long enough"
VERSION_1 = """
DROP TABLE outcomes;
CREATE TABLE outcomes (
    position INTEGER NOT NULL, study_hash VARCHAR(64) NOT NULL, finding VARCHAR(200) NOT NULL,
    label INTEGER NOT NULL, recorded_at DATETIME NOT NULL, source VARCHAR(200) NOT NULL,
    PRIMARY KEY (position)
);
CREATE INDEX outcomes_by_study ON outcomes (study_hash, finding);
INSERT INTO outcomes (study_hash, finding, label, recorded_at, source) VALUES
    ('s', 'icu', 1, '2026-03-01 12:00:00.000000', 'csv'),
    ('s', 'icu', 0, '2026-03-01 12:00:00.000000', 'csv'),
    ('t', 'icu', 1, '2026-03-02 12:00:00.000000', 'elsewhere');
UPDATE log_about SET value = '1' WHERE name = 'version';
"""
LABELS = {"s": (0, "csv"), "t": (1, "elsewhere")}


@pytest.fixture
def former(url, file, answer):
    """The record that a log of version 1 holds beside its outcomes."""
    with PredictionLog(url, SECRET) as log:
        record = log.append(answer())
    with closing(sqlite3.connect(file)) as database:
        database.executescript(VERSION_1)
    return record


def version(file):
    with closing(sqlite3.connect(file)) as database:
        return database.execute("SELECT value FROM log_about WHERE name = 'version'").fetchone()[0]


def read(log):
    return {o.study_hash: (o.label, o.source) for o in log.read_outcomes()}


def outcome():
    return Outcome(
        study_hash="s",
        finding="icu",
        label=1,
        recorded_at=datetime(2026, 4, 1, tzinfo=UTC),
        comment="seen on CT",
    )


def test_everything_is_there_after_the_log_was_opened_for_writing(former, url, file):
    with PredictionLog(url, SECRET) as log:
        assert version(file) == "2"
        assert log.read_window("icu") == [former]
        assert read(log) == LABELS
        assert {o.comment for o in log.read_outcomes()} == {""}
        log.add_outcomes([outcome()])
    with closing(sqlite3.connect(file)) as database:
        ids = [row[0] for row in database.execute("SELECT outcome_id FROM outcomes")]
    assert len(set(ids)) == 4


def test_the_tables_are_then_those_of_a_new_log(former, url, tmp_path):
    PredictionLog(url, SECRET).close()
    new = f"sqlite:///{tmp_path / 'new.db'}"
    PredictionLog(new, SECRET).close()
    shapes = []
    for each in (url, new):
        engine = create_engine(each)
        found = inspect(engine)
        names = sorted(found.get_table_names())
        indexes = {t: sorted(i["name"] or "" for i in found.get_indexes(t)) for t in names}
        columns = {t: [(c["name"], c["nullable"]) for c in found.get_columns(t)] for t in names}
        unique = {t: found.get_unique_constraints(t) for t in names}
        shapes.append((indexes, columns, unique))
        engine.dispose()
    assert shapes[0] == shapes[1]


def test_reading_leaves_the_log_as_it_is(former, url, file):
    before = file.read_bytes()
    with PredictionLog(url, None, create=False) as log:
        assert log.read_window("icu") == [former]
        assert read(log) == LABELS
    assert file.read_bytes() == before


def test_the_first_outcome_written_brings_it_to_this_version(former, url, file):
    with PredictionLog(url, SECRET, create=False) as log:
        log.add_outcomes([outcome()])
        assert {o.comment for o in log.read_outcomes() if o.study_hash == "s"} == {"seen on CT"}
    assert version(file) == "2"


def test_a_migration_that_fails_changes_nothing(former, url, file):
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE occupied (name TEXT)")
        database.executescript(
            "DROP INDEX outcomes_by_study; CREATE INDEX outcomes_by_study ON occupied (name);"
        )
        tables = sorted(database.execute("SELECT name, sql FROM sqlite_master").fetchall())
    with pytest.raises(LogError, match="outcomes_by_study"):
        PredictionLog(url, SECRET)
    assert version(file) == "1"
    with closing(sqlite3.connect(file)) as database:
        assert sorted(database.execute("SELECT name, sql FROM sqlite_master")) == tables
        assert database.execute("SELECT count(*) FROM outcomes").fetchone() == (3,)


def test_processes_that_open_it_at_once_migrate_it_once(former, url):
    code = f"""
from cxr_mm.prediction_log import PredictionLog
print("ready", flush=True); input()
with PredictionLog({url!r}, {SECRET!r}) as log:
    assert len(log.read_outcomes()) == 2
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    with PredictionLog(url, SECRET) as log:
        assert read(log) == LABELS
        assert log.read_window("icu")[0].study_hash == keyed_hash(
            SECRET.encode(), "study:study-0815"
        )
