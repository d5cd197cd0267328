"""Concept erasure: nothing linear is left of the concept, nothing else is changed without need."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_mm.core.config import FuseParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.study import Study
from cxr_mm.core.types import subset_name
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.split import load_split, resamples
from cxr_mm.inference.predictor import Predictor
from cxr_mm.models.bundle import load_bundle, save_bundle
from cxr_mm.training.erasure import fit_erasure, leace_directions, read_concepts
from cxr_mm.training.fuse import fit_fusion
from cxr_mm.training.fusion_fit import load_studies

QUICK = FuseParams(inner_folds=2, epochs=20)


def drawn(studies, dimensions, seed=0):
    """Embeddings that contain two concepts, one of them binary, besides noise of several scales."""
    random = np.random.default_rng(seed)
    concepts = random.normal(size=(studies, 2))
    concepts[:, 1] = concepts[:, 1] > 0
    noise = random.normal(size=(studies, dimensions)) @ random.normal(size=(dimensions,) * 2)
    return noise + concepts @ random.normal(size=(2, dimensions)), concepts


def scores(rows):
    return (rows - rows.mean(0)) / rows.std(0)


@pytest.mark.parametrize("dimensions", [8, 300])
def test_erased_embeddings_are_uncorrelated_with_the_concepts(dimensions):
    x, z = map(scores, drawn(60, dimensions))
    read, write = leace_directions(x, z)
    erased = x - x @ read.T @ write.T
    assert read.shape == (2, dimensions)
    assert np.abs(x.T @ z / len(x)).max() > 0.1
    assert np.abs(erased.T @ z / len(x)).max() < 1e-8


def test_no_other_map_that_erases_changes_less():
    """Any other is this one plus a map of what is left, whose change is orthogonal to it."""
    x, z = map(scores, drawn(20_000, 6))
    read, write = leace_directions(x, z)
    least = np.square(x @ read.T @ write.T).sum()
    orthogonal = np.linalg.svd(x.T @ z)[0][:, :2]
    assert np.square(x @ orthogonal @ orthogonal.T).sum() > least * 1.01
    for seed in range(20):
        step = 0.01 * np.random.default_rng(seed).normal(size=(6, 6)) @ (np.eye(6) - write @ read)
        step -= step @ orthogonal @ orthogonal.T
        assert np.square(x @ (write @ read + step).T).sum() > least * 0.9999


def test_half_the_strength_leaves_half():
    x, z = drawn(60, 100)
    x = x.astype(np.float32)
    whole, half = (fit_erasure(x, z, strength)(torch.from_numpy(x)) for strength in (1.0, 0.5))
    torch.testing.assert_close(half, (torch.from_numpy(x) + whole) / 2, rtol=0, atol=1e-4)
    assert np.abs((whole.numpy() - whole.numpy().mean(0)).T @ scores(z) / 60).max() < 1e-5


def test_studies_whose_concept_is_not_known_teach_nothing():
    x, z = drawn(60, 100)
    z[:20] = np.nan
    some = fit_erasure(x.astype(np.float32), z, 1.0)
    rest = fit_erasure(x[20:].astype(np.float32), z[20:], 1.0)
    torch.testing.assert_close(some.write @ some.read, rest.write @ rest.read)


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_concept_that_does_not_vary_is_refused(value):
    x, z = drawn(60, 10)
    with pytest.raises(StageError, match=r"fuse\.erase"):
        fit_erasure(x.astype(np.float32), np.full_like(z, value), 1.0)


@pytest.fixture(scope="module")
def erased(pipeline):
    """Studies of the small pipeline, and a fusion without quality and view in its images."""
    params = QUICK.model_copy(update={"erase": ("quality", "view")})
    manifest = load_manifest(pipeline.paths, pipeline.task)
    table = load_split(pipeline.paths)
    part = resamples(table)[0]
    studies = load_studies(manifest, table, pipeline.paths, params)
    return studies, part, fit_fusion(studies, part.train, part.val, params, 0)


def test_a_fusion_reads_embeddings_without_the_concepts_of_its_training_studies(erased):
    studies, part, model = erased
    rows = studies.having(
        np.concatenate([part.train, part.val]), torch.tensor([True, False, False])
    )
    left = model.fusion.clean(studies.inputs(model.transform), studies.mask)["image"][rows].numpy()
    concepts = studies.concepts[rows]
    assert np.isfinite(concepts).all()
    varied = concepts[:, concepts.std(0) > 0]
    assert np.abs((left - left.mean(0)).T @ scores(varied) / len(rows)).max() < 1e-5


def test_a_bundle_erases_without_knowing_the_concept(erased, pipeline, tmp_path):
    """An image is answered as in the stage, though neither view nor quality comes with it."""
    studies, _, model = erased
    bundle = load_bundle(pipeline.paths.bundle)
    bundle = replace(
        bundle, fusion=model.fusion, operating_points=model.points, conformal=model.conformal
    )
    save_bundle(bundle, tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle")
    image = torch.tensor([[True, False, False]])
    wanted = model.fusion(studies.inputs(model.transform), image.expand(len(studies.mask), -1))
    row = int(studies.mask[:, 0].nonzero()[0])
    embedding = studies.embeddings["image"][[row]].numpy()
    study = Study("one", image=np.zeros((64, 64), np.float32))
    encoded = loaded.encode([study], embedding)
    found = loaded.fusion.join(encoded.parts, encoded.mask)
    torch.testing.assert_close(found, wanted[[row]], rtol=0, atol=1e-5)
    assert subset_name(("image",)) in loaded.operating_points
    assert Predictor(loaded, accept_any_image=True).answer([study])


def test_a_bundle_of_an_earlier_version_erases_nothing(pipeline):
    assert load_bundle(pipeline.paths.bundle).fusion.erasure is None


def test_what_no_study_has_cannot_be_erased(pipeline):
    manifest = load_manifest(pipeline.paths, pipeline.task)
    without = replace(manifest, frame=manifest.frame.assign(site=None))
    with pytest.raises(StageError, match="do not differ in site"):
        read_concepts(without, ("site",), pipeline.paths)


def test_small_sites_count_as_one(pipeline):
    manifest = load_manifest(pipeline.paths, pipeline.task)
    sites = pd.Series(["A"] * 40 + ["B"] * 30 + ["C"] * 5 + ["D"] * 5, dtype=object)
    sites = sites.reindex(range(len(manifest)))
    found = read_concepts(
        replace(manifest, frame=manifest.frame.assign(site=sites)), ("site",), pipeline.paths
    )
    assert found[:80].sum(0).tolist() == [40, 30, 10]
    assert np.isnan(found[80:]).all()
