"""Hospitals: the log of the benchmark is a log, and is as large as it says."""

from datetime import timedelta

import pytest
from sqlalchemy import create_engine

from benchmarks.monitoring.hospitals import (
    DIGEST,
    EARLY,
    LABELLED,
    OTHER,
    SECRET,
    SITES,
    Size,
    _fill,
    _prepare,
)
from benchmarks.monitoring.scale import START, synthetic_records, wide_task
from cxr_mm.prediction_log import PredictionLog

SIZE = Size(records=4000, days=40, contents=50)


@pytest.fixture
def log(postgresql):
    with PredictionLog(postgresql, SECRET) as opened:
        opened.add_records(synthetic_records(SIZE.contents, 1, wide_task(3), 4))
        engine = create_engine(postgresql)
        _prepare(engine, SIZE)
        early = round(EARLY * SIZE.days)
        for days in (range(early), range(early, SIZE.days)):
            _fill(engine, SIZE, days)
        engine.dispose()
        yield opened


def test_days_sites_and_models_have_an_equal_part_and_some_have_labels(log):
    day = START + 39 * timedelta(days=1), START + 40 * timedelta(days=1)
    assert len(log.window_index("wide")) == SIZE.records
    index = log.window_index("wide", *day, digest=DIGEST)
    assert len(index) == 50
    assert index.others == {OTHER: 50}
    names = [f"hospital {number}" for number in range(SITES)]
    assert log.sites("wide", *day) == names
    assert {len(log.window_index("wide", *day, site=name)) for name in names} == {10}
    (first, *_) = log.read_positions(index.position)
    assert len(first.clinical) == 3
    assert len({r.record_id for r in log.read_window("wide")}) == SIZE.records
    labelled = log.labelled_studies("wide")
    assert len(labelled) == SIZE.records // LABELLED
    assert set(labelled) & set(log.window_index("wide", digest=DIGEST).study_hash)
