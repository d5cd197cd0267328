"""Fused models, specialists and late averaging: who sees what, and who is asked what."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.accuracy import fusion as fusion_models
from benchmarks.accuracy.fusion import averaged, fused, restricted, specialists
from cxr_mm.core.config import FuseParams
from cxr_mm.core.types import AVAILABLE, MODALITIES, subset_name, subsets
from cxr_mm.data.split import Resample

QUICK = FuseParams(inner_folds=2, epochs=20)
PART = Resample(0, np.arange(80), np.zeros(0, dtype=np.int64), np.arange(80, 120))
KEYS = ["study_id", "subset"]


def sure(table, subset):
    return table[table["subset"] == subset].set_index("study_id")["probability.icu"]


def test_the_restricted_have_no_trace_of_other_modalities(studies):
    alone = restricted(studies, ("tabular",))
    assert alone.task.modalities == ("tabular",)
    assert alone.embeddings == {}
    assert alone.mask.any(0).tolist() == [False, True, False]
    assert studies.mask.any(0).all()


@pytest.mark.parametrize("kind", ["late", "concat"])
def test_specialists_answer_each_subset_for_the_studies_that_the_fused_is_asked(
    studies, kind, monkeypatch
):
    monkeypatch.setattr(fusion_models, "STEPS", 3)
    fusion = fused(studies, PART, QUICK, kind)
    found = specialists(studies, PART, QUICK, kind)
    assert set(found["subset"]) == {subset_name(s) for s in subsets(MODALITIES)}
    both = fusion[fusion["subset"] != AVAILABLE].sort_values(KEYS, ignore_index=True)
    pd.testing.assert_frame_equal(found.sort_values(KEYS, ignore_index=True)[KEYS], both[KEYS])


def test_a_specialist_does_not_know_what_it_is_not_shown(studies):
    other = dict(studies.embeddings, note=torch.randn(120, 40))
    first, again = (
        specialists(s, PART, QUICK, "late") for s in (studies, replace(studies, embeddings=other))
    )
    pd.testing.assert_series_equal(sure(first, "image+tabular"), sure(again, "image+tabular"))
    assert not sure(first, "note").equals(sure(again, "note"))


def test_late_averaging_is_the_mean_of_what_is_shown(studies):
    table = fused(studies, PART, QUICK, "late")
    found = averaged(table, studies.task)
    pd.testing.assert_frame_equal(found[KEYS], table[KEYS])
    singles = pd.DataFrame({m: sure(table, m) for m in MODALITIES})
    pd.testing.assert_series_equal(sure(found, "note"), sure(table, "note"))
    both = singles[["image", "note"]].dropna().mean(axis=1)
    pd.testing.assert_series_equal(
        sure(found, "image+note").sort_index(), both.sort_index(), check_names=False
    )
    there = sure(found, AVAILABLE)
    assert len(there) == 40
    without = singles.index[singles["note"].isna()]
    assert len(without) == 10
    expected = singles.loc[without, ["image", "tabular"]].mean(axis=1)
    np.testing.assert_allclose(there[without], expected)
