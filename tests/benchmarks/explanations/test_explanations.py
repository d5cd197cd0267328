"""Explanations measured: the stock calls run on a real bundle, and rows hold what was found."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.accuracy.burnt_in_text import word_strokes
from benchmarks.explanations import degradation
from benchmarks.explanations.faithfulness import rows_of
from benchmarks.explanations.localisation import word_areas
from benchmarks.explanations.speed import Stock
from cxr_mm.core.study import Study
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.stage import open_outputs
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import load_bundle

FIGURE = {"value": 0.31, "low": 0.2, "high": 0.4}


def test_the_stock_call_asks_the_very_model(bundle_folder):
    bundle = load_bundle(bundle_folder)
    image = np.random.default_rng(0).random((90, 90), dtype=np.float32)
    subject = Subject(bundle, Study("s", image=image, note="Fever."))
    stock = Stock(subject, Target("effusion"))
    column = bundle.task.finding_names.index("effusion")
    assert stock.image.shape == (bundle.size, bundle.size, 3)
    logits = stock.logits(np.stack([stock.image, stock.image]))
    np.testing.assert_allclose(logits, subject.logits[column], atol=1e-3)


def test_a_figure_that_falls_with_every_step_ranks_the_shares(bundle_folder):
    bundle, image = load_bundle(bundle_folder), np.random.default_rng(0).random((90, 90))
    note = "Fever and cough. Dull to percussion. No pleural effusion."
    clinical = {"age": 71.0, "temperature": 38.9}
    study = Study("s", image=image.astype(np.float32), clinical=clinical, note=note)
    rows = degradation.rows_of(
        "synthetic", degradation.figures_of(bundle, [(study, Target("effusion"))])
    )
    assert len(rows) == 4 * 3 * 6
    by_row = {}
    for row in rows:
        by_row.setdefault(row.row, {})[row.metric] = row
    for metrics in by_row.values():
        ranked = metrics.pop("rank correlation")
        values = [row.value for row in metrics.values()]
        falls = all(more > less for more, less in pairwise(values))
        assert (ranked.value == pytest.approx(1)) == falls
        assert ranked.must == 0.95


def test_only_findings_that_the_bundle_has_learnt_are_explained(pipeline, monkeypatch):
    _, heldout, studies = open_outputs(pipeline.task, pipeline.paths)
    learnt = pipeline.task.finding_names[-1:]
    bundle = SimpleNamespace(task=SimpleNamespace(finding_names=learnt))
    monkeypatch.setattr(degradation, "load_task", lambda name: pipeline.task)
    monkeypatch.setattr(degradation, "open_outputs", lambda *given: (bundle, heldout, studies))
    _, cases = degradation._cases(pipeline.paths)
    assert {target.finding for _, target in cases} == set(learnt)


def test_each_figure_is_a_row_with_its_interval():
    method = {
        "modality": "image",
        "n": 9,
        **dict.fromkeys(("gain", "noise"), FIGURE),
        "randomised": {"fusion": FIGURE, "all": {**FIGURE, "value": 0.25}},
    }
    areas = dict.fromkeys(("energy", "pointing", "iou", "gain"), FIGURE)
    found = {
        "methods": {"grad_cam": method},
        "localisation": {"effusion": {"grad_cam": {"n": 30, **areas}}},
    }
    rows = {(row.table, row.metric): row for row in rows_of("synthetic", found)}
    gain = rows["", "gain"]
    assert (gain.value, gain.ci95, gain.n) == (0.31, (0.2, 0.4), 9)
    assert gain.p < 0.05
    assert rows["", "weights shuffled"].value == 0.25
    assert rows["faithfulness: in the true area", "energy"].n == 30
    assert ("", "seeds") not in rows


def test_words_are_areas_where_an_image_has_any():
    strokes = word_strokes((224, 224), 0.06, np.random.default_rng(0))
    images = {"plain": np.zeros_like(strokes), "words": strokes}
    studies = SimpleNamespace(
        has_image=lambda study_id: study_id != "note alone",
        study=lambda study_id, with_image: Study(study_id, image=images[study_id]),
    )
    areas = word_areas(studies, ["note alone", "plain", "words"], 224, 40)
    assert set(areas) == {"words"}
    assert areas["words"][strokes > 0.5].mean() > 0.8
    assert word_areas(studies, ["words", "words"], 224, 1).keys() == {"words"}


def test_a_figure_of_too_few_patients_has_no_interval():
    few = {"value": 0.5, "low": None, "high": None}
    method = {"modality": "note", "n": 9, "gain": few, "randomised": {}}
    (row,) = rows_of("synthetic", {"methods": {"lime_note": method}, "localisation": None})
    assert (row.value, row.ci95, row.n) == (0.5, None, 9)
