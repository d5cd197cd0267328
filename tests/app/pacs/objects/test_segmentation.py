"""The strongest region as a segmentation on the pixels of the source."""

import dataclasses

import highdicom
import numpy as np
import pytest

from app.pacs.objects import Region, build_objects
from app.pacs.objects.segmentation import mask_of
from tests.app.pacs.objects.samples import (
    DIGEST,
    MADE_AT,
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
