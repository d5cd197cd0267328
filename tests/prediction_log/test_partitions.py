"""Partitions of PostgreSQL: made ahead, read alone where a window is in one, and no row lost."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import create_engine, inspect, text

from cxr_mm.prediction_log import PredictionLog, erase_study, retain, verify
from cxr_mm.prediction_log.partitions import MONTHS_AHEAD, OTHER, keep_ahead, make_months

SECRET = "a secret that is long enough"


@pytest.fixture
def engine(postgresql):
    PredictionLog(postgresql, SECRET).close()
    made = create_engine(postgresql)
    yield made
    made.dispose()


def counts(engine):
    """Rows of each partition that has any."""
    query = "SELECT tableoid::regclass::text, count(*) FROM predictions GROUP BY 1"
    with engine.connect() as connection:
        return dict(connection.execute(text(query)).all())


def log_at(postgresql, moment):
    return PredictionLog(postgresql, SECRET, clock=lambda: moment)


def test_months_are_made_ahead_and_rows_of_any_time_are_kept(engine, postgresql, answer):
    now, past = datetime.now(UTC), datetime(2020, 2, 29, 23, 59, tzinfo=UTC)
    months = [n for n in inspect(engine).get_table_names() if n.startswith("predictions_2")]
    assert len(months) == MONTHS_AHEAD + 1
    with log_at(postgresql, now) as log:
        log.append(answer())
    with log_at(postgresql, past) as log:
        first = log.append(answer())
        assert counts(engine) == {f"predictions_{now:%Y_%m}": 1, OTHER: 1}
        assert log.read_window("icu", until=past + timedelta(days=1)) == [first]
        assert len(log.read_window("icu")) == 2
        assert verify(log).first_break is None


def test_a_month_whose_rows_are_there_already_stays_where_it_is(engine, postgresql, answer):
    past = datetime(2020, 12, 31, tzinfo=UTC)
    with log_at(postgresql, past) as log:
        log.append(answer())
    with engine.begin() as connection:
        make_months(connection, past, 1)
    names = inspect(engine).get_table_names()
    assert "predictions_2021_01" in names
    assert "predictions_2020_12" not in names
    assert counts(engine) == {OTHER: 1}


def test_a_window_is_read_from_its_month_alone(engine, postgresql):
    query = "EXPLAIN SELECT position FROM predictions WHERE task = 'icu' AND created_at >= '{}'"
    query = f"{query} AND created_at < '{{}}'"
    now = datetime.now(UTC)
    start = datetime(now.year, now.month, 1, tzinfo=UTC)
    with engine.connect() as connection:
        plan = connection.execute(text(query.format(start, start + timedelta(days=1)))).all()
    tables = {word for (line,) in plan for word in line.split() if word.startswith("predictions_2")}
    assert {name[:19] for name in tables} == {f"predictions_{start:%Y_%m}"}


def test_whoever_may_only_write_rows_opens_the_log_all_the_same(engine, postgresql, answer):
    month = f"predictions_{datetime.now(UTC):%Y_%m}"
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {month}"))
        for words in (
            "CREATE ROLE writer LOGIN",
            "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO writer",
            "GRANT UPDATE ON chain_heads TO writer",
        ):
            connection.execute(text(words))
    try:
        with PredictionLog(postgresql.replace("postgres@", "writer@"), SECRET) as log:
            log.append(answer())
        assert counts(engine) == {OTHER: 1}
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY writer"))
            connection.execute(text("DROP ROLE writer"))


def test_a_missing_month_is_made_when_the_log_is_opened_unless_others_are_reading(
    engine, postgresql
):
    month = f"predictions_{datetime.now(UTC):%Y_%m}"
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {month}"))
    with engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM predictions"))
        keep_ahead(engine)
        assert month not in inspect(reader).get_table_names()
    PredictionLog(postgresql, SECRET).close()
    assert month in inspect(engine).get_table_names()


def test_rows_of_several_months_are_erased_and_removed_in_a_whole_chain(engine, postgresql, answer):
    now = datetime.now(UTC)
    moments = [now - timedelta(days=800), now, now + timedelta(days=40)]
    for number, moment in enumerate(moments):
        with log_at(postgresql, moment) as log:
            log.append(answer(f"study {number}"))
    with log_at(postgresql, now) as log:
        assert erase_study(log, "study 2").predictions == 1
        assert retain(log, now - timedelta(days=1)).predictions == 1
        assert [r.study_hash for r in log.read_window("icu")] == [log.hash_id("study 1")]
        assert verify(log).first_break is None
