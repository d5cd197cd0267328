"""Export: a Parquet file says what the records say, and is there whole or not at all."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest

from cxr_mm.core.errors import StorageError
from cxr_mm.prediction_log import PredictionLog, erase_patient
from cxr_mm.prediction_log.export import export_window

SECRET = "a secret that is long enough"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def log(database):
    with PredictionLog(database, SECRET) as opened:
        yield opened


def test_a_row_holds_what_its_record_holds(log, answer, tmp_path):
    record = log.append(answer())
    file = tmp_path / "export" / "window.parquet"
    assert export_window(log, "icu", file) == 1
    (row,) = pq.read_table(file).to_pylist()
    assert row.pop("created_at") == record.created_at
    assert np.array_equal(row.pop("image_embedding"), record.image_embedding)
    assert row == {
        "record_id": record.record_id,
        "task": "icu",
        "model": "icu",
        "digest": "d" * 64,
        "study_hash": record.study_hash,
        "patient_hash": record.patient_hash,
        "modalities": "image+note",
        "view": "AP",
        "latency_ms": 12.5,
        "source": "",
        "site": "",
        "clinical.age": 61.0,
        "clinical.sex": "F",
        "clinical.crp": None,
        "quality.exposure": 0.4,
        "probability.icu": 0.7,
        "positive.icu": True,
        "certainty.icu": "uncertain",
        "note.words": 3.0,
        "share.icu.image": 0.1,
        "share.icu.note": -0.2,
        "note_embedding": None,
    }


def test_columns_are_those_of_every_record_and_mixed_values_become_text(log, answer, tmp_path):
    base = log.record(answer())
    values = [{"age": 61.0}, {"ward": "A", "age": None}, {"ward": 7.0}]
    records = [
        base.model_copy(update={"record_id": f"{n}", "clinical": clinical})
        for n, clinical in enumerate(values)
    ]
    log.add_records(records)
    export_window(log, "icu", tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["clinical.age"].to_pylist() == [61.0, None, None]
    assert table["clinical.ward"].to_pylist() == [None, "A", "7.0"]


def test_the_window_and_what_was_erased_decide_which_rows_there_are(log, answer, tmp_path):
    base = [log.record(answer(f"{n}", f"p{n}")) for n in range(4)]
    log.add_records(
        r.model_copy(update={"created_at": NOON + timedelta(hours=n)}) for n, r in enumerate(base)
    )
    erase_patient(log, "p2")
    file = tmp_path / "x.parquet"
    since, until = NOON + timedelta(hours=1), NOON + timedelta(hours=4)
    assert export_window(log, "icu", file, since, until, embeddings=False) == 2
    table = pq.read_table(file)
    assert table["record_id"].to_pylist() == [base[1].record_id, base[3].record_id]
    assert not {"image_embedding", "note_embedding"} & set(table.column_names)


def test_an_empty_window_gives_a_file_without_rows(log, tmp_path):
    assert export_window(log, "icu", tmp_path / "x.parquet") == 0
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0


def test_where_it_fails_the_file_stays_as_it_was(log, answer, tmp_path, full_disk):
    base = log.record(answer()).model_copy(update={"image_embedding": tuple(np.random.rand(9999))})
    log.add_records([base])
    file = tmp_path / "x.parquet"
    file.write_text("the former one")
    with full_disk(8192), pytest.raises(StorageError, match=r"x\.parquet"):
        export_window(log, "icu", file)
    assert file.read_text() == "the former one"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
