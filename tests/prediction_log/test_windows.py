"""Windows in numbers: the same as the records say, and without reading the rows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import create_engine, inspect

from cxr_mm.prediction_log import PredictionLog
from cxr_mm.prediction_log.schema import PREDICTIONS
from cxr_mm.prediction_log.windows import index_query, latency_query

SECRET = "a secret that is long enough"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def log(database):
    with PredictionLog(database, SECRET) as opened:
        yield opened


@pytest.fixture
def records(log, answer):
    """Ten records, half an hour apart, written in no order; each third by another model."""
    base = log.record(answer())
    created = [
        base.model_copy(
            update={
                "record_id": f"{n}",
                "created_at": NOON + n * HOUR / 2,
                "study_hash": log.hash_id(f"{n}"),
                "digest": "ef"[n % 3 == 2] * 64,
                "latency_ms": None if n == 0 else float(n),
            }
        )
        for n in range(10)
    ]
    log.add_records([created[n] for n in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)])
    return created


def test_the_index_names_the_records_of_a_window_in_order_of_time(log, records):
    index = log.window_index("icu", NOON + HOUR, NOON + 4 * HOUR)
    wanted = records[2:8]
    assert len(index) == 6
    assert list(log.read_positions(index.position)) == wanted
    assert index.created_at.dtype == "datetime64[us]"
    assert [at.replace(tzinfo=UTC) for at in index.created_at.tolist()] == [
        r.created_at for r in wanted
    ]
    assert index.study_hash.tolist() == [r.study_hash.encode() for r in wanted]
    assert index.others == {}
    assert len(log.window_index("covid")) == 0


def test_the_index_of_one_digest_counts_the_others(log, records):
    index = log.window_index("icu", digest="e" * 64)
    assert list(log.read_positions(index.position)) == [r for r in records if r.digest[0] == "e"]
    assert index.others == {"f" * 64: 3}


def test_positions_are_read_in_the_order_given_and_without_embeddings_if_not_wanted(log, records):
    position = log.window_index("icu").position
    assert list(log.read_positions(position[[7, 0, 3]])) == [records[k] for k in (7, 0, 3)]
    (raw,) = log.read_positions(position[:1], embeddings=False)
    assert raw == records[0].model_copy(update={"image_embedding": None})


def test_the_service_is_counted_by_the_hour(log, records, refusal):
    log.add_events(
        [refusal(), refusal(), refusal(kind="failure"), refusal(created_at=NOON + 9 * HOUR)]
    )
    first, second, *_, last = log.service_counts("icu")
    assert (first.start, first.records) == (NOON, 2)
    assert first.events == {"failure": 1, "rejected_image": 2}
    assert first.latency_mean == first.latency_p95 == 1
    assert (second.start, second.records, second.events) == (NOON + HOUR, 2, {})
    assert second.latency_mean == 2.5
    assert second.latency_p95 == pytest.approx(np.percentile([2, 3], 95))
    assert (last.start, last.records, last.events) == (NOON + 9 * HOUR, 0, {"rejected_image": 1})
    assert last.latency_mean is None


def test_the_service_is_counted_of_one_digest_and_window(log, records, refusal):
    log.add_events([refusal(digest="f" * 64), refusal()])
    counts = log.service_counts("icu", until=NOON + 2 * HOUR, digest="f" * 64)
    assert [(count.start, count.records) for count in counts] == [
        (NOON, 0),
        (NOON + HOUR, 1),
    ]
    assert counts[0].events == {"rejected_image": 1}
    assert log.service_counts("covid") == []


@pytest.mark.parametrize("query", [index_query(), latency_query("d")])
def test_a_window_is_counted_within_its_index_and_needs_no_sorting(url, query):
    PredictionLog(url, SECRET).close()
    engine = create_engine(url)
    query = query.where(PREDICTIONS.c.task == "icu", PREDICTIONS.c.created_at >= NOON)
    result = query.compile(engine, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {result}").all()
    engine.dispose()
    assert len(plan) == 1
    assert "USING COVERING INDEX predictions_by_time" in plan[0].detail


def test_embeddings_lie_at_the_end_of_the_row(url):
    PredictionLog(url, SECRET).close()
    engine = create_engine(url)
    columns = [column["name"] for column in inspect(engine).get_columns("predictions")]
    engine.dispose()
    assert columns[-2:] == ["image_embedding", "note_embedding"]
