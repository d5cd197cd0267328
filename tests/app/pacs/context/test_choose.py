"""Choice: the latest value before the study within its age; what is left out is named."""

from app.pacs.context.choose import choose, wants_context
from tests.app.pacs.context.conftest import STUDY, before, fact


def chosen(task, *facts):
    return choose(task, facts, STUDY, 72.0)


def test_the_latest_before_the_study_counts_in_the_unit_of_the_task(task):
    context = chosen(
        task,
        fact(value="8", at=before(30)),
        fact(value="5.5", unit="mg/dL", at=before(2)),
        fact(value="99", at=before(-1)),
        fact("8331-1", "101.3", "[degF]"),
        fact("wbc", "11.2", "10*9/L"),
        fact("999-9", "1", "mg/L"),
    )
    assert context.clinical == {"crp": "55.0", "temperature": "38.5", "wbc": "11.2"}
    assert context.missing == ("note",)


def test_what_is_late_or_old_is_left_out_by_name(task):
    late = chosen(task, fact(at=before(-0.01)))
    assert late.clinical == {}
    assert late.warnings == ("context: crp: left out: 1 later than the study",)
    old = chosen(task, fact(at=before(73)))
    assert old.warnings == ("context: crp: left out: 1 too old",)
    assert (late.dropped, old.dropped) == (("later than the study",), ("too old",))
    assert chosen(task, fact(at=before(72))).clinical == {"crp": "12.0"}
    assert chosen(task, fact(at=STUDY)).clinical == {"crp": "12.0"}


def test_a_unit_that_cannot_be_converted_leaves_the_value_before(task):
    context = chosen(task, fact(value="8", at=before(9)), fact(value="80", unit="mmol/L"))
    assert context.clinical == {"crp": "8.0"}
    assert context.warnings == (
        "context: crp: left out: unit 'mmol/L' cannot be converted. Send it in mg/L (UCUM)",
    )
    assert context.dropped == ("unit cannot be converted",)


def test_what_is_no_number_is_left_out_and_a_limit_stays(task):
    for text in ("hemolysed", "1" * 41, "nan", "inf", "1e999", "0x1F", "1_0", "12 mg"):
        assert chosen(task, fact(value=text)).clinical == {}, text
    assert chosen(task, fact(value="<0.5", unit="mg/dL")).clinical == {"crp": "<5.0"}


def test_a_correction_replaces_and_a_deletion_takes_back(task):
    wrong, right = fact(value="120"), fact(value="12")
    assert chosen(task, wrong, right).clinical == {"crp": "12.0"}
    earlier = fact(value="8", at=before(5))
    assert chosen(task, earlier, wrong, fact(value="")).clinical == {"crp": "8.0"}


def test_the_note_is_of_a_code_that_the_task_names(task):
    note = fact("11488-4", "Fever for three days.", "")
    assert chosen(task, note).note == "Fever for three days."
    assert chosen(task, fact("note", "Cough.", "", before(0.5)), note).note == "Cough."
    assert chosen(task, fact("18748-4", "Pneumonia on the left.", "")).note == ""


def test_the_digest_is_of_what_the_model_gets(task):
    one, same = chosen(task, fact(value="5")), chosen(task, fact(value="0.5", unit="mg/dL"))
    assert one.digest == same.digest != chosen(task, fact(value="6")).digest
    assert chosen(task).digest == ""


def test_only_what_has_a_code_is_missed_and_names_do_without(task):
    bare = tuple(feature.model_copy(update={"loinc": ()}) for feature in task.clinical)
    other = task.model_copy(update={"clinical": bare})
    found = chosen(other, fact("crp", "12"), fact("1988-5", "13"))
    assert (found.clinical, found.missing) == ({"crp": "12.0"}, ("note",))
    assert wants_context(other)
    assert not wants_context(task.model_copy(update={"clinical": (), "note": None}))
