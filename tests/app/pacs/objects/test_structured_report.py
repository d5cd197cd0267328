"""The report, read back from its bytes: every number and statement of the answer is in it."""

import dataclasses

import numpy as np
import pytest
from highdicom import sr

from app.pacs.objects import codes
from cxr_mm.core.prediction import NOTICE, SYNTHETIC
from cxr_mm.core.task import FindingCode
from tests.app.pacs.objects.samples import (
    DIGEST,
    MADE_AT,
    build_not_analysed,
    build_objects,
    computed_radiograph,
    finding,
    one_finding,
    result_of,
    stored,
    two_findings,
)


def report(result, source=None):
    made = build_objects(source or computed_radiograph(), result, ("sr",), MADE_AT)["sr"]
    return sr.Comprehensive3DSR.from_dataset(stored(made))


def groups_of(result):
    return report(result).content.get_image_measurement_groups()


def evaluations(group):
    return {e.name.value: e.value.meaning for e in group.get_qualitative_evaluations()}


def texts(made):
    container = next(
        item
        for item in made.content[0].ContentSequence
        if item.name == codes.QUALITATIVE_EVALUATIONS
    )
    return list(container.ContentSequence)


def test_every_number_is_equal_to_the_last_bit():
    result = two_findings()
    for group, given in zip(groups_of(result), result.answer.prediction.findings, strict=True):
        measured = {m.name.value: m.value for m in group.get_measurements()}
        assert measured == {"122157": given.probability, "operating_point": given.threshold}
        assert {m.unit.value for m in group.get_measurements()} == {"1"}


def test_each_finding_is_present_absent_or_undetermined_and_decided():
    first, second = groups_of(two_findings())
    assert evaluations(first) == {"121052": "Absent", "decision": "Negative"}
    assert evaluations(second) == {"121052": "Undetermined", "decision": "Positive"}


def test_without_conformal_bounds_presence_is_the_decision():
    result = result_of(finding("effusion", positive=True, certainty=None))
    assert evaluations(groups_of(result)[0])["121052"] == "Present"


def test_a_class_has_no_operating_point():
    result = result_of(finding("effusion", threshold=None, positive=True, certainty="present"))
    (group,) = groups_of(result)
    assert [m.name.value for m in group.get_measurements()] == ["122157"]
    assert evaluations(group) == {"121052": "Present", "likeliest_class": "Positive"}


def test_the_algorithm_is_named_with_its_version_digest_and_configuration():
    text = report(two_findings()).to_json()
    for part in (f"digest={DIGEST}", "task=synthetic", "configuration=c0ffee", "region=Grad-CAM"):
        assert part in text


def test_a_finding_has_the_task_s_code_or_a_private_one():
    result = two_findings()
    first, second = result.task.findings
    code = FindingCode(scheme="SCT", value="60046008", meaning="Pleural effusion")
    findings = (
        first.model_copy(update={"code": None}),
        second.model_copy(update={"code": code}),
    )
    task = result.task.model_copy(update={"name": "own", "findings": findings})
    private, public = groups_of(dataclasses.replace(result, task=task))
    assert (private.finding_type.value, private.finding_type.scheme_designator) == (
        "own.consolidation",
        "99CXRMM",
    )
    assert (public.finding_type.value, public.finding_type.scheme_designator) == (
        "60046008",
        "SCT",
    )


def test_a_bundle_from_before_codes_has_those_of_its_task_s_file():
    result = two_findings()
    bare = tuple(f.model_copy(update={"code": None}) for f in result.task.findings)
    task = result.task.model_copy(update={"findings": bare})
    found = [g.finding_type.value for g in groups_of(dataclasses.replace(result, task=task))]
    assert found == [f.code.value for f in result.task.findings]


def test_inputs_warnings_and_notice_are_of_the_whole_answer():
    items = texts(report(two_findings()))
    coded = [i.value.meaning for i in items if i.ValueType == "CODE"]
    comments = [i.value for i in items if i.ValueType == "TEXT"]
    assert coded == ["Image", "Clinical values"]
    assert comments == [NOTICE, SYNTHETIC, "Warning: The image is blurred; ≥ 3 µm"]


def test_the_region_of_one_finding_is_a_planar_region():
    result = one_finding()
    (group,) = report(result).content.get_planar_roi_measurement_groups()
    outline = np.asarray(group.roi.value)
    assert np.array_equal(outline, result.region.closed)
    assert group.roi.graphic_type.value == "POLYLINE"
    assert [m.value for m in group.get_measurements()] == [0.75, 1 / 3]


def test_among_several_findings_it_is_what_the_probability_was_inferred_from():
    result = two_findings()
    first, second = (g.get_measurements()[0] for g in groups_of(result))
    assert not first.referenced_coordinates
    (outline,) = second.referenced_coordinates
    assert np.array_equal(outline.value, result.region.closed)


def test_without_a_region_there_is_none():
    result = dataclasses.replace(two_findings(), region=None)
    assert "SCOORD" not in report(result).to_json()


def test_it_is_complete_unverified_and_preliminary():
    made = report(two_findings())
    flags = made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")


@pytest.mark.parametrize("analysed", [True, False])
def test_the_source_is_its_evidence(analysed):
    source = computed_radiograph()
    made = report(two_findings(), source) if analysed else not_analysed(source)
    ((study, series, instance, kind),) = made.get_evidence()
    assert (study, series) == (source.StudyInstanceUID, source.SeriesInstanceUID)
    assert (instance, kind) == (source.SOPInstanceUID, source.SOPClassUID)


def not_analysed(source):
    made = build_not_analysed(source, "The view is lateral", MADE_AT)
    return sr.Comprehensive3DSR.from_dataset(stored(made))


def test_what_was_not_analysed_says_so_with_the_reason_and_no_number():
    made = not_analysed(computed_radiograph())
    assert [i.value if i.ValueType == "TEXT" else i.value.value for i in texts(made)] == [
        "not_analysed",
        "Not analysed: The view is lateral",
        NOTICE,
    ]
    assert "NUM" not in {i.ValueType for i in made.content[0].ContentSequence}
    assert made.CompletionFlag == "COMPLETE"


def test_a_new_version_names_the_report_that_it_replaces():
    first = report(one_finding())
    assert "PredecessorDocumentsSequence" not in first
    second = report(
        dataclasses.replace(
            one_finding(), predecessor=first.SOPInstanceUID, configuration="of other context"
        )
    )
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (document,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == first.StudyInstanceUID
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert document.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert document.ReferencedSOPClassUID == first.SOPClassUID
    assert second.SOPInstanceUID != first.SOPInstanceUID
