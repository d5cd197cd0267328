"""The picture for viewers that read nothing else: numbers, model and notice burnt in."""

import dataclasses

import numpy as np
import pytest

from app.pacs.objects.secondary_capture import PANEL, draw, lines_of
from cxr_mm.core.prediction import NOTICE, SYNTHETIC
from tests.app.pacs.objects.samples import (
    DIGEST,
    MADE_AT,
    build_objects,
    computed_radiograph,
    finding,
    result_of,
    stored,
    two_findings,
)


def capture(source, result=None):
    return stored(build_objects(source, result or two_findings(), ("sc",), MADE_AT)["sc"])


def test_it_is_the_picture_with_a_panel_beside_it():
    result = two_findings()
    pixels = capture(computed_radiograph(), result).pixel_array
    height, width = result.map_image.shape[:2]
    assert pixels.shape[0] > height
    assert pixels.shape[1:] == (width + PANEL, 3)
    assert np.array_equal(pixels, draw(result, MADE_AT))
    assert np.array_equal(pixels[:height, :width], result.map_image)
    assert (pixels[height:, :width] == pixels[-1, -1]).all()


def test_a_picture_higher_than_the_text_decides_the_height():
    result = dataclasses.replace(two_findings(), map_image=np.full((1500, 300, 3), 9, np.uint8))
    assert capture(computed_radiograph(), result).pixel_array.shape == (1500, 300 + PANEL, 3)


def test_the_panel_has_numbers_model_digest_and_notice():
    text = [line for line, _, _ in lines_of(two_findings(), MADE_AT)]
    assert "Consolidation: negative" in text
    assert "Probability 12.3 %, operating point 33.3 %" in text
    assert "Effusion: positive, uncertain" in text
    assert "Map: Grad-CAM: Effusion" in text
    assert "Warning: The image is blurred; ≥ 3 µm" in text
    assert "Model synthetic, cxr-mm 0.2.0" in text
    assert DIGEST in "".join(text)
    assert {SYNTHETIC, NOTICE} <= set(text)


def test_a_class_is_likeliest_or_not():
    result = result_of(finding("normal", threshold=None, positive=True), finding("viral"))
    text = [line for line, _, _ in lines_of(result, MADE_AT)]
    assert "Normal: likeliest" in text


def test_without_a_picture_it_is_the_text_alone():
    result = dataclasses.replace(two_findings(), map_image=None)
    assert capture(computed_radiograph(), result).pixel_array.shape[1:] == (PANEL, 3)


def test_no_line_is_cut_off():
    few, many = (result_of(*(finding(f"finding_{n}") for n in range(k))) for k in (2, 30))
    pixels = draw(many, MADE_AT)
    assert pixels.shape[0] > 4 * draw(few, MADE_AT).shape[0]
    assert (pixels[-10:] == pixels[0, 0]).all()
    assert (pixels[:, -8:] == pixels[0, 0]).all()


@pytest.mark.parametrize(
    ("given", "expected"), [("YES", "YES"), ("NO", "NO"), (None, None), ("PERHAPS", None)]
)
def test_burnt_in_annotation_is_the_source_s(given, expected):
    source = computed_radiograph(BurnedInAnnotation=given) if given else computed_radiograph()
    assert capture(source).get("BurnedInAnnotation") == expected


def test_it_names_the_source():
    (image,) = capture(computed_radiograph()).SourceImageSequence
    assert image.ReferencedSOPInstanceUID == computed_radiograph().SOPInstanceUID
