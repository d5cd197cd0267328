"""Prediction table: predictions become rows and are read back, whoever writes them."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cxr_mm.core.study import Study
from cxr_mm.data.studies import BadRow
from cxr_mm.inference import table as tables
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.inference.table import VALUES, PredictionTable, answer_in_batches
from cxr_mm.models.decision import decide

NOISE = np.random.default_rng(0).random((80, 64), dtype=np.float32)


@pytest.fixture(scope="module")
def predictor(bundle_folder):
    return load_predictor(bundle_folder)


@pytest.fixture
def codec(predictor):
    return PredictionTable(predictor.bundle.task.finding_names)


def test_a_row_is_read_back_as_it_was_predicted(predictor, codec):
    prediction = predictor.predict(Study("s", note="fever"))
    row = pd.DataFrame([codec.row(prediction)]).iloc[0]
    for value in VALUES:
        expected = {f.finding: getattr(f, value) for f in prediction.findings}
        assert codec.read(row, value) == expected


def test_a_row_fits_the_schema(predictor, codec):
    row = codec.row(predictor.predict(Study("s", note="fever"))) | {"patient_id": "p"}
    schema = codec.schema(patient_id=pa.string())
    assert set(schema.names) == set(row)
    assert pa.Table.from_pylist([row], schema=schema).to_pylist() == [row]


def test_arrays_of_many_studies_are_the_rows_of_each(predictor, codec):
    studies = [Study("s", note="fever"), Study("t", note="cough")]
    predictions = [predictor.predict(study) for study in studies]
    chances = np.array([[f.probability for f in p.findings] for p in predictions])
    bundle = predictor.bundle
    points = [bundle.operating_point(name, ("note",)) for name in codec.findings]
    decided = decide(bundle.task.problem, chances, [points] * 2, [bundle.bounds(("note",))] * 2)
    columns = pd.DataFrame(codec.arrays(chances, decided))
    pd.testing.assert_frame_equal(
        columns, codec.frame(codec.values(p) for p in predictions), check_dtype=False
    )


def test_a_missing_threshold_is_not_a_number_in_a_frame():
    codec = PredictionTable(("covid",))
    rows = [dict.fromkeys(codec.columns)]
    assert codec.frame(rows)["threshold.covid"].dtype == np.float64
    assert codec.read(rows[0], "threshold") == {}
    assert codec.frame([]).empty


def test_batches_keep_the_order_and_put_errors_in_their_place(predictor, monkeypatch):
    monkeypatch.setattr(tables, "BATCH", 2)
    items = [
        Study("a", note="fever"),
        BadRow("b", "it cannot be read"),
        Study("c", image=NOISE),
        Study("d", note=" "),
        Study("e", note="cough"),
    ]
    results = list(answer_in_batches(predictor, iter(items)))
    assert [isinstance(r, BadRow) for r in results] == [False, True, True, True, False]
    assert results[1] == items[1]
    assert "frontal chest radiograph" in results[2].reason
    assert "nothing in it" in results[3].reason
    assert [results[k].prediction.study_id for k in (0, 4)] == ["a", "e"]
