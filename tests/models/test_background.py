"""Background: usual values that are no patient's, and an image with texture that is no one's."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.task import load_task
from cxr_mm.models.background import (
    ROWS,
    background_from_json,
    background_to_json,
    draw_background,
    mixtures,
    without_margin,
)


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    age = rng.normal(60, 10, 500)
    return pd.DataFrame({"age": age, "twice": 2 * age, "sex": ["female", None] * 250})


def test_each_feature_keeps_its_values_and_loses_its_company(table):
    drawn = draw_background(table, seed=0)
    assert len(drawn) == ROWS
    assert set(drawn["age"]) <= set(table["age"])
    assert drawn["age"].mean() == pytest.approx(60, abs=4)
    assert abs(np.corrcoef(drawn["age"], drawn["twice"])[0, 1]) < 0.3
    assert drawn["sex"].isna().mean() == pytest.approx(0.5, abs=0.15)
    pd.testing.assert_frame_equal(drawn, draw_background(table, seed=0))


def test_fewer_studies_than_rows_are_enough(table):
    assert len(draw_background(table.iloc[:7], seed=0)) == 7


def test_json_gives_it_back():
    task = load_task("synthetic")
    values = {f.name: [f.categories[0] if f.categories else 1.5, None] for f in task.clinical}
    frame = background_from_json(task.clinical, values)
    assert tuple(frame) == task.clinical_names
    assert background_to_json(frame) == values


def test_a_mixture_has_the_contrast_of_one_image_and_is_none(bundle_images):
    created = mixtures(bundle_images, 5, seed=0)
    assert created.shape == (5, 32, 32)
    assert created.std(axis=0).mean() == pytest.approx(bundle_images.std(axis=0).mean(), rel=0.5)
    assert bundle_images.mean(axis=0).std() < 0.5 * created.std(axis=(1, 2)).mean()
    flat = bundle_images.reshape(len(bundle_images), -1)
    likeness = np.corrcoef(np.vstack([created.reshape(5, -1), flat]))[:5, 5:]
    assert likeness.max() < 0.8


@pytest.fixture
def bundle_images():
    return np.random.default_rng(1).integers(80, 180, (40, 32, 32)).astype(np.uint8)


def test_a_margin_is_stretched_away():
    square = np.zeros((32, 32), dtype=np.uint8)
    square[:, 8:24] = 100
    assert (without_margin(square) == 100).all()
    assert not without_margin(np.zeros((32, 32), dtype=np.uint8)).any()
