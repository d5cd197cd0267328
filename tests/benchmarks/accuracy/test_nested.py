"""Part `nested`: scales are chosen by the training studies of a fold alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.accuracy import nested
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.split import load_split, resamples
from cxr_mm.training.fusion_fit import load_studies


@pytest.fixture
def small(monkeypatch, pipeline):
    """The small pipeline as if it were the shipped task's, with few scales."""
    monkeypatch.setattr(nested, "load_task", lambda name: pipeline.task)
    monkeypatch.setattr(nested, "load_params", lambda: pipeline.params)
    monkeypatch.setattr(nested, "INNER_FOLDS", 2)
    grid = {"image": (0.5, 1.5), "tabular": (4.0,), "note": (4.0,)}
    monkeypatch.setattr(nested, "GRID", grid)
    return pipeline


def test_the_loss_is_that_of_nested_choice_on_the_same_studies(small, monkeypatch):
    other = small.params.fuse.model_copy(update={"image_scale": 0.2})
    monkeypatch.setattr(nested, "choose", lambda *_: other)
    shipped, chosen, loss = nested.measure_task(small.paths)
    assert shipped.row == "shipped scales"
    assert chosen.row == "chosen in each fold, the shipped scales in 0 of 1"
    assert shipped.n == chosen.n == loss.n
    assert loss.value == pytest.approx(chosen.value - shipped.value, abs=2e-6)
    assert loss.reference == 0.0
    assert loss.ci95[0] <= loss.value <= loss.ci95[1]


def test_the_choice_does_not_see_the_test_studies(small):
    params, paths = small.params.fuse, small.paths
    table = load_split(paths)
    studies = load_studies(load_manifest(paths, small.task), table, paths, params)
    part = resamples(table)[0]
    labels = studies.labels.clone()
    labels[part.test] = 1 - labels[part.test]
    embeddings = {m: rows.clone() for m, rows in studies.embeddings.items()}
    for rows in embeddings.values():
        rows[torch.from_numpy(part.test)] = np.nan
    other = replace(studies, labels=labels, embeddings=embeddings)
    assert nested.choose(studies, part, params) == nested.choose(other, part, params)
