"""An object that is filled in is the one that the library builds, element for element."""

import dataclasses
import io
from datetime import timedelta

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from app.pacs.objects import presentation_state, secondary_capture, structured_report
from app.pacs.objects.evidence import CHARACTER_SET, evidence_of
from app.pacs.objects.prepared import Prepared, Varying, elements_of, file_of
from tests.app.pacs.objects.samples import (
    MADE_AT,
    SOURCES,
    finding,
    one_finding,
    region,
    result_of,
    stored,
    two_findings,
)

NOW = ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime")
"""What highdicom sets to the time of building, and every object gets anew."""


def report(source, result, made_at):
    image = evidence_of(source).image
    return structured_report.report_of(image, result, "1.2.3.9", made_at)


def state(source, result, made_at):
    return presentation_state.state_of(evidence_of(source), result, "1.2.3.8", made_at)


def capture(source, result, made_at):
    pixels = np.zeros((7 + len(result.all_warnings), 11, 3), np.uint8)
    return secondary_capture.capture_of(evidence_of(source), result, "1.2.3.7", made_at, pixels)


KINDS = {
    "sr": (structured_report.build, report),
    "gsps": (presentation_state.build, state),
    "sc": (secondary_capture.build, capture),
}


def results():
    """Answers of several shapes, each twice with other values."""
    for probability, positive, certainty in ((0.1, False, "absent"), (0.987654321, True, None)):
        values = {"probability": probability, "positive": positive, "certainty": certainty}
        yield result_of(finding("effusion", **values))
        yield result_of(finding("effusion", threshold=None, **values), finding("pneumonia"))
        yield dataclasses.replace(
            result_of(finding("effusion", **values), warnings=(f"Warning \\ {probability} µ",)),
            predecessor=f"1.2.{probability:.1f}",
            region=region() if positive else None,
        )
        yield two_findings()
        yield one_finding()


@pytest.mark.parametrize("kind", KINDS)
def test_each_object_is_the_one_that_the_library_builds(kind):
    build, content_of = KINDS[kind]
    prepared, built = Prepared(counted := Counted(build)), 0
    for minutes, name in enumerate(("cr", "monochrome1", "oblong pixels")):
        for result in results():
            content = content_of(SOURCES[name](), result, MADE_AT + timedelta(minutes=minutes))
            found, expected = read(prepared, content), build(content)
            expected.SpecificCharacterSet = CHARACTER_SET
            expected = stored(expected)
            for keyword in NOW:
                assert (keyword in found) == (keyword in expected)
                found.pop(keyword, None), expected.pop(keyword, None)
            assert found == expected
            assert found.file_meta == expected.file_meta
            built += 1
    assert counted.calls < built / 2


class Counted:
    def __init__(self, build):
        self.build, self.calls = build, 0

    def __call__(self, content):
        self.calls += 1
        return self.build(content)


@dataclasses.dataclass(frozen=True)
class Content:
    code: Code
    text: Varying[str]
    number: Varying[float | None]


def dataset(text):
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.PatientComments = text
    return made


def build(content):
    made = dataset(content.text)
    made.CodeValue, made.CodeMeaning = content.code.value, content.code.meaning
    if content.number is not None:
        made.PatientWeight = content.number
    return made


def read(prepared, content):
    """As its file is read, in the character set that every object gets."""
    characters = Dataset()
    characters.SpecificCharacterSet = CHARACTER_SET
    elements = prepared.elements(content) | elements_of(characters)
    return pydicom.dcmread(io.BytesIO(file_of(elements)))


def test_nothing_of_an_earlier_object_is_left():
    prepared = Prepared(build)
    first = read(prepared, Content(Code("1", "99X", "one"), "first", 1.5))
    other = read(prepared, Content(Code("1", "99X", "another"), "", None))
    assert (first.CodeMeaning, first.PatientComments, first.PatientWeight) == ("one", "first", 1.5)
    assert (other.CodeMeaning, other.PatientComments) == ("another", "")
    assert "PatientWeight" not in other


def test_what_is_computed_from_a_varying_value_is_an_error():
    prepared = Prepared(lambda content: dataset(f"Text: {content.text}"))
    with pytest.raises(ValueError, match="PatientComments is computed"):
        prepared.elements(Content(Code("1", "99X", "one"), "first", None))
