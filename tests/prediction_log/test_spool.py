"""SpooledLog: the database goes away in every way it can, and nothing is lost or kept twice."""

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cxr_mm.core.errors import LogError
from cxr_mm.core.record import Outcome
from cxr_mm.prediction_log import SpooledLog, open_spooled_log
from cxr_mm.prediction_log.spool import Spool, encoded, spool_folder

SECRET = "a secret that is long enough"
FAST = {"wait": 0.05, "retry": 0.05}


@pytest.fixture
def spool(url):
    return spool_folder(url)


@pytest.fixture
def log(url):
    with SpooledLog(url, SECRET, **FAST) as opened:
        yield opened


def outcome(log, **changes):
    values = {
        "study_hash": log.hash_id("study-0815"),
        "finding": "icu",
        "label": 1,
        "recorded_at": datetime(2026, 3, 1, tzinfo=UTC),
        "source": "feedback",
    }
    return Outcome(**(values | changes))


def stored(file):
    """Ids of the records in the database, in the order in which they came."""
    with closing(sqlite3.connect(file)) as database:
        rows = database.execute("SELECT record_id FROM predictions ORDER BY position").fetchall()
    return [row[0] for row in rows]


def well(log):
    return log.waiting == 0 and log.trouble == ""


def test_with_a_database_that_works_nothing_waits_and_nothing_is_said(log, file, spool, answer):
    record = log.append(answer())
    assert well(log)
    assert stored(file) == [record.record_id]
    assert list(spool.iterdir()) == []


def test_what_is_predicted_while_the_database_is_locked_comes_in_later_in_order(
    log, file, spool, locked, answer, until
):
    records = [log.append(answer())]
    with locked():
        records.append(log.append(answer()))
        records += log.append_many([answer("a"), answer("b")])
        assert log.waiting == 3
        assert "database is locked" in log.trouble
        assert "3 waiting" in log.trouble
        assert len(list(spool.glob("*.jsonl"))) >= 1
    until(lambda: well(log))
    assert stored(file) == [r.record_id for r in records]
    assert log.read_window("icu") == records
    assert list(spool.iterdir()) == []


def test_only_the_first_prediction_waits_for_the_database(url, locked, answer):
    with SpooledLog(url, SECRET, wait=1.5, retry=60) as log, locked():
        log.append(answer())
        start = time.monotonic()
        log.append(answer())
        assert time.monotonic() - start < 1
        assert log.waiting == 2


def test_feedback_waits_too_and_is_kept_once_however_often_it_is_sent(log, locked, until):
    given = outcome(log, comment="seen on CT")
    with locked():
        assert log.add_outcomes([given]) == 1
        log.add_outcomes([given])
        assert log.waiting == 2
    until(lambda: well(log))
    log.add_outcomes([given])
    assert log.read_outcomes() == [given]


def test_nothing_that_names_the_patient_reaches_the_spool(log, spool, locked, answer):
    with locked():
        log.append(answer())
        held = b"".join(p.read_bytes() for p in spool.iterdir())
    assert b"d" * 64 in held
    for secret in (b"study-0815", b"patient-4711", b"Dyspnoea", SECRET.encode()):
        assert secret not in held


def test_a_file_replaced_by_a_folder_is_written_again_when_it_is_back(log, file, answer, until):
    first = log.append(answer())
    aside = file.with_name("aside.db")
    file.rename(aside)
    file.mkdir()
    second = log.append(answer())
    assert log.waiting == 1
    until(lambda: "unable to open" in log.trouble)
    file.rmdir()
    aside.rename(file)
    until(lambda: well(log))
    assert stored(file) == [first.record_id, second.record_id]


def test_a_folder_that_was_removed_is_not_begun_anew_until_the_next_start(
    log, url, file, answer, until
):
    log.append(answer())
    shutil.rmtree(file.parent)
    second = log.append(answer())
    until(lambda: "no such file" in log.trouble)
    third = log.append(answer())
    assert not file.exists()
    log.close()
    with SpooledLog(url, SECRET, **FAST) as again:
        until(lambda: well(again))
    assert stored(file) == [second.record_id, third.record_id]


def test_a_database_away_at_the_start_is_made_when_it_can_be(url, file, answer, until):
    file.mkdir(parents=True)
    with SpooledLog(url, SECRET, **FAST) as log:
        assert "unable to open" in log.trouble
        record = log.append(answer())
        file.rmdir()
        until(lambda: well(log))
    assert stored(file) == [record.record_id]


def test_the_secret_is_found_without_the_database(url, file, monkeypatch, answer, until):
    monkeypatch.delenv("CXR_MM_LOG_SECRET", raising=False)
    with open_spooled_log(url) as log:
        first = log.append(answer())
    aside = file.rename(file.with_name("aside.db"))
    file.mkdir()
    with open_spooled_log(url) as log:
        second = log.append(answer())
        assert log.waiting == 1
    file.rmdir()
    aside.rename(file)
    with open_spooled_log(url) as log:
        until(lambda: well(log))
    assert stored(file) == [first.record_id, second.record_id]
    assert first.study_hash == second.study_hash


def test_a_log_that_is_wrong_and_not_away_is_refused_and_its_spool_left_free(url, log, spool):
    log.close()
    Path(spool / "1.jsonl").write_text("one")
    with pytest.raises(LogError, match="another secret"):
        SpooledLog(url, SECRET + "!")
    free = Spool(spool)
    assert free.waiting == 1
    free.close()


def test_lines_that_are_damaged_or_refused_are_set_aside_and_reported(
    url, file, spool, answer, until
):
    with SpooledLog(url, SECRET) as log:
        good, refused, last = (log.record(answer()) for _ in range(3))
    refused = refused.model_copy(update={"model": "refused"})
    with closing(sqlite3.connect(file)) as database:
        database.execute(
            "CREATE TRIGGER picky BEFORE INSERT ON predictions WHEN NEW.model = 'refused'"
            " BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    lines = [encoded(good), encoded(last)[:40], encoded(refused), encoded(last)]
    left = Spool(spool)
    left.append(lines)
    left.close()
    with SpooledLog(url, SECRET, **FAST) as log:
        until(lambda: log.waiting == 0)
        assert "set_aside.txt (2 since the start)" in log.trouble
        again = log.append(answer())
    assert stored(file) == [good.record_id, last.record_id, again.record_id]
    assert (spool / "set_aside.txt").read_bytes().splitlines() == lines[1:3]


def test_a_full_disk_is_reported_and_forgotten_when_there_is_room(
    log, file, answer, until, full_disk
):
    before = log.append(answer())
    with full_disk(1), pytest.raises(LogError, match="nor can the spool be written"):
        log.append(answer())
    assert log.waiting == 0
    after = log.append(answer())
    until(lambda: well(log))
    assert stored(file) == [before.record_id, after.record_id]


def test_what_waits_at_the_end_is_left_to_the_next_to_open_the_log(
    url, file, locked, answer, until
):
    log = SpooledLog(url, SECRET, **FAST)
    with locked():
        first = log.append(answer())
        log.close()
        second = log.append(answer())
    assert stored(file) == []
    log.close()
    with SpooledLog(url, SECRET, **FAST) as again:
        until(lambda: well(again))
    assert stored(file) == [first.record_id, second.record_id]


def test_two_logs_share_a_spool_without_losing_or_doubling(log, url, file, locked, answer, until):
    with SpooledLog(url, SECRET, **FAST) as other:
        with locked():
            records = [each.append(answer()) for _ in range(5) for each in (log, other)]
            assert (log.waiting, other.waiting) == (5, 5)
        until(lambda: well(log) and well(other))
    assert sorted(stored(file)) == sorted(r.record_id for r in records)


def test_processes_killed_at_any_moment_lose_and_double_nothing(url, file, locked, until, tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import answer
from cxr_mm.prediction_log import SpooledLog
log = SpooledLog({url!r}, {SECRET!r}, wait=0.02, retry=0.01)
while True:
    print(log.append(answer()).record_id, flush=True)
"""
    message = [tmp_path / f"stored{k}" for k in range(6)]
    SpooledLog(url, SECRET).close()
    for pair, moment in ((message[:2], 0.05), (message[2:4], 0.1), (message[4:], 0.15)):
        with pair[0].open("w") as one, pair[1].open("w") as two:
            started = [
                subprocess.Popen([sys.executable, "-c", code], stdout=out) for out in (one, two)
            ]
        until(lambda pair=pair: all(path.stat().st_size for path in pair), 60)
        for _ in range(3):
            with locked():
                time.sleep(0.2)
            time.sleep(moment)
        for process in started:
            process.kill()
            process.wait()
    with SpooledLog(url, SECRET, **FAST) as log:
        until(lambda: log.waiting == 0, 60)
    found, ids = stored(file), " ".join(path.read_text() for path in message).split()
    assert len(ids) > 60
    assert set(ids) <= set(found)
    # Of each process, one more may have been stored than it reported.
    assert len(found) == len(set(found)) <= len(ids) + len(message)


def test_a_spool_lies_beside_its_file_or_below_logs():
    assert spool_folder("sqlite:////data/x.db") == Path("/data/x.db.spool")
    found = spool_folder("postgresql://user:word@host:5432/db/../etc")
    assert found.parent == Path("logs")
    assert "word" not in found.name
