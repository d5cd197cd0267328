"""The case report as a PDF within an object: what its pages say and show."""

import dataclasses
import io

import numpy as np
import pypdf
import pytest

from cxr_mm import __version__
from cxr_mm.core.prediction import NOTICE, SYNTHETIC
from tests.app.pacs.objects.samples import (
    DIGEST,
    MADE_AT,
    build_objects,
    computed_radiograph,
    digital_radiograph,
    finding,
    result_of,
    stored,
    two_findings,
)


def document(result, source=None):
    made = stored(build_objects(source or computed_radiograph(), result, ("pdf",), MADE_AT)["pdf"])
    data = made.EncapsulatedDocument[: made.EncapsulatedDocumentLength]
    return made, pypdf.PdfReader(io.BytesIO(data), strict=True)


def text_of(pdf):
    return " ".join(" ".join(page.extract_text() for page in pdf.pages).split())


def with_pictures():
    picture = np.full((80, 60), 90 / 255, np.float32)
    map_image = np.full((80, 60, 3), 140, np.uint8)
    return dataclasses.replace(two_findings(), picture=picture, map_image=map_image)


def test_it_says_findings_with_operating_points_inputs_warnings_model_and_notice():
    _, pdf = document(with_pictures())
    text = text_of(pdf)
    for part in (
        "Consolidation 12.3 % 33.3 % negative: below the operating point of 33.3 %",
        "Effusion > 99.9 % 33.3 % uncertain, positive: at or above the operating point of 33.3 %",
        "Inputs used Image, Clinical values",
        "The image is blurred; ≥ 3 µm",
        f"synthetic, cxr-mm {__version__} Digest {DIGEST}",
        "Answered 2026-03-04 05:06:07",
        NOTICE,
        SYNTHETIC,
        "The image as read",
        "Grad-CAM: Effusion",
    ):
        assert part in text, text


def test_it_shows_the_image_and_its_map():
    _, pdf = document(with_pictures())
    shown = {np.asarray(image.image).mean() for image in pdf.pages[0].images}
    assert shown == {90, 140}
    assert len(document(two_findings())[1].pages[0].images) == 1


def test_clinical_values_have_their_units():
    result = result_of(finding("effusion"))
    feature = next(f for f in result.task.clinical if f.unit)
    answer = dataclasses.replace(result.answer, clinical={feature.name: 38.5})
    _, pdf = document(dataclasses.replace(result, answer=answer))
    assert f"{feature.title}: 38.5{feature.unit_suffix}" in text_of(pdf)


def test_many_findings_go_on_over_sheets():
    _, pdf = document(result_of(*(finding(f"finding_{n}") for n in range(60))))
    assert len(pdf.pages) > 1
    assert "Finding_59" in text_of(pdf)


def test_it_names_no_one_and_its_object_does():
    made, pdf = document(with_pictures())
    assert "ller" not in text_of(pdf)
    assert made.PatientName == computed_radiograph().PatientName
    assert made.MIMETypeOfEncapsulatedDocument == "application/pdf"
    (image,) = made.SourceInstanceSequence
    assert image.ReferencedSOPInstanceUID == computed_radiograph().SOPInstanceUID


@pytest.mark.parametrize(("given", "expected"), [("NO", "NO"), ("YES", "YES"), (None, "YES")])
def test_what_may_be_burnt_in_is_said(given, expected):
    made, _ = document(with_pictures(), digital_radiograph(BurnedInAnnotation=given))
    assert made.BurnedInAnnotation == expected
