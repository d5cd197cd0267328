"""Part `robustness`: every kind and level has its rows, by models of other patients."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import input_gate, robustness
from benchmarks.accuracy.input_gate import Run
from benchmarks.accuracy.robustness import TABLE, Sample
from cxr_mm.data.split import load_split, resamples
from cxr_mm.imaging.corruptions import CORRUPTIONS, LEVELS


@pytest.fixture
def sample(pipeline, monkeypatch):
    """The small pipeline, as if it were the shipped task's; of corruptions only two kinds."""
    monkeypatch.setattr(input_gate, "load_task", lambda name: pipeline.task)
    monkeypatch.setattr(input_gate, "load_params", lambda: pipeline.params)
    monkeypatch.setattr(robustness, "EACH", 8)
    kinds = {kind: CORRUPTIONS[kind] for kind in ("resolution", "noise")}
    monkeypatch.setattr(robustness, "CORRUPTIONS", kinds)
    return Sample(Run(pipeline.paths))


def test_the_sample_is_of_held_out_studies_with_either_answer(sample, pipeline):
    test = set(resamples(load_split(pipeline.paths))[0].test)
    assert set(sample.rows) <= test
    labels = sample.run.manifest.labels()[sample.rows, 0]
    assert 0 < labels.sum() <= 8
    assert 0 < (labels == 0).sum() <= 8
    assert (sample.pixel_rows[sample.rows] >= 0).all()


def test_every_level_has_its_figures_and_the_limits_their_rows(sample):
    rows = list(robustness._measured(sample))
    wide = {row.row for row in rows if row.table == TABLE}
    assert wide == {"as stored"} | {
        f"{k}, level {n}" for k in ("resolution", "noise") for n in LEVELS
    }
    limits = {(row.row, row.metric): row.must for row in rows if not row.table}
    assert limits == {
        ("resolution, level 3", "auc lost"): 0.08,
        ("noise, level 3", "auc lost"): 0.08,
        ("stored at 64 pixels", "auc lost"): 0.05,
        ("stored at 64 pixels", "rejected"): 0.05,
    }
    assert all(row.ceiling for row in rows if row.must)
    auc = {row.row: row.value for row in rows if row.table and row.metric == "auc"}
    lost = next(r.value for r in rows if (r.row, r.metric) == ("noise, level 3", "auc lost"))
    assert lost == pytest.approx(auc["as stored"] - auc["noise, level 3"], abs=1e-6)


def test_a_model_answers_as_stored_what_it_gave_as_held_out(sample, pipeline):
    table = pd.read_parquet(pipeline.paths.heldout)
    table = table[table["subset"] == "image"].set_index("study_id")
    ids = sample.run.manifest.frame["study_id"].iloc[sample.rows]
    clean = sample.answer(sample.run.embeddings[sample.pixel_rows[sample.rows]])
    finding = pipeline.task.finding_names[0]
    expected = table.loc[ids, f"probability.{finding}"].to_numpy()
    np.testing.assert_allclose(clean.scored.probabilities, expected, atol=1e-3)
