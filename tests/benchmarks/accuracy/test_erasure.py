"""Part `erasure`: every setting has its figures, of the same studies."""

import pytest

from benchmarks.accuracy import erasure, input_gate, robustness
from benchmarks.accuracy.input_gate import Run
from benchmarks.accuracy.robustness import Sample


@pytest.fixture
def rows(pipeline, monkeypatch):
    """Rows of two settings on the small pipeline, as if it were the shipped task's."""
    monkeypatch.setattr(input_gate, "load_task", lambda name: pipeline.task)
    monkeypatch.setattr(input_gate, "load_params", lambda: pipeline.params)
    monkeypatch.setattr(robustness, "EACH", 8)
    monkeypatch.setattr(erasure, "PROBE_FOLDS", 2)
    monkeypatch.setattr(erasure, "SETTINGS", (((), 1.0), (("quality",), 1.0)))
    return list(erasure.measure_task(Sample(Run(pipeline.paths))))


def test_every_setting_has_its_figures_and_its_bounds(rows):
    metrics = [
        "auc",
        "auc within like quality",
        "auc of the sample as stored",
        "auc of the sample at 64 pixels",
    ]
    assert [(row.row, row.metric) for row in rows] == [
        (name, metric) for name in ("nothing erased", "quality, strength 1") for metric in metrics
    ]
    assert [row.must for row in rows] == 2 * [0.90, 0.86, None, None]
    assert all(0 <= row.value <= 1 for row in rows)
    values = {(row.row, row.metric): row.value for row in rows}
    assert values["nothing erased", "auc"] != values["quality, strength 1", "auc"]
