"""The strongest region as a segmentation on the pixels of the source."""

import dataclasses

import highdicom
import numpy as np
import pytest
from skimage.draw import polygon2mask

from app.pacs.objects.result import Region
from app.pacs.objects.segmentation import mask_of
from tests.app.pacs.objects.samples import (
    DIGEST,
    MADE_AT,
    build_objects,
    computed_radiograph,
    region,
    stored,
    two_findings,
)


def built(source, **changed):
    result = dataclasses.replace(two_findings(), **changed)
    return build_objects(source, result, ("sr", "seg"), MADE_AT)


def test_its_pixels_are_those_within_the_outline(source):
    made = highdicom.seg.Segmentation.from_dataset(stored(built(source)["seg"]))
    expected = np.zeros((60, 40), bool)
    expected[10:20, 5:15] = True
    np.testing.assert_array_equal(made.pixel_array, expected)
    (uids,) = made.get_source_image_uids()
    assert uids == (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID)
    derived = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert derived.SourceImageSequence[0].SpatialLocationsPreserved == "YES"


def test_a_mask_comes_back_from_its_outline():
    rows, columns = np.mgrid[:300, :200]
    mask = ((rows - 150) / 90) ** 2 + ((columns - 80) / 50) ** 2 < 1
    again = mask_of(Region.of_mask("x", "m", mask), mask.shape).astype(bool)
    assert (mask & again).sum() / (mask | again).sum() > 0.99


def test_a_ragged_outline_is_filled_as_another_fills_it():
    draw = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(draw.uniform(0, 2 * np.pi, 12))
        reach = draw.uniform(5, 60, 12)  # beyond the image too
        corners = np.stack([40 + reach * np.cos(angles), 30 + reach * np.sin(angles)], axis=1)
        ours = mask_of(Region("x", "m", tuple(map(tuple, corners))), (70, 90))
        np.testing.assert_array_equal(ours, polygon2mask((70, 90), corners[:, ::-1] - 0.5))


def test_it_says_what_the_region_is_and_is_tracked_as_the_finding_of_the_report():
    made = built(computed_radiograph())
    (segment,) = made["seg"].SegmentSequence
    assert segment.SegmentLabel == "Effusion: Grad-CAM"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning.startswith("Region of strong")
    assert "not the extent" in segment.SegmentDescription
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert f"digest={DIGEST}" in algorithm.AlgorithmParameters
    report = highdicom.sr.Comprehensive3DSR.from_dataset(stored(made["sr"]))
    assert (segment.TrackingID, segment.TrackingUID) in [
        (g.tracking_identifier, g.tracking_uid)
        for g in report.content.get_image_measurement_groups()
    ]


@pytest.mark.parametrize("found", [None, region()])
def test_without_a_region_there_is_none(found):
    assert ("seg" in built(computed_radiograph(), region=found)) == (found is not None)
