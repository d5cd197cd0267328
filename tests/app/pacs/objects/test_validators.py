"""Every object passes the validators of others, and DCMTK prints its numbers."""

import dataclasses
import os
import shutil
import subprocess

import pytest

from app.pacs.objects.sop_classes import SOP_CLASSES
from tests.app.pacs.objects.samples import (
    MADE_AT,
    SOURCES,
    build_not_analysed,
    build_objects,
    digital_radiograph,
    one_finding,
    two_findings,
)

IODS = {
    SOP_CLASSES["seg"]: "Segmentation",
    SOP_CLASSES["pdf"]: "EncapsulatedPDF",
    SOP_CLASSES["sr"]: "Comprehensive3DSR",
    SOP_CLASSES["gsps"]: "GrayscaleSoftcopyPresentationState",
    SOP_CLASSES["sc"]: "SCImage",
}
"""What dciodvfy calls them."""
UNLIMITED = [
    f"-Djdk.xml.xpath{limit}=0" for limit in ("ExprGrpLimit", "ExprOpLimit", "TotalOpLimit")
]
"""PixelMed's rules are larger than a JDK since 2022 lets style sheets be."""
SHORT = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
"""A run of seconds ends before the second compiler would pay: half the processor time."""


def needs(program, package):
    return pytest.mark.skipif(
        shutil.which(program) is None,
        reason=f"{program} is not installed (Debian: apt install {package})",
    )


def printed(folder, made, program, *options):
    path = folder / "object.dcm"
    made.save_as(path, enforce_file_format=True)
    environment = os.environ | {"JAVA_TOOL_OPTIONS": " ".join([*UNLIMITED, *SHORT])}
    done = subprocess.run(
        [program, *options, str(path)], capture_output=True, env=environment, check=False
    )
    return (done.stdout + done.stderr).decode()


@needs("dciodvfy", "dicom3tools")
@pytest.mark.parametrize("name", SOURCES)
def test_dciodvfy_finds_no_error(name, tmp_path):
    source = SOURCES[name]()
    made = build_objects(source, two_findings(), tuple(SOP_CLASSES), MADE_AT)
    again = dataclasses.replace(one_finding(), predecessor=made["sr"].SOPInstanceUID)
    private = build_objects(source, again, ("sr",), MADE_AT)["sr"]
    none = build_not_analysed(source, "The view is lateral", MADE_AT)
    for each in (*made.values(), private, none):
        text = printed(tmp_path, each, "dciodvfy", "-new")
        assert not [line for line in text.splitlines() if line.startswith("Error")]
        assert IODS[each.SOPClassUID] in text.splitlines()


@needs("DicomSRValidator", "pixelmed-apps")
@pytest.mark.parametrize("kind", ["two findings", "one finding", "not analysed"])
def test_pixelmed_finds_no_error(kind, tmp_path):
    source = digital_radiograph()
    if kind == "not analysed":
        made = build_not_analysed(source, "The view is lateral", MADE_AT)
    else:
        result = two_findings() if kind == "two findings" else one_finding()
        result = dataclasses.replace(result, predecessor="2.25.1")
        made = build_objects(source, result, ("sr",), MADE_AT)["sr"]
    text = printed(tmp_path, made, "DicomSRValidator")
    assert "Found Root Template TID_1500" in text
    assert "IOD validation complete" in text
    assert "Error" not in text


@needs("dsrdump", "dcmtk")
def test_dcmtk_prints_every_number_and_statement(tmp_path):
    made = build_objects(digital_radiograph(), two_findings(), ("sr",), MADE_AT)["sr"]
    text = printed(tmp_path, made, "dsrdump", "+Pc", "+Pl")
    for part in (
        'contains NUM:(122157,DCM,"Probability")="0.12345678901235"',
        'contains NUM:(operating_point,99CXRMM,"Operating point (threshold)")="0.33333333333333"',
        'contains CODE:(121052,DCM,"Presence of property")=(272519000,SCT,"Absent")',
        'contains CODE:(121052,DCM,"Presence of property")=(373068000,SCT,"Undetermined")',
        "inferred from SCOORD",
        "Not a medical device",
    ):
        assert part in text, text
