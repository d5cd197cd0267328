"""Patient and study of every object are the source's; what it lacks is empty and not invented."""

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from app.pacs.objects.evidence import long_string
from app.pacs.objects.sop_classes import SOP_CLASSES
from cxr_mm.core.errors import RadiographError
from tests.app.pacs.objects.samples import (
    MADE_AT,
    build_not_analysed,
    build_objects,
    computed_radiograph,
    digital_radiograph,
    stored,
    two_findings,
)

TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "StudyID", "ReferringPhysicianName"),
)


def every(source, result=None):
    made = build_objects(source, result or two_findings(), tuple(SOP_CLASSES), MADE_AT)
    return [*made.values(), build_not_analysed(source, "The view is lateral", MADE_AT)]


def test_patient_and_study_are_the_source_s(source):
    for made in map(stored, every(source)):
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.SeriesInstanceUID != source.SeriesInstanceUID
        for keyword in TYPE_2:
            assert str(made[keyword].value or "") == str(source.get(keyword) or "")


def test_names_are_the_same_in_utf_8():
    latin = computed_radiograph(PatientName="Müller^Änne")
    ideographic = computed_radiograph(
        SpecificCharacterSet="ISO_IR 192", PatientName="Żółć=山田^太郎"
    )
    for made in map(stored, every(latin)):
        assert made.SpecificCharacterSet == "ISO_IR 192"
        assert made.PatientName == "Müller^Änne"
    assert {str(m.PatientName) for m in map(stored, every(ideographic))} == {"Żółć=山田^太郎"}


def test_a_code_of_the_procedure_is_taken_over_in_utf_8():
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "T1", "99LOCAL"
    code.CodeMeaning = "Thorax im Stehen, Übersicht"
    source = computed_radiograph(ProcedureCodeSequence=Sequence([code]))
    for made in map(stored, every(source)):
        (item,) = made.ProcedureCodeSequence
        assert item.CodeMeaning == "Thorax im Stehen, Übersicht"


def test_the_source_is_not_changed(source):
    before = source.to_json()
    every(source)
    assert source.to_json() == before


def test_an_invalid_value_counts_as_lacking_but_not_that_of_an_identifier():
    source = computed_radiograph()
    source.add_new("PatientBirthDate", "LO", "1970 or so")
    source.add_new("PatientSex", "CS", "UNKNOWN")
    source.add_new("PatientAge", "AS", "56")
    source.add_new("PatientID", "LO", "P" * 80)
    for made in every(source):
        assert not made.PatientBirthDate
        assert not made.PatientSex
        assert "PatientAge" not in made
        assert made.PatientID == "P" * 80


def test_nothing_else_of_the_source_is_taken_over():
    source = digital_radiograph(InstitutionName="Hospital", OperatorsName="Operator^One")
    source.add_new(0x00091001, "LO", "private")
    for made in every(source):
        text = made.to_json()
        assert not [word for word in ("Hospital", "Operator", "private") if word in text]


def test_times_are_those_of_the_answer():
    for made in every(computed_radiograph()):
        assert (made.InstanceCreationDate, made.InstanceCreationTime) == ("20260304", "050607")
        assert "2026112" not in made.to_json()


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "Rows"])
def test_a_header_without_what_identifies_it_is_a_typed_error(keyword):
    source = computed_radiograph()
    del source[keyword]
    with pytest.raises(RadiographError) as raised:
        every(source)
    assert raised.value.field == keyword
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [("SOPClassUID", "FD", 1.25), ("SeriesInstanceUID", "IS", 7), ("Rows", "UL", 1 << 16)],
)
def test_what_identifies_it_by_another_vr_is_a_typed_error(keyword, vr, value):
    source = computed_radiograph()
    source[keyword] = DataElement(keyword, vr, value)
    with pytest.raises(RadiographError) as raised:
        every(source)
    assert raised.value.field == keyword


def test_another_class_of_objects_is_a_typed_error():
    source = computed_radiograph(SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    with pytest.raises(RadiographError, match="class of objects"):
        every(source)


def test_a_long_string_is_one_line_of_64_characters_at_most():
    assert long_string("a\\b\n c") == "a/b c"
    assert long_string("x" * 64) == "x" * 64
    assert long_string("x" * 65) == "x" * 61 + "..."


@pytest.mark.parametrize(
    ("part", "side", "expected"),
    [("CHEST", None, None), (None, None, ""), (None, "L", "L"), ("SHOULDER", "R", "R")],
)
def test_body_part_and_side_are_the_source_s(part, side, expected):
    source = computed_radiograph(BodyPartExamined=part)
    if side:
        source.Laterality = side
    for made in build_objects(source, two_findings(), ("gsps", "sc", "seg"), MADE_AT).values():
        assert made.get("BodyPartExamined") == part
        assert made.get("Laterality") == expected
