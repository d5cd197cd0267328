"""Many processes and a database that goes away: what was reported as stored is there."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log import PredictionLog, SpooledLog, erase_patient, verify
from cxr_mm.prediction_log.chain import locked_head
from cxr_mm.prediction_log.schema import PREDICTIONS

SECRET = "a secret that is long enough"
WRITERS, KILLED, SECONDS = 5, 2, 90


@contextmanager
def writers(database, folder, count, kind):
    """Processes that append until they are ended, and report each record that they stored."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import answer, outcome
from cxr_mm.prediction_log import PredictionLog, SpooledLog
log = {kind}
while True:
    record = log.append(answer())
    log.add_outcomes([outcome(record.study_hash)])
    print(record.record_id, flush=True)
"""
    message = [folder / f"stored{number}" for number in range(count)]
    streams = [path.open("w") for path in message]
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=out) for out in streams]
    try:
        yield processes, message
    finally:
        for process, stream in zip(processes, streams, strict=True):
            process.kill()
            process.wait()
            stream.close()


def lines(path):
    return len(path.read_bytes().splitlines())


def test_writers_some_of_them_killed_lose_nothing_they_reported(database, tmp_path, until):
    kind = f"PredictionLog({database!r}, {SECRET!r})"
    with writers(database, tmp_path, WRITERS, kind) as (processes, message):
        until(lambda: all(lines(path) for path in message), SECONDS)
        for process in processes[:KILLED]:
            process.kill()
        seen = [lines(path) for path in message[KILLED:]]
        until(
            lambda: all(lines(p) > n + 2 for p, n in zip(message[KILLED:], seen, strict=True)),
            SECONDS,
        )
        assert all(process.poll() is None for process in processes[KILLED:])
    ids = [line for path in message for line in path.read_text().split()]
    with PredictionLog(database, SECRET, create=False) as log:
        found = [record.record_id for record in log.read_window("icu")]
        verified = verify(log)
    assert set(ids) <= set(found)
    # Of each process, one more may have been stored than it reported.
    assert len(found) == len(set(found)) <= len(ids) + WRITERS
    assert verified.first_break is None
    assert verified.rows["predictions"] == len(found)


def test_a_database_that_goes_away_is_reported_and_used_again_when_it_is_back(
    postgresql, cluster, answer
):
    with PredictionLog(postgresql, SECRET) as log:
        first = log.append(answer())
        cluster.stop()
        with pytest.raises(LogError):
            log.append(answer())
        cluster.start()
        second = log.append(answer())
        assert log.read_window("icu") == [first, second]
        assert verify(log).first_break is None


def test_what_comes_while_the_database_is_away_waits_and_comes_in(
    postgresql, cluster, answer, outcome, refusal, until, tmp_path
):
    folder = tmp_path / "spool"
    with SpooledLog(postgresql, SECRET, folder=folder, wait=1, retry=0.05) as log:
        first = log.append(answer())
        cluster.stop()
        second = log.append(answer())
        log.add_outcomes([outcome()])
        log.add_events([refusal()])
        assert log.waiting == 3
        assert "wait on disk" in log.trouble
        cluster.start()
        until(lambda: log.waiting == 0 and log.trouble == "")
        assert log.read_window("icu") == [first, second]
        assert log.read_outcomes() == [outcome(outcome_id=log.read_outcomes()[0].outcome_id)]
        assert len(log.read_events("icu")) == 1
        assert verify(log).first_break is None


def test_writers_with_a_spool_outlive_a_database_that_is_killed_and_are_killed_themselves(
    postgresql, cluster, tmp_path, until
):
    folder = tmp_path / "spool"
    how = f"from pathlib import Path; log = SpooledLog({postgresql!r}, {SECRET!r}, wait=1,"
    kind = f"None; {how} retry=0.05, folder=Path({str(folder)!r}))"
    with writers(postgresql, tmp_path, 3, kind) as (processes, message):
        until(lambda: all(lines(path) for path in message), SECONDS)
        cluster.stop()
        seen = [lines(path) for path in message]
        until(lambda: all(lines(p) > n + 3 for p, n in zip(message, seen, strict=True)), SECONDS)
        processes[0].kill()
        cluster.start()
        seen = lines(message[1])
        until(lambda: lines(message[1]) > seen + 3, SECONDS)
    ids = [line for path in message for line in path.read_text().split()]
    with SpooledLog(postgresql, SECRET, folder=folder, retry=0.05) as log:
        until(lambda: log.waiting == 0 and log.trouble == "", SECONDS)
        found = [record.record_id for record in log.read_window("icu")]
        assert set(ids) <= set(found)
        assert len(found) == len(set(found))
        assert verify(log).first_break is None


def test_a_writer_that_holds_the_chain_is_not_waited_for_without_end(postgresql, answer):
    with (
        PredictionLog(postgresql, SECRET) as holder,
        PredictionLog(postgresql, SECRET, wait=0.2) as log,
        holder.writing() as connection,
    ):
        locked_head(connection, PREDICTIONS)
        with pytest.raises(LogError, match="lock timeout"):
            log.append(answer())


def test_a_role_that_may_only_add_is_enough_to_write(postgresql, answer):
    with PredictionLog(postgresql, SECRET) as owner:
        engine = create_engine(postgresql)
        with engine.begin() as connection:
            for statement in (
                "CREATE ROLE page LOGIN",
                "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO page",
                "GRANT UPDATE ON chain_heads TO page",
            ):
                connection.execute(text(statement))
        with PredictionLog(postgresql.replace("postgres@", "page@"), SECRET) as log:
            record = log.append(answer("1", "p"))
            with pytest.raises(LogError, match="permission denied"):
                erase_patient(log, "p")
        assert owner.read_window("icu") == [record]
        assert verify(owner).first_break is None
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY page"))
            connection.execute(text("DROP ROLE page"))
        engine.dispose()
