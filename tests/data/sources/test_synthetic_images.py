from itertools import pairwise

import numpy as np
import pytest

from cxr_mm.data.synthetic.anatomy import draw_body, draw_thorax, image_shape
from cxr_mm.data.synthetic.phantom import CONSOLIDATION_BIT, EFFUSION_BIT, draw_image
from cxr_mm.data.synthetic.population import Part, SynthesisSpec, draw_cases, stream

SIZE = 128
SPEC = SynthesisSpec(studies=60, size=SIZE, seed=1)


@pytest.fixture(scope="module")
def cases():
    return draw_cases(SPEC)


@pytest.fixture(scope="module")
def images(cases):
    return [draw_image(SPEC, case) for case in cases]


def changed(cases, **dials):
    spec = SynthesisSpec(**{**SPEC.model_dump(), **dials})
    return [draw_image(spec, case) for case in cases[:16]]


def test_images_are_grey_with_their_sites_shape(cases, images):
    for case, (pixels, mask) in zip(cases, images, strict=True):
        assert pixels.dtype == mask.dtype == np.uint8
        assert pixels.shape == mask.shape == image_shape(SPEC, case.patient.site)
        assert pixels.std() > 20
    shapes = {pixels.shape for pixels, _ in images}
    assert any(h > w for h, w in shapes)
    assert any(h == w for h, w in shapes)
    assert any(h < w for h, w in shapes)


def test_lungs_are_dark_and_the_spine_is_bright(cases, images):
    darker = []
    for case, (pixels, _) in zip(cases, images, strict=True):
        thorax = _thorax(case)
        lungs = (thorax.lungs[0] + thorax.lungs[1]) > 0.9
        spine = (np.abs(thorax.x) < 0.08) & (thorax.y > 0) & (thorax.y < 0.4)
        darker.append(pixels[lungs].mean() < pixels[spine].mean() - 40)
    assert all(darker)


def _thorax(case):
    rng = stream(SPEC, Part.BODY, case.patient.index)
    return draw_thorax(draw_body(SPEC, case), image_shape(SPEC, case.patient.site), rng)


@pytest.mark.parametrize(
    ("finding", "bit"), [("consolidation", CONSOLIDATION_BIT), ("effusion", EFFUSION_BIT)]
)
def test_a_mask_is_there_where_the_lesion_is_and_inside_the_thorax(cases, images, finding, bit):
    present = [getattr(case.illness, finding) for case in cases]
    assert any(present)
    assert not all(present)
    for case, (_, mask), is_present in zip(cases, images, present, strict=True):
        marked = (mask & bit) > 0
        assert marked.any() == is_present
        thorax = _thorax(case)
        inside = np.abs(thorax.x) < thorax.body.lung_width + 0.04
        inside &= (thorax.y > thorax.body.apex - 0.04) & (thorax.y < max(thorax.body.domes) + 0.5)
        assert not (marked & ~inside).any()


def test_masks_hold_no_other_bits(images):
    assert all((mask & ~np.uint8(3)).max() == 0 for _, mask in images)


def test_a_lesion_is_brighter_than_the_other_side(cases):
    """Where the lesion is plain, its pixels are brighter than in the same image without it."""
    plain = [c for c in cases if c.illness.consolidation and c.illness.extent > 0.6][:5]
    assert plain
    for case in plain:
        healthy = type(case.illness)(
            **{**_fields(case.illness), "consolidation": False, "effusion": False}
        )
        without, _ = draw_image(SPEC, type(case)(case.index, case.patient, healthy))
        pixels, mask = draw_image(SPEC, case)
        where = (mask & CONSOLIDATION_BIT) > 0
        assert pixels[where].mean() > without[where].mean() + 8


def _fields(illness):
    return {name: getattr(illness, name) for name in illness.__dataclass_fields__}


def test_a_patient_keeps_their_anatomy_but_not_their_pose(cases):
    pairs = [(a, b) for a, b in pairwise(cases) if a.patient == b.patient]
    assert pairs
    for first, second in pairs:
        one, two = draw_body(SPEC, first), draw_body(SPEC, second)
        for stored in ("ribs", "rib_phase", "lung_width", "knob", "breast", "taper"):
            assert getattr(one, stored) == getattr(two, stored)
        assert one.roll != two.roll
    assert len({draw_body(SPEC, case).rib_phase for case in cases}) > len(cases) / 3


def test_exposure_brightens_and_leaves_the_masks(cases, images):
    brighter = changed(cases, exposure=2.0)
    for (pixels, mask), (was, mask_was) in zip(brighter, images, strict=False):
        assert pixels.mean() > was.mean() + 5
        assert np.array_equal(mask, mask_was)


def test_contrast_spreads_the_grey_levels(cases, images):
    for (pixels, _), (was, _) in zip(changed(cases, contrast=0.5), images, strict=False):
        inner = np.s_[20:-20, 20:-20]
        assert pixels[inner].std() < was[inner].std()


def _roughness(pixels):
    return np.abs(np.diff(pixels[20:-20, 20:-20].astype(float), axis=1)).mean()


def test_noise_and_blur_move_the_roughness(cases, images):
    noisy, blurred = changed(cases, noise=3.0), changed(cases, blur=4.0, noise=0.0)
    for (rough, _), (smooth, _), (was, _) in zip(noisy, blurred, images, strict=False):
        assert _roughness(rough) > 1.3 * _roughness(was)
        assert _roughness(smooth) < _roughness(was)


def test_inverted_images_are_the_negatives(cases, images):
    negatives = changed(cases, inverted=1.0)
    for (pixels, _), (was, _) in zip(negatives, images, strict=False):
        assert np.array_equal(pixels, 255 - was)


def test_a_share_of_images_is_inverted(cases, images):
    some = changed(cases, inverted=0.5)
    flipped = sum(not np.array_equal(a[0], b[0]) for a, b in zip(some, images, strict=False))
    assert 2 <= flipped <= 14
