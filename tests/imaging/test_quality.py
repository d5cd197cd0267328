import numpy as np
import pytest
from PIL import Image, ImageFilter

from cxr_mm.imaging.quality import QUALITY_NAMES, image_quality


def image(side=400):
    """Air, a body, two dark lungs; in [0, 1]."""
    y, x = np.mgrid[:side, :side] / side
    body = (np.abs(x - 0.5) < 0.4) & (y > 0.15)
    lungs = ((np.abs(np.abs(x - 0.5) - 0.18) / 0.1) ** 2 + ((y - 0.5) / 0.25) ** 2) < 1
    return np.where(lungs, 0.35, np.where(body, 0.75, 0.1)).astype(np.float32)


def noisy(sigma, base=None):
    base = image(256) if base is None else base
    rng = np.random.default_rng(0)
    return np.clip(base + rng.normal(0, sigma, base.shape), 0, 1).astype(np.float32)


def test_names_in_order_and_plain_floats():
    quality = image_quality(image())
    assert tuple(quality) == QUALITY_NAMES
    assert all(type(value) is float for value in quality.values())


def test_noise_is_the_standard_deviation_of_what_was_added():
    flat = np.full((256, 256), 0.5, np.float32)
    for sigma in (0.01, 0.05):
        assert image_quality(noisy(sigma, flat))["noise"] == pytest.approx(sigma, rel=0.05)


def test_blur_lowers_sharpness():
    pixels = noisy(0.02)
    image = Image.fromarray((pixels * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    blurred = np.asarray(image, np.float32) / 255
    assert image_quality(blurred)["sharpness"] < image_quality(pixels)["sharpness"] / 2


def test_exposure_and_contrast_follow_the_grey_values():
    normal, dark = image_quality(image()), image_quality(image() * np.float32(0.5))
    assert dark["exposure"] == pytest.approx(normal["exposure"] / 2, rel=1e-4)
    assert dark["contrast"] == pytest.approx(normal["contrast"] / 2, rel=1e-4)


def test_inversion_changes_sign():
    assert image_quality(image())["inversion"] < -0.3
    assert image_quality(1 - image())["inversion"] > 0.3


def test_border_is_the_share_of_even_bars():
    framed = np.zeros((200, 200), np.float32)
    framed[50:150] = noisy(0.1, np.full((100, 200), 0.5, np.float32))
    assert image_quality(framed)["border"] == pytest.approx(0.5)
    assert image_quality(np.zeros((64, 64), np.float32))["border"] == 1


def test_saturation_counts_both_ends():
    pixels = np.full((100, 100), 0.5, np.float32)
    pixels[:10], pixels[-20:] = 0, 1
    assert image_quality(pixels)["saturation"] == pytest.approx(0.3)


def test_aspect_and_size_hardly_matter_to_the_rest():
    assert image_quality(np.zeros((300, 200), np.float32))["aspect"] == 1.5
    small, large = image_quality(image(256)), image_quality(image(2048))
    for name in ("exposure", "contrast", "inversion"):
        assert large[name] == pytest.approx(small[name], abs=0.02)


@pytest.mark.parametrize("shape", [(16, 16), (16, 5000), (3, 3)])
def test_odd_shapes_are_finite(shape):
    assert np.isfinite(list(image_quality(np.zeros(shape, np.float32)).values())).all()
