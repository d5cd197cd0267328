"""Methods: each on a real bundle, by name, twice the same, and sums where they are promised."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cxr_mm.core.errors import InputError
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.methods import DEFAULTS, METHODS, Ask, method, methods_of
from cxr_mm.explain.subject import Subject

every = pytest.mark.parametrize("name", list(METHODS))


@every
def test_shape_names_and_sum(bundle, subject, name):
    target = Target(bundle.task.finding_names[0])
    result = METHODS[name].explain(subject, target, Ask())
    assert (result.method, result.modality) == (name, METHODS[name].modality)
    assert np.isfinite(result.values).all()
    if result.modality == "image":
        assert result.values.shape == (bundle.size, bundle.size)
    else:
        assert result.values.shape == (len(result.names),)
        assert result.signed
    if result.modality == "tabular":
        assert result.names == bundle.task.clinical_names
    if result.modality != "image" and result.base is not None:
        assert result.base + result.values.sum() == pytest.approx(result.output, abs=1e-5)
    if name.startswith("lime"):
        assert result.extra["readable"] == (result.extra["r2"] >= 0.5)


def test_shap_of_the_image_adds_up_over_its_regions(bundle, subject):
    from cxr_mm.explain.games import ImageGame, grid
    from cxr_mm.explain.methods import SHAP_CELLS

    target = Target(bundle.task.finding_names[0])
    result = METHODS["shap_image"].explain(subject, target, Ask())
    regions = ImageGame(subject, target, grid(subject, SHAP_CELLS)).scores(result.values)
    assert result.base + regions.sum() == pytest.approx(result.output, abs=1e-4)


@every
def test_same_seed_same_answer_also_from_two_threads(bundle, a_study, name):
    target = Target(bundle.task.finding_names[0])

    def said(number):
        return METHODS[name].explain(Subject(bundle, a_study(number)), target, Ask(seed=5)).values

    alone = [said(0), said(1)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(said, [0, 1]))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_what_does_not_exist_is_answered_with_what_does():
    with pytest.raises(InputError, match=r"grad_cam.*shap_tabular.*lime_note"):
        method("tea_leaves")
    with pytest.raises(InputError, match="image, tabular, note"):
        methods_of("smell")


def test_every_modality_has_a_default_shap_and_lime():
    for modality in ("image", "tabular", "note"):
        names = [m.name for m in methods_of(modality)]
        assert any(name in DEFAULTS for name in names)
        assert any(name.startswith("shap") for name in names)
        assert any(name.startswith("lime") for name in names)
