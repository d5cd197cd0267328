"""Logs of versions 1 and 2, as the former programs made them, are read, kept and brought to 3."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import (
    JSON,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    inspect,
    text,
)

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log import PredictionLog, verify
from cxr_mm.prediction_log.database import keyed_hash
from cxr_mm.prediction_log.schema import Embedding, UtcDateTime

SECRET = "a secret that is long enough"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LABELS = {"s": (0, "csv"), "t": (1, "elsewhere")}
RECORDS = 3
TABLES = {"acts", "chain_heads", "events", "log_about", "outcomes", "predictions"}


def tables_of(version):
    """The tables as the program of that version declared them."""
    metadata = MetaData()
    texts = {
        name: Column(name, String(200), nullable=False)
        for name in ("task", "model", "finding", "source")
    }
    about = Table(
        "log_about",
        metadata,
        Column("name", String(40), primary_key=True),
        Column("value", String(200), nullable=False),
    )
    predictions = Table(
        "predictions",
        metadata,
        Column("position", Integer, primary_key=True, autoincrement=True),
        Column("record_id", String(64), nullable=False, unique=True),
        Column("created_at", UtcDateTime, nullable=False),
        texts["task"],
        texts["model"],
        Column("digest", String(64), nullable=False),
        Column("study_hash", String(64), nullable=False),
        Column("patient_hash", String(64)),
        Column("modalities", JSON, nullable=False),
        Column("view", String(40)),
        Column("clinical", JSON, nullable=False),
        Column("quality", JSON, nullable=False),
        Column("image_embedding", Embedding),
        Column("note_embedding", Embedding),
        Column("probabilities", JSON, nullable=False),
        Column("positives", JSON, nullable=False),
        Column("latency_ms", Float),
        Index("predictions_by_time", "task", "created_at"),
    )
    identity = [Column("outcome_id", String(64), nullable=False, unique=True)]
    comment = [Column("comment", String(500), nullable=False)]
    outcomes = Table(
        "outcomes",
        metadata,
        Column("position", Integer, primary_key=True, autoincrement=True),
        *(identity if version == "2" else ()),
        Column("study_hash", String(64), nullable=False),
        texts["finding"],
        Column("label", Integer, nullable=False),
        Column("recorded_at", UtcDateTime, nullable=False),
        texts["source"],
        *(comment if version == "2" else ()),
        Index("outcomes_by_study", "study_hash", "finding"),
    )
    return about, predictions, outcomes


def labels_of(version):
    given = [("s", 1, NOON, "csv"), ("s", 0, NOON, "csv"), ("t", 1, NOON, "elsewhere")]
    for number, (study, label, moment, source) in enumerate(given):
        row = {"study_hash": study, "label": label, "recorded_at": moment, "source": source}
        later = {"outcome_id": f"o{number}", "comment": "seen"} if version == "2" else {}
        yield {"finding": "icu", **row, **later}


@pytest.fixture(params=["1", "2"])
def version(request):
    return request.param


@pytest.fixture
def former(database, version, answer, tmp_path):
    """The records that a log of that version holds beside its outcomes."""
    with PredictionLog(f"sqlite:///{tmp_path / 'other.db'}", SECRET) as other:
        records = [other.record(answer(f"study-{n}")) for n in range(RECORDS)]
    later = {"certainties": {}, "note_traits": {}, "shares": {}}
    records = [record.model_copy(update=later) for record in records]
    make_folder_of(database)
    engine = create_engine(database)
    about, predictions, outcomes = tables_of(version)
    about.metadata.create_all(engine)
    says = {"version": version, "secret": keyed_hash(SECRET.encode(), "log")}
    rows = [{k: v for k, v in dict(r).items() if k not in later} for r in records]
    with engine.begin() as connection:
        connection.execute(insert(about), [{"name": n, "value": v} for n, v in says.items()])
        connection.execute(insert(predictions), rows)
        connection.execute(insert(outcomes), list(labels_of(version)))
        # A gap, as a transaction that was rolled back leaves one.
        connection.execute(text("UPDATE predictions SET position = 9 WHERE position = 3"))
    engine.dispose()
    return records


def make_folder_of(database):
    engine = create_engine(database)
    if engine.dialect.name == "sqlite":
        Path(engine.url.database).parent.mkdir()
    engine.dispose()


def asked(database, query):
    engine = create_engine(database)
    with engine.connect() as connection:
        rows = connection.execute(text(query)).all()
    engine.dispose()
    return rows


def said_version(database):
    return asked(database, "SELECT value FROM log_about WHERE name = 'version'")[0][0]


def read(log):
    return {o.study_hash: (o.label, o.source) for o in log.read_outcomes()}


def test_everything_is_there_and_chained_after_the_log_was_opened_for_writing(
    former, database, version, outcome
):
    with PredictionLog(database, SECRET) as log:
        assert said_version(database) == "3"
        assert log.read_window("icu") == former
        assert read(log) == LABELS
        assert {o.comment for o in log.read_outcomes()} == {"" if version == "1" else "seen"}
        log.add_outcomes([outcome()])
        found = verify(log)
    assert found.broken is None
    assert found.rows == {"predictions": RECORDS, "outcomes": 4, "events": 0, "acts": 1}
    assert asked(database, "SELECT act FROM acts") == [(f"migrate from {version}",)]


def test_the_tables_are_then_those_of_a_new_log(former, database, tmp_path):
    PredictionLog(database, SECRET).close()
    new = f"sqlite:///{tmp_path / 'new.db'}"
    PredictionLog(new, SECRET).close()
    shapes = []
    for each in (database, new):
        engine = create_engine(each)
        found = inspect(engine)
        names = sorted(found.get_table_names())
        indexes = {t: {i["name"] for i in found.get_indexes(t)} for t in names}
        indexes = {t: {i for i in stored if i and "_by_" in i} for t, stored in indexes.items()}
        columns = {t: [(c["name"], c["nullable"]) for c in found.get_columns(t)] for t in names}
        unique = {t: [u["column_names"] for u in found.get_unique_constraints(t)] for t in names}
        shapes.append((indexes, columns, unique))
        engine.dispose()
    assert shapes[0] == shapes[1]
    assert set(shapes[0][0]) == TABLES


def test_reading_leaves_the_log_as_it_is(former, database, version):
    before = asked(database, "SELECT * FROM outcomes")
    with PredictionLog(database, None, create=False) as log:
        assert log.read_window("icu") == former
        assert read(log) == LABELS
        assert log.read_events("icu") == []
        index = log.window_index("icu")
        assert list(log.read_positions(index.position)) == former
        assert [count.records for count in log.service_counts("icu", by="day")] == [RECORDS]
    assert asked(database, "SELECT * FROM outcomes") == before
    assert said_version(database) == version


def test_without_its_secret_or_with_another_it_stays_as_it_is(former, database, version):
    with PredictionLog(database, None) as log:
        assert log.read_window("icu") == former
    with pytest.raises(LogError, match="another secret"):
        PredictionLog(database, SECRET + "!")
    assert said_version(database) == version


def test_the_first_outcome_written_brings_it_to_this_version(former, database, version, outcome):
    with PredictionLog(database, SECRET, create=False) as log:
        with pytest.raises(LogError, match="without a chain"):
            verify(log)
        assert said_version(database) == version
        log.add_outcomes([outcome(label=0)])
        assert said_version(database) == "3"
        assert read(log) == LABELS
        assert verify(log).broken is None


def test_a_migration_that_fails_leaves_everything_as_it_was(former, database, version):
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE occupied (name VARCHAR(9))"))
        connection.execute(text("CREATE INDEX events_by_time ON occupied (name)"))
    names = inspect(engine).get_table_names()
    with pytest.raises(LogError, match="events_by_time"):
        PredictionLog(database, SECRET)
    assert said_version(database) == version
    assert inspect(engine).get_table_names() == names
    engine.dispose()
    with PredictionLog(database, None, create=False) as log:
        assert log.read_window("icu") == former
        assert read(log) == LABELS


def test_processes_that_open_it_at_once_migrate_it_once(former, database):
    code = f"""
from cxr_mm.prediction_log import PredictionLog
print("ready", flush=True); input()
with PredictionLog({database!r}, {SECRET!r}) as log:
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
    with PredictionLog(database, SECRET) as log:
        assert read(log) == LABELS
        assert log.read_window("icu") == former
        assert verify(log).rows["acts"] == 1
