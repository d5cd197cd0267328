"""Records → table, the same for reference and current."""

import numpy as np
import pytest

from cxr_mm.core.errors import StageError
from monitoring.table import newest_per_study, records_table, watched_columns


def table_of(records, frozen, outcomes=()):
    return records_table(records, frozen.task, frozen.quality, frozen.projections, outcomes)


def test_reference_and_current_have_the_same_columns(frozen, make):
    records, outcomes = make(5, seed=1)
    current = table_of(records, frozen, outcomes)
    assert list(current.columns) == list(frozen.table.columns)
    for column in frozen.columns:
        expected = "number" if current[column.name].dtype == float else "category"
        assert column.kind == expected


def test_values_land_in_their_columns(frozen, make):
    records, outcomes = make(8, seed=2, note=0.5)
    table = table_of(records, frozen, outcomes[:3])
    for i, record in enumerate(records):
        row = table.iloc[i]
        assert row["clinical.age"] == record.clinical["age"]
        assert np.isnan(row["clinical.crp"]) == (record.clinical["crp"] is None)
        assert row["has.note"] == ("yes" if "note" in record.modalities else "no")
        assert np.isnan(row["note_pc.0"]) == (record.note_embedding is None)
        assert row["probability.pneumonia"] == record.probabilities["pneumonia"]
    assert table["label.pneumonia"].notna().sum() == 3
    assert len(watched_columns(frozen.task, frozen.quality, frozen.projections)) == 29


def test_embedding_of_another_width_is_refused(frozen, make):
    record = make(1, seed=3)[0][0].model_copy(update={"image_embedding": (0.0,) * 7})
    with pytest.raises(StageError, match="7 numbers, the reference of 40"):
        table_of([record], frozen)


def test_newest_of_a_study_counts(frozen, make):
    records, _ = make(3, seed=4)
    again = records[2].model_copy(update={"study_hash": records[0].study_hash})
    table = newest_per_study(table_of([again, *records[:2]], frozen))
    assert len(table) == 2
    assert table["created_at"].max() == again.created_at
