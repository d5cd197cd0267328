"""The prediction log: what it keeps, what it must not keep, and who may write at once."""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from cxr_mm.core.errors import LogError
from cxr_mm.core.record import Outcome
from cxr_mm.prediction_log import SECRET_VARIABLE, PredictionLog, find_secret, open_log

SECRET = "a secret that is long enough"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def log(database):
    with PredictionLog(database, SECRET) as opened:
        yield opened


@pytest.fixture
def sqlite_log(url):
    with PredictionLog(url, SECRET) as opened:
        yield opened


def test_record_comes_back_as_it_was_returned(log, answer):
    stored = log.append(answer())
    assert log.read_window("icu") == [stored]
    assert stored.clinical == {"age": 61.0, "sex": "F", "crp": None}
    assert stored.quality == {"exposure": 0.4}
    assert np.array_equal(np.float32(stored.image_embedding), answer().image_embedding)
    assert stored.note_embedding is None
    assert stored.certainties == {"icu": "uncertain"}
    assert stored.note_traits == {"words": 3.0}
    assert stored.shares == {"icu": {"image": 0.1, "note": -0.2}}
    assert stored.created_at.utcoffset() == timedelta(0)


def test_nothing_that_names_or_shows_the_patient_reaches_the_disk(sqlite_log, tmp_path, answer):
    sqlite_log.append(answer())
    sqlite_log.close()
    held = b"".join(p.read_bytes() for p in (tmp_path / "log").rglob("*") if p.is_file())
    assert b"d" * 64 in held
    pixels = answer().study.image.tobytes()
    for secret in (b"study-0815", b"patient-4711", b"Dyspnoea", pixels[:16], SECRET.encode()):
        assert secret not in held


def test_hash_depends_on_id_kind_and_secret(log, tmp_path):
    assert log.hash_id("1") == log.hash_id("1")
    other = PredictionLog(f"sqlite:///{tmp_path / 'other.db'}", SECRET + "!")
    different = {log.hash_id("1"), log.hash_id("2"), log.hash_id("1", "patient")}
    assert len(different | {other.hash_id("1")}) == 4
    other.close()


def test_window_takes_its_start_and_leaves_its_end(log, answer):
    base = log.record(answer())
    records = [
        base.model_copy(update={"record_id": str(i), "created_at": NOON + timedelta(hours=i)})
        for i in (3, 1, 2, 0)
    ]
    log.add_records(records)
    found = log.read_window("icu", NOON + timedelta(hours=1), NOON + timedelta(hours=3))
    assert [r.record_id for r in found] == ["1", "2"]
    east = timezone(timedelta(hours=5))
    assert log.read_window("icu", since=(NOON + timedelta(hours=3)).astimezone(east)) == [
        records[0]
    ]
    assert log.read_window("covid") == []
    assert log.read_window("icu", digest="another") == []


def test_time_without_offset_is_refused(log):
    with pytest.raises(LogError, match="no UTC offset"):
        log.read_window("icu", since=datetime(2026, 3, 1))


def test_newest_outcome_counts(log):
    def outcome(label, hours):
        return Outcome(
            study_hash=log.hash_id("s"),
            finding="icu",
            label=label,
            recorded_at=NOON + timedelta(hours=hours),
        )

    later, prior, latest = outcome(1, 2), outcome(0, 1), outcome(0, 3)
    log.add_outcomes([later, prior])
    assert log.read_outcomes() == [later]
    log.add_outcomes([latest])
    assert log.read_outcomes() == [latest]


def test_each_site_is_read_by_itself(database, answer, outcome, refusal):
    names = ("north", "süd", "")
    for name in names:
        with PredictionLog(database, SECRET, site=f" {name} ", clock=lambda: NOON) as log:
            record = log.append(answer(f"study of {name}"))
            log.add_outcomes([outcome(record.study_hash, recorded_at=NOON)])
            log.add_events([refusal(site=log.site)])
        assert record.site == name
    later = NOON + timedelta(hours=1)
    with PredictionLog(database, SECRET, create=False) as log:
        assert log.sites("icu", NOON, later) == sorted(names)
        assert log.sites("icu", later) == log.sites("covid") == []
        assert log.sites("icu", digest="d" * 64) == sorted(names)
        assert log.sites("icu", digest="e" * 64) == []
        marked = log.labelled_studies("icu", NOON, later)
        assert set(marked) == set(log.window_index("icu").study_hash)
        assert list(marked) == sorted(set(marked))
        assert len(marked) == 3
        assert len(log.labelled_studies("icu", later)) == 0
        hashed = log.hash_id("study of süd")
        assert log.window_index("icu", site="süd").study_hash == [hashed.encode()]
        assert list(log.labelled_studies("icu", site="süd")) == [hashed.encode()]
        assert [o.study_hash for o in log.read_outcomes([hashed, "another"])] == [hashed]
        assert log.read_outcomes([]) == []
        assert [e.site for e in log.read_events("icu", site="süd")] == ["süd"]
        (hour,) = log.service_counts("icu", site="süd")
        assert (hour.records, hour.events) == (1, {"rejected_image": 1})


def test_a_database_of_no_encoding_takes_text_of_any_language(postgresql, answer):
    """As `initdb` makes one where no locale is set."""
    engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(
            text("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        )
        try:
            with PredictionLog(postgresql.replace("/log?", "/plain?"), SECRET, site="süd") as log:
                log.append(answer())
                assert log.sites("icu") == ["süd"]
        finally:
            connection.execute(text("DROP DATABASE plain WITH (FORCE)"))
    engine.dispose()


@pytest.mark.parametrize("site", ["a" * 65, "a\nb"])
def test_a_site_that_cannot_be_shown_is_refused(url, site):
    with pytest.raises(LogError, match="site"):
        PredictionLog(url, SECRET, site=site)


def test_what_is_sent_twice_is_kept_once_as_it_first_was(log, database, answer):
    record = log.append(answer())
    changed = record.model_copy(update={"model": "another"})
    other = record.model_copy(update={"record_id": "other"})
    log.add_records([changed, other, other])
    assert log.read_window("icu") == [record, other]
    first = Outcome(study_hash="s", finding="icu", label=1, recorded_at=NOON, comment="sure")
    for _ in range(2):
        assert log.add_outcomes([first, first]) == 2
    engine = create_engine(database)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM outcomes")) == 1
    engine.dispose()
    assert log.read_outcomes() == [first]


def test_several_records_are_kept_all_or_none(log, answer):
    record = log.append(answer())
    fresh = record.model_copy(update={"record_id": "fresh"})
    bad = record.model_copy(update={"record_id": "bad", "task": None})
    with pytest.raises(LogError, match=r"(?i)not[ -]null"):
        log.add_records([fresh, bad])
    assert log.read_window("icu") == [record]


def test_a_file_taken_away_is_noticed_and_not_written_to_in_its_grave(sqlite_log, file, answer):
    sqlite_log.append(answer())
    file.unlink()
    with pytest.raises(LogError, match="removed or replaced"):
        sqlite_log.append(answer())


def test_threads_lose_no_record(log, answer):
    def write():
        for _ in range(10):
            log.append(answer())

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.read_window("icu")) == 40


def test_processes_that_start_at_once_share_the_log_and_its_secret(url):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import answer
from cxr_mm.prediction_log import open_log
with open_log({url!r}) as log:
    for _ in range(20):
        log.append(answer())
"""
    environment = {k: v for k, v in os.environ.items() if k != SECRET_VARIABLE}
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    with PredictionLog(url, None, create=False) as log:
        records = log.read_window("icu")
    assert len(records) == 40
    assert len({r.study_hash for r in records}) == 1


def test_secret_file_is_made_once_for_its_owner_alone(url, tmp_path, monkeypatch):
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    first = find_secret(url)
    path = tmp_path / "log" / "predictions.db.secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(first) >= 32
    assert find_secret(url) == first
    path.chmod(0o644)
    with pytest.raises(LogError, match="others can read it"):
        find_secret(url)
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    assert find_secret(url) == SECRET.encode()


def test_another_secret_is_noticed(log, database, answer):
    with pytest.raises(LogError, match="another secret"):
        PredictionLog(database, SECRET + "!")
    with (
        PredictionLog(database, None) as reader,
        pytest.raises(LogError, match="without its secret"),
    ):
        reader.append(answer())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("predictions.db", "not a database URL"),
        ("sqlite://", "in memory keeps nothing"),
        ("nosuch://host/db", "driver"),
        ("sqlite:////proc/none/predictions.db", "/proc/none"),
    ],
)
def test_bad_url_is_one_clear_line(bad, said):
    with pytest.raises(LogError, match=said) as caught:
        PredictionLog(bad, SECRET)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "notes.db"
    file.write_text("these are my notes, not a database " * 50)
    before = file.read_bytes()
    with pytest.raises(LogError, match="not a database"):
        PredictionLog(f"sqlite:///{file}", SECRET)
    assert file.read_bytes() == before


def test_reading_makes_no_log(url, tmp_path):
    with pytest.raises(LogError, match="no such file"):
        open_log(url, create=False)
    assert list(tmp_path.iterdir()) == []


def test_log_that_lacks_a_column_is_refused(log, database):
    log.close()
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE predictions DROP COLUMN view"))
    engine.dispose()
    with pytest.raises(LogError, match=r"lacks predictions\.view"):
        PredictionLog(database, SECRET)


def test_log_of_another_version_is_refused(log, database):
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE log_about SET value = '0' WHERE name = 'version'"))
    engine.dispose()
    with pytest.raises(LogError, match="version 0"):
        PredictionLog(database, SECRET)


def test_events_come_back_by_task_and_time(log, refusal):
    first, second, elsewhere = (
        refusal(),
        refusal(created_at=NOON + timedelta(hours=1), kind="bad_input", field="age"),
        refusal(task="covid"),
    )
    assert log.add_events([second, first, elsewhere, first]) == 4
    assert log.read_events("icu") == [first, second]
    assert log.read_events("icu", until=NOON + timedelta(hours=1)) == [first]


def test_nothing_is_written_without_the_secret(log, database, outcome, refusal):
    with PredictionLog(database, None) as reader:
        for write in (
            lambda: reader.add_outcomes([outcome()]),
            lambda: reader.add_events([refusal()]),
        ):
            with pytest.raises(LogError, match="without its secret"):
                write()
    assert log.read_outcomes() == []
