"""The presentation state shows the source as its own header does, with outline and numbers."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.sequence import Sequence

from cxr_mm.core.prediction import NOTICE, SYNTHETIC
from tests.app.pacs.objects.samples import (
    COLUMNS,
    DIGEST,
    MADE_AT,
    ROWS,
    SOURCES,
    build_objects,
    computed_radiograph,
    digital_radiograph,
    finding,
    region,
    result_of,
    stored,
    two_findings,
)


def state(source, result=None):
    made = build_objects(source, result or two_findings(), ("gsps",), MADE_AT)["gsps"]
    return stored(made)


def texts(made):
    annotation = made.GraphicAnnotationSequence[0]
    return [item.UnformattedTextValue for item in annotation.TextObjectSequence]


def test_it_refers_to_the_source(source):
    series = state(source).ReferencedSeriesSequence[0]
    image = series.ReferencedImageSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert image.ReferencedSOPClassUID == source.SOPClassUID


def test_the_outline_is_a_closed_polyline_in_pixels():
    (outline,) = state(computed_radiograph()).GraphicAnnotationSequence[0].GraphicObjectSequence
    corners = np.asarray(outline.GraphicData).reshape(-1, 2)
    assert (outline.GraphicType, outline.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
    assert np.array_equal(corners, region().closed)
    assert corners[0].tolist() == corners[-1].tolist()


def test_the_text_names_what_is_positive_or_uncertain_the_model_and_the_notice():
    assert texts(state(computed_radiograph())) == [
        "Effusion: > 99.9 %, uncertain, positive: at or above the operating point of 33.3 %",
        SYNTHETIC,
        f"Model synthetic, {DIGEST}",
        NOTICE,
        "Effusion: Grad-CAM",
    ]


def test_without_a_positive_finding_it_says_so_and_outlines_nothing():
    made = state(computed_radiograph(), result_of(finding("effusion")))
    assert texts(made)[0] == "No finding at or above its operating point"
    assert "GraphicObjectSequence" not in made.GraphicAnnotationSequence[0]


def test_many_findings_stay_within_the_image():
    findings = [finding(f"finding_{n}", positive=True) for n in range(50)]
    made = state(computed_radiograph(), result_of(*findings))
    boxes = [
        item.BoundingBoxBottomRightHandCorner
        for item in made.GraphicAnnotationSequence[0].TextObjectSequence
    ]
    assert np.max(boxes, axis=0).tolist() == pytest.approx([COLUMNS, ROWS])


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"PhotometricInterpretation": "MONOCHROME2"}, "IDENTITY"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "INVERSE"),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
            "INVERSE",
        ),
    ],
)
def test_small_values_are_white_where_the_source_says_so(changes, shape):
    assert state(computed_radiograph(**changes)).PresentationLUTShape == shape


def test_the_first_window_and_the_rescale_are_taken_over():
    source = digital_radiograph(
        WindowCenter=[2048.5, 1000],
        WindowWidth=[4096, 500],
        VOILUTFunction="SIGMOID",
        RescaleSlope=2,
        RescaleIntercept=-1000,
    )
    made = state(source)
    (window,) = made.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (2048.5, 4096)
    assert window.VOILUTFunction == "SIGMOID"
    assert (made.RescaleSlope, made.RescaleIntercept, made.RescaleType) == (2, -1000, "US")


@pytest.mark.parametrize("width", [None, 0])
def test_without_a_valid_window_there_is_none(width):
    source = computed_radiograph(WindowWidth=width)
    assert "SoftcopyVOILUTSequence" not in state(source)


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_lut_is_taken_over(keyword):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16], np.arange(4, dtype=np.uint16).tobytes()
    table.ModalityLUTType = "US"
    source = digital_radiograph(**{keyword: Sequence([table])})
    made = state(source)
    found = made if keyword.startswith("Modality") else made.SoftcopyVOILUTSequence[0]
    assert list(found[keyword].value[0].LUTDescriptor) == [4, 0, 16]
    assert "RescaleSlope" not in made or keyword.startswith("VOI")
    assert "WindowCenter" not in found


def test_pixels_that_are_not_square_are_shown_as_they_are():
    area = state(digital_radiograph(ImagerPixelSpacing=[0.2, 0.1])).DisplayedAreaSelectionSequence[
        0
    ]
    assert list(area.PresentationPixelAspectRatio) == [2, 1]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [COLUMNS, ROWS]


needs_dcmtk = pytest.mark.skipif(
    shutil.which("dcmp2pgm") is None or shutil.which("dcm2pnm") is None,
    reason="DCMTK is not installed (Debian: apt install dcmtk)",
)


@needs_dcmtk
@pytest.mark.parametrize("name", ["cr", "dx", "monochrome1", "oblong pixels"])
def test_dcmtk_renders_the_source_through_it_as_by_its_own_window(name, tmp_path):
    source = SOURCES[name]()
    source.save_as(tmp_path / "source.dcm", enforce_file_format=True)
    state(source).save_as(tmp_path / "state.dcm", enforce_file_format=True)
    run(tmp_path, "dcmp2pgm", "-p", "state.dcm", "source.dcm", "through.pgm")
    run(tmp_path, "dcm2pnm", "+Wi", "1", "source.dcm", "own.pgm")
    through, own = (np.asarray(Image.open(tmp_path / f"{n}.pgm")) for n in ("through", "own"))
    assert through.std() > 10
    assert np.array_equal(through, own)


@needs_dcmtk
def test_dcmtk_s_checker_finds_nothing(tmp_path):
    source = digital_radiograph(PatientName="Mueller^Aenne")  # it knows no UTF-8
    state(source).save_as(tmp_path / "state.dcm", enforce_file_format=True)
    assert "Test passed" in run(tmp_path, "dcmpschk", "state.dcm")


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
