"""Segmentation: the strongest region on the pixels of the source, one bit each.

A parametric map of the influence itself would need a frame of reference and the size of its pixels
in the patient (PS3.3 A.75), which a projection has not. A segmentation on the pixels of its source
needs neither (PS3.3 A.51): what it was derived from says where it lies.
"""

from datetime import datetime
from itertools import pairwise

import highdicom as hd
import numpy as np
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray

from app.pacs.objects import codes
from app.pacs.objects.evidence import Evidence, SourceImage, complete, equipment, long_string
from app.pacs.objects.result import Region, Result
from app.pacs.objects.uids import derived_uid
from cxr_mm import __version__
from cxr_mm.core.prediction import NOTICE

SERIES_NUMBER = 9004
LABEL = "AI_REGION"
MEANING = (
    "Where the image had the strongest influence on the probability; not the extent of a finding"
)


def segmentation(evidence: Evidence, result: Result, uid: str, made_at: datetime) -> Segmentation:
    """Build the segmentation of the region, which the result must have.

    Args:
        evidence: of the radiograph.
        result: what is told of it.
        uid: SOP instance UID of the segmentation.
        made_at: when the answer was given.
    """
    image, region = evidence.image, result.region
    assert region is not None
    built = Segmentation(
        source_images=[image.reference()],
        pixel_array=mask_of(region, (image.rows, image.columns))[None],
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(image, result, region)],
        series_instance_uid=derived_uid(uid, "series"),
        series_number=SERIES_NUMBER,
        series_description=long_string(f"AI result: {result.task.title}"),
        sop_instance_uid=uid,
        instance_number=1,
        content_label=LABEL,
        content_description=long_string(NOTICE),
        **equipment(result.answer.prediction.model, result.digest),
    )
    built.PatientOrientation = ""
    built.CodingSchemeIdentificationSequence = [codes.private_scheme()]
    dimension = derived_uid(uid, "dimension")  # highdicom's would be another each time
    for item in (*built.DimensionOrganizationSequence, *built.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimension
    return complete(built, evidence, made_at)


def mask_of(region: Region, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels (rows, columns) of the source whose centres the outline encloses (even-odd), as 1."""
    rows, columns = shape
    centres, turns = np.arange(rows) + 0.5, np.zeros((rows, columns + 1), np.bool_)
    for (x0, y0), (x1, y1) in pairwise(region.closed):
        crossed = np.flatnonzero((y0 <= centres) != (y1 <= centres))
        if crossed.size:
            x = x0 + (centres[crossed] - y0) * (x1 - x0) / (y1 - y0)
            turns[crossed, np.clip(np.ceil(x - 0.5), 0, columns).astype(int)] ^= True
    # skimage's polygons look at every corner for every pixel: seconds for a radiograph.
    return np.logical_xor.accumulate(turns[:, :-1], axis=1).astype(np.uint8)


def _segment(image: SourceImage, result: Result, region: Region) -> SegmentDescription:
    titles = {f.finding: f.title for f in result.answer.prediction.findings}
    title = titles.get(region.finding, region.finding)
    segment = SegmentDescription(
        segment_number=1,
        segment_label=long_string(f"{title}: {region.method}"),
        segmented_property_category=codes.SPATIAL,
        segmented_property_type=codes.INFLUENCE,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=result.answer.prediction.model,
            family=codes.ARTIFICIAL_INTELLIGENCE,
            version=__version__,
            parameters={"digest": result.digest, "region": region.method},
        ),
        tracking_uid=result.tracking_uid(image.instance, region.finding),
        tracking_id=region.finding,
    )
    segment.SegmentDescription = MEANING
    return segment
