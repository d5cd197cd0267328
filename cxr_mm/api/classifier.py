"""StudyClassifier: a task as an estimator of scikit-learn, over a DataFrame of studies."""

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from cxr_mm.api.training import Overrides, TaskInput, task_given, train
from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.types import plural
from cxr_mm.inference.table import ERROR


class StudyClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of studies, to stand in a comparison beside other estimators.

    `X` is a DataFrame as `cxr_mm.train` takes it, without the labels, N rows. `y` is (N,) for a
    binary task (of two values the greater is positive) and for a multiclass task (names of
    findings); for a multilabel task it is (N, F) of 1, 0 or NaN in the order of the findings.

    Args:
        task: as `cxr_mm.train` has it.
        params: likewise.
        accept_any_image: warn of an image that the input gate would reject.

    Attributes:
        model_: the trained `Model`.
        classes_: the two values of `y`; or names of findings, sorted for a multiclass task.
    """

    def __init__(
        self, task: TaskInput, params: Overrides | None = None, accept_any_image: bool = False
    ) -> None:
        self.task, self.params, self.accept_any_image = task, params, accept_any_image

    def fit(self, X: pd.DataFrame, y: ArrayLike) -> Self:  # noqa: N803  as scikit-learn names them
        """Train on studies; see `cxr_mm.train` for what it raises.

        Raises:
            InputError: `y` has another shape or other values than the task.
        """
        task = task_given(self.task)
        labels, self.classes_ = _labels(task.problem, task.finding_names, np.asarray(y))
        others = {column for f in task.findings for column in (f.name, f.raw_column)}
        table = X.drop(columns=others, errors="ignore")
        named = dict(zip(task.finding_names, labels.T, strict=True))
        self.model_ = train(
            task,
            table.assign(**named),
            params=self.params,
            evaluate=False,
            accept_any_image=self.accept_any_image,
            progress=False,
        )
        return self

    def predict_proba(self, X: pd.DataFrame) -> NDArray[np.float64]:  # noqa: N803
        """Calibrated probabilities (N, C) in the order of `classes_`; a multilabel task's do not
        sum to 1.

        Raises:
            ManifestError: a row cannot be predicted; the first is named.
        """
        probabilities = self._columns(X, "probability").astype(np.float64)
        if self.model_.task.problem == "binary":
            return np.hstack([1 - probabilities, probabilities])
        return probabilities

    def predict(self, X: pd.DataFrame) -> NDArray[Any]:  # noqa: N803
        """Predict at the operating point: values of `y` (N,), or (N, F) of 1 and 0.

        Raises:
            ManifestError: as `predict_proba`.
        """
        positive = self._columns(X, "positive").astype(int)
        problem = self.model_.task.problem
        if problem == "multilabel":
            return positive
        chosen = positive[:, 0] if problem == "binary" else positive.argmax(axis=1)
        values: NDArray[Any] = self.classes_[chosen]
        return values

    def _columns(self, X: pd.DataFrame, value: str) -> NDArray[Any]:  # noqa: N803
        """One value of each finding, (N, F); of a multiclass task in the order of `classes_`."""
        check_is_fitted(self, "model_")
        found = self.model_.predict_frame(X, progress=False)
        bad = found[found[ERROR].notna()]
        if len(bad):
            first = bad.iloc[0]
            reason = first[ERROR].rstrip(".")
            raise ManifestError(
                f"{len(bad)} of {plural(len(found), 'row')} cannot be predicted: {reason}",
                field=f"the DataFrame, study {first['study_id']}",
                remedy="Leave such rows out; Model.predict_frame lists them",
            )
        task = self.model_.task
        names = self.classes_ if task.problem == "multiclass" else task.finding_names
        return found[[f"{value}.{name}" for name in names]].to_numpy()


def _labels(
    problem: str, findings: tuple[str, ...], y: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels (N, F) of 1, 0 or NaN, and the classes.

    Raises:
        InputError: `y` has another shape or other values than the task.
    """
    if problem == "multilabel":
        if y.ndim != 2 or y.shape[1] != len(findings):
            raise _unfit(f"{y.shape} is not (N, {len(findings)})", f"one of {', '.join(findings)}")
        return y, np.array(findings)
    classes = np.unique(y)
    if y.ndim != 1 or (problem == "binary" and len(classes) != 2):
        raise _unfit(f"{y.shape} with {plural(len(classes), 'value')}", "two values, as 1 and 0")
    if problem == "binary":
        return (y == classes[1]).astype(int)[:, None], classes
    if unknown := set(classes.tolist()) - set(findings):
        raise _unfit(f"{', '.join(map(str, sorted(unknown)))}", f"names of {', '.join(findings)}")
    return np.stack([(y == name).astype(int) for name in findings], axis=1), np.sort(findings)


def _unfit(found: str, expected: str) -> InputError:
    return InputError(f"{found} does not fit the task", field="y", remedy=f"Give {expected}")
