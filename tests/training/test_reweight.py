"""Reweighting: the answer is as frequent in every group of what is drawn."""

from functools import partial

import numpy as np
import pytest

from cxr_mm.core.config import FuseParams
from cxr_mm.core.errors import StageError
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.split import load_split, resamples
from cxr_mm.training.fuse import load_fits, predict_unseen
from cxr_mm.training.fusion_fit import load_studies
from cxr_mm.training.reweight import independent_rows, read_strata


@pytest.fixture
def skewed():
    """Group a has the finding in 4 of 10, b in 1 of 10; the last ten are of no known group."""
    strata = np.array(["a"] * 400 + ["b"] * 600 + [None] * 10, dtype=object)
    labels = np.concatenate([np.arange(400) % 10 < 4, np.arange(600) % 10 < 1, np.ones(10)])
    return strata, labels.astype(np.float32)[:, None]


def test_the_finding_is_as_frequent_in_every_group(skewed):
    strata, labels = skewed
    rows = independent_rows(np.arange(1010), strata, labels, 0)
    for group, size in (("a", 400), ("b", 600)):
        drawn = rows[strata[rows] == group]
        assert len(drawn) == size
        assert labels[drawn].mean() == pytest.approx(0.22)
    assert (rows >= 1000).sum() == 10


def test_only_training_rows_are_drawn_and_the_same_by_the_same_seed(skewed):
    strata, labels = skewed
    among = np.arange(0, 1000, 3)
    rows = independent_rows(among, strata, labels, 1)
    assert set(rows) <= set(among)
    np.testing.assert_array_equal(rows, independent_rows(among, strata, labels, 1))
    assert abs(len(rows) - len(among)) <= 2


def test_held_out_predictions_have_those_without_it_beside_them(pipeline):
    params = FuseParams(inner_folds=2, epochs=20, reweight="sex")
    manifest, table = load_manifest(pipeline.paths, pipeline.task), load_split(pipeline.paths)
    studies = load_studies(manifest, table, pipeline.paths, params)
    divided = [resamples(table)]
    (found,) = predict_unseen(divided, partial(load_fits, studies, divided, params))
    finding = pipeline.task.finding_names[0]
    assert (found[f"plain.probability.{finding}"] != found[f"probability.{finding}"]).any()
    plain = params.model_copy(update={"reweight": None})
    studies = load_studies(manifest, table, pipeline.paths, plain)
    (without,) = predict_unseen(divided, partial(load_fits, studies, divided, plain))
    np.testing.assert_array_equal(
        found[f"plain.probability.{finding}"], without[f"probability.{finding}"]
    )
    assert not [name for name in without if name.startswith("plain.")]


@pytest.mark.parametrize("name", ["age", "hair"])
def test_what_has_no_groups_is_refused(pipeline, name):
    with pytest.raises(StageError, match=f"{name} has no groups"):
        read_strata(load_manifest(pipeline.paths, pipeline.task), name)
