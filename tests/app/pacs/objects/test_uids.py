"""UIDs are derived: the same in every process, another for any other input."""

import subprocess
import sys

from pydicom.uid import UID

from app.pacs.objects.sop_classes import SOP_CLASSES
from app.pacs.objects.uids import derived_uid
from tests.app.pacs.objects.samples import (
    MADE_AT,
    build_not_analysed,
    build_objects,
    computed_radiograph,
    result_of,
    two_findings,
)


def test_the_value_is_the_one_of_every_process_and_version():
    assert derived_uid("1.2.3", "abc", "", "sr") == "2.25.226730576019678581891047796315491583467"
    program = "from app.pacs.objects.uids import derived_uid; print(derived_uid('1.2.3', 'a', 'b'))"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == derived_uid("1.2.3", "a", "b")


def test_it_is_a_valid_uid_of_a_uuid_of_version_8():
    uid = UID(derived_uid("x"))
    number = int(uid.removeprefix("2.25."))
    assert uid.is_valid
    assert number >> 76 & 0xF == 8
    assert number >> 62 & 0x3 == 2


def test_parts_do_not_run_into_one_another():
    assert derived_uid("ab", "c") != derived_uid("a", "bc")


def test_each_object_of_each_source_model_and_configuration_has_its_own():
    kinds = tuple(SOP_CLASSES)
    first, again = (build(computed_radiograph(), two_findings()) for _ in range(2))
    assert [first[k].SOPInstanceUID for k in kinds] == [again[k].SOPInstanceUID for k in kinds]
    others = [
        build(computed_radiograph(SOPInstanceUID="1.2.3.4.9"), two_findings()),
        build(computed_radiograph(), result_of(digest="f" * 64)),
        build(computed_radiograph(), result_of(configuration="other")),
    ]
    uids = [made[k].SOPInstanceUID for made in (first, *others) for k in kinds if k in made]
    series = [made[k].SeriesInstanceUID for made in (first, *others) for k in kinds if k in made]
    assert len({*uids, *series}) == len(uids) + len(series)


def build(source, result):
    kinds = tuple(SOP_CLASSES) if result.answer.prediction.findings else ("gsps", "sc")
    return build_objects(source, result, kinds, MADE_AT)


def test_a_repeat_is_the_same_to_the_byte():
    first, again = (build(computed_radiograph(), two_findings()) for _ in range(2))
    assert all(first[kind] == again[kind] for kind in first)


def test_another_reason_is_another_report():
    reasons = ("lateral", "lateral", "not the chest")
    made = [build_not_analysed(computed_radiograph(), reason, MADE_AT) for reason in reasons]
    assert made[0].SOPInstanceUID == made[1].SOPInstanceUID != made[2].SOPInstanceUID
