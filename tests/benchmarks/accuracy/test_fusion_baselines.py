"""Baselines: they learn, never meet a NaN they cannot take, and differ in what they fill."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.accuracy.fusion import (
    LEARN,
    baseline,
    gradient_boosting,
    mean_imputation,
    zero_filling,
)
from cxr_mm.core.types import AVAILABLE, MODALITIES, subset_name, subsets
from cxr_mm.data.split import Resample

PART = Resample(0, np.arange(60), np.arange(60, 80), np.arange(80, 120))


@pytest.mark.parametrize("name", LEARN)
def test_every_baseline_answers_every_subset_of_studies_that_have_it(studies, name):
    table = baseline(studies, PART, name)
    assert set(table["subset"]) == {AVAILABLE, *(subset_name(s) for s in subsets(MODALITIES))}
    assert set(table["study_id"]) == {f"s{n}" for n in PART.test}
    assert table["probability.icu"].between(0, 1).all()
    assert (table["subset"] == "note").sum() == 30
    full = table[table["subset"] == AVAILABLE]
    assert roc_auc_score(full["label.icu"], full["probability.icu"]) > 0.7


@pytest.mark.parametrize("name", LEARN)
def test_what_is_hidden_or_absent_cannot_be_read(studies, name):
    other = {m: rows.clone() for m, rows in studies.embeddings.items()}
    other["note"][::4] = 1e3
    other["image"][PART.test] = torch.randn(len(PART.test), 40)
    first, again = (baseline(s, PART, name) for s in (studies, replace(studies, embeddings=other)))
    same = first["subset"].isin(["note", "tabular", "tabular+note"])
    assert same.any()
    np.testing.assert_array_equal(first[same]["probability.icu"], again[same]["probability.icu"])


def test_a_study_without_a_label_is_not_learnt_from(studies):
    labels = studies.labels.clone()
    labels[0] = torch.nan
    assert len(baseline(replace(studies, labels=labels), PART, "zero filling"))


def blocks(there):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 200).astype(float)
    note = 30 + 0.5 * rng.normal(size=(200, 3)) + labels[:, None]
    note[~there] = np.nan
    return {"image": rng.normal(size=(200, 2)), "note": note}, labels


@pytest.mark.parametrize("learn", [zero_filling, mean_imputation, gradient_boosting])
def test_absent_means_what_the_baseline_takes_it_for(learn):
    present = np.arange(200) % 5 > 0
    given, labels = blocks(present)
    groups = np.array([f"p{n}" for n in range(200)], dtype=object)
    answer = learn(given, labels, groups)
    rows = {m: v[present][:1] for m, v in given.items()}
    fill = {zero_filling: 0.0, mean_imputation: np.nanmean(given["note"], axis=0)}
    absent = {**rows, "note": np.full((1, 3), np.nan)}
    assert 0 <= answer(absent)[0] <= 1
    if learn in fill:
        filled = {**rows, "note": np.full((1, 3), 1.0) * fill[learn]}
        assert answer(absent)[0] == pytest.approx(answer(filled)[0])
