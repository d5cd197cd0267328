"""Feedback: what a reader said becomes labels, and what says nothing is refused."""

from datetime import UTC, datetime, timedelta

import pytest

from app.feedback import clean, outcomes_of
from cxr_mm.core.errors import InputError
from cxr_mm.core.prediction import FindingPrediction, Prediction
from cxr_mm.core.task import Finding, SourceSpec, SplitSpec, Task
from cxr_mm.prediction_log import PredictionLog

SAID = {"flu": True, "covid": False, "sars": False}


def task(problem="multilabel"):
    names = ["flu"] if problem == "binary" else list(SAID)
    return Task(
        name="made_up",
        title="Made up",
        problem=problem,
        findings=tuple(Finding(name=n, title=n.title()) for n in names),
        source=SourceSpec(kind="manifest_csv"),
        split=SplitSpec(protocol="patient"),
        licence="none",
        citation="none",
    )


def give(verdict, labels=None, problem="multilabel", comment=""):
    requested = task(problem)
    prediction = Prediction(
        study_id="study-7",
        task=requested.name,
        model="m",
        digest="d",
        modalities=("note",),
        findings=tuple(
            FindingPrediction(
                finding=n, title=n.title(), probability=0.6, threshold=0.5, positive=SAID[n]
            )
            for n in requested.finding_names
        ),
    )
    return outcomes_of(
        prediction, requested, verdict, labels or {}, comment, lambda s: f"hash of {s}"
    )


def labels(*given, **named):
    return {o.finding: o.label for o in give(*given, **named)}


@pytest.mark.parametrize("problem", ["binary", "multilabel", "multiclass"])
def test_agreement_takes_the_labels_of_the_model(problem):
    expected = {"flu": 1} if problem == "binary" else {"flu": 1, "covid": 0, "sars": 0}
    assert labels("agree", {"flu": "absent"}, problem) == expected


def test_disagreement_takes_those_of_the_reader_and_leaves_out_what_is_not_sure():
    assert labels("disagree", {"flu": "not sure", "covid": "present"}) == {"covid": 1}
    assert labels("disagree", {"flu": "not sure", "covid": "absent"}) == {"covid": 0}
    assert labels("disagree", {"flu": "absent"}, "binary") == {"flu": 0}


@pytest.mark.parametrize(
    ("present", "absent"),
    [(1, 0), ("1", "0"), (True, False), ("yes", "NO"), (" Present ", "absent"), (1.0, 0.0)],
)
def test_labels_may_be_numbers_truth_values_and_words(present, absent):
    given = {"flu": absent, "covid": present, "sars": None}
    assert labels("disagree", given) == {"flu": 0, "covid": 1}


def test_of_classes_the_one_that_is_right_says_all():
    given = {"sars": "present", "flu": "not sure"}
    assert labels("disagree", given, "multiclass") == {"flu": 0, "covid": 0, "sars": 1}


@pytest.mark.parametrize(
    ("given", "problem", "said"),
    [
        ({}, "multilabel", "needs a label"),
        ({"flu": "not sure"}, "binary", "needs a label"),
        ({"flu": "present"}, "binary", "as the model said"),
        ({"flu": "present"}, "multiclass", "as the model said"),
        ({"flu": "absent"}, "multiclass", "0 of 3 classes"),
        ({"flu": "present", "sars": "present"}, "multiclass", "2 of 3 classes"),
        ({"mumps": "present"}, "multilabel", "'mumps'"),
        ({"flu": "maybe"}, "multilabel", "'maybe'"),
        ({"flu": 2}, "multilabel", "present, absent or not sure, or 1 or 0"),
    ],
)
def test_disagreement_that_gives_no_label_is_refused(given, problem, said):
    with pytest.raises(InputError, match=said):
        give("disagree", given, problem)


def test_an_outcome_says_of_which_study_when_and_by_whom_it_came():
    one, two, three = give("agree", comment="clear on CT")
    assert {one.study_hash, two.study_hash, three.study_hash} == {"hash of study-7"}
    assert {o.source for o in (one, two, three)} == {"feedback"}
    assert {o.comment for o in (one, two, three)} == {"clear on CT"}
    assert len({one.outcome_id, two.outcome_id, three.outcome_id}) == 3
    assert datetime.now(UTC) - one.recorded_at < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("comment", "kept"),
    [
        ("  two\r\nlines\tand a bell\x07 ", "two lines and a bell"),
        ("\x00\x1b[31mred", "[31mred"),
        ("right\u202eleft", "right left"),
        ("a lone \ud800 surrogate", "a lone surrogate"),
        ("Übel, 38 °C, ≥ 3 Tage", "Übel, 38 °C, ≥ 3 Tage"),
        ("\n\n", ""),
    ],
)
def test_a_comment_keeps_its_words_and_loses_what_cannot_be_seen(comment, kept):
    assert clean(comment) == kept


def test_a_comment_may_have_500_characters():
    assert len(clean("x" * 500)) == 500
    with pytest.raises(InputError, match=r"comment: It has 501 characters"):
        give("agree", comment="x" * 501)


def test_the_log_keeps_it_also_of_a_study_that_it_does_not_hold(tmp_path):
    with PredictionLog(f"sqlite:///{tmp_path}/log.db", "a secret that is long enough") as log:
        log.add_outcomes(give("agree", comment="first"))
        later = give("disagree", {"flu": "absent", "sars": "not sure"}, comment="second")
        log.add_outcomes(later)
        found = {o.finding: o for o in log.read_outcomes()}
    assert found["flu"] == later[0]
    assert (found["flu"].label, found["flu"].comment) == (0, "second")
    assert (found["sars"].label, found["sars"].comment) == (0, "first")
