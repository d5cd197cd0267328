"""StudyClassifier: an estimator of scikit-learn; what does not fit its task is said."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from cxr_mm import StudyClassifier
from cxr_mm.api.classifier import _labels
from cxr_mm.core.errors import InputError, ManifestError, TaskError

FINDINGS = ("viral", "bacterial")


class Answers:
    """Stands for a trained model: a table of predictions."""

    def __init__(self, problem, findings, errors=(None, None)):
        self.task = type("Task", (), {"problem": problem, "finding_names": findings})
        values = {f"probability.{name}": [0.2 + n, 0.7] for n, name in enumerate(findings)}
        values |= {f"positive.{name}": [bool(n), True] for n, name in enumerate(findings)}
        self.table = pd.DataFrame({"study_id": ["a", "b"], "error": errors, **values})

    def predict_frame(self, data, progress):
        return self.table


def fitted(problem, findings, classes, **more):
    classifier = StudyClassifier("synthetic")
    classifier.model_, classifier.classes_ = Answers(problem, findings, **more), classes
    return classifier


def test_it_is_cloned_with_its_parameters():
    classifier = StudyClassifier("synthetic", params={"ingest": {"size": 64}})
    assert clone(classifier).get_params() == classifier.get_params()
    assert classifier.set_params(accept_any_image=True).accept_any_image
    with pytest.raises(NotFittedError):
        classifier.predict(pd.DataFrame())


def test_columns_are_in_the_order_of_the_classes():
    binary = fitted("binary", ("effusion",), np.array(["no", "yes"]))
    np.testing.assert_allclose(binary.predict_proba(None), [[0.8, 0.2], [0.3, 0.7]])
    assert list(binary.predict(None)) == ["no", "yes"]
    several = fitted("multiclass", FINDINGS, np.sort(FINDINGS))
    np.testing.assert_allclose(several.predict_proba(None), [[1.2, 0.2], [0.7, 0.7]])
    assert several.predict(None)[0] == "bacterial"
    many = fitted("multilabel", FINDINGS, np.array(FINDINGS))
    assert many.predict(None).tolist() == [[0, 1], [1, 1]]


def test_a_row_that_cannot_be_predicted_is_said():
    classifier = fitted("binary", ("effusion",), np.array([0, 1]), errors=(None, "nothing."))
    with pytest.raises(
        ManifestError, match=r"study b: 1 of 2 rows cannot be predicted: nothing\. L"
    ):
        classifier.predict_proba(None)


@pytest.mark.parametrize(
    ("problem", "y", "labels", "classes"),
    [
        ("binary", ["yes", "no"], [[1], [0]], ["no", "yes"]),
        ("multiclass", ["viral", "bacterial"], [[1, 0], [0, 1]], ["bacterial", "viral"]),
        ("multilabel", [[1, 0], [1, 1]], [[1, 0], [1, 1]], ["viral", "bacterial"]),
    ],
)
def test_labels_of_every_problem(problem, y, labels, classes):
    found, named = _labels(problem, FINDINGS, np.array(y))
    assert found.tolist() == labels
    assert list(named) == classes


@pytest.mark.parametrize(
    ("problem", "y", "fault"),
    [
        ("binary", [1, 1], "1 value"),
        ("multiclass", ["viral", "other"], "other does not fit"),
        ("multilabel", [1, 0], r"not \(N, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_said(problem, y, fault):
    with pytest.raises(InputError, match=fault):
        _labels(problem, FINDINGS, np.array(y))


def test_a_task_that_is_none_is_said():
    with pytest.raises(TaskError, match=r"^task: .*problem"):
        StudyClassifier({"name": "t"}).fit(pd.DataFrame(), [])
