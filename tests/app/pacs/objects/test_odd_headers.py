"""Headers with bytes changed at random give objects or a typed refusal, and nothing else."""

import io
import random

import pydicom
import pytest
from fhir.resources.R4B.bundle import Bundle
from pydicom.errors import InvalidDicomError

from app.pacs.objects.evidence import UNDECODABLE
from app.pacs.objects.fhir import fhir_bundle
from app.pacs.objects.sop_classes import SOP_CLASSES
from cxr_mm.core.errors import RadiographError
from tests.app.pacs.objects.samples import (
    MADE_AT,
    SOURCES,
    build_not_analysed,
    build_objects,
    two_findings,
)

META = 340
"""Bytes of preamble and file meta, which stay."""
AWKWARD = b"\\^=\0 -.A9\xff"


def damaged(draw, content):
    data = bytearray(content)
    for _ in range(draw.choice((1, 2, 4, 8))):
        place = draw.randrange(META, len(data))
        data[place] = draw.choice(AWKWARD) if draw.random() < 0.5 else draw.randrange(256)
    return bytes(data)


def written(source):
    del source["PixelData"]
    stream = io.BytesIO()
    source.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def objects(source):
    """How many could be written; 0 for a refusal that names field and remedy."""
    try:
        made = build_objects(source, two_findings(), tuple(SOP_CLASSES), MADE_AT)
        Bundle.model_validate(fhir_bundle(source, two_findings(), MADE_AT))
        every = [*made.values(), build_not_analysed(source, "The view is lateral", MADE_AT)]
    except RadiographError as refusal:
        return 0 if refusal.field and refusal.remedy else -1
    for each in every:
        each.save_as(io.BytesIO(), enforce_file_format=True)
    return len(every)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_header_gives_objects_or_a_typed_refusal(seed):
    draw, counted = random.Random(seed), []
    contents = [written(make()) for make in SOURCES.values()]
    for _ in range(25):
        try:
            source = pydicom.dcmread(io.BytesIO(damaged(draw, draw.choice(contents))), force=True)
        except (*UNDECODABLE, EOFError, InvalidDicomError):  # refused before
            continue
        counted.append(objects(source))
    assert set(counted) == {0, len(SOP_CLASSES) + 1}
