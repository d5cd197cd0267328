"""Worklist: of many studies those to look at first, by whichever door they were answered."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cxr_mm.core.errors import InputError, did_you_mean
from cxr_mm.core.prediction import SYNTHETIC, FindingPrediction, Prediction
from cxr_mm.core.task import Task
from cxr_mm.inference.shards import PREDICTIONS, Shards, part
from cxr_mm.inference.suspicion import ANY, counting_findings, suspicions
from cxr_mm.inference.table import VALUES, PredictionTable

WORKLIST_FILE = "worklist.csv"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute (OWASP, CSV injection)."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """Which studies of a worklist are shown, and by what they are ordered.

    Args:
        finding: the one that counts, or `ANY`.
        positive, uncertain: only studies of which a finding that counts is so.
        warned: only studies with a warning.
        text: only studies whose id holds this, in upper or lower case.
    """

    finding: str = ANY
    positive: bool = False
    uncertain: bool = False
    warned: bool = False
    text: str = ""

    def takes(self, prediction: Prediction, task: Task) -> bool:
        """Whether a study is wanted."""
        counting = counting_findings(prediction, task, self.finding)
        return (
            (not self.positive or any(f.positive for f in counting))
            and (not self.uncertain or any(f.certainty == "uncertain" for f in counting))
            and (not self.warned or bool(prediction.warnings))
            and self.text.strip().casefold() in prediction.study_id.casefold()
        )


def check_finding(task: Task, finding: str) -> None:
    """Check that a worklist can be ordered by a finding.

    Raises:
        InputError: the task has none of this name.
    """
    if finding not in (ANY, *task.finding_names):
        known = ", ".join(task.finding_names)
        raise InputError(
            f"the task has no finding {finding}",
            field="--finding",
            remedy=did_you_mean(finding, task.finding_names, f"There are {known}"),
        )


def most_suspicious(shards: Shards, task: Task, wanted: Wanted, most: int) -> list[Prediction]:
    """The studies of a scored folder to look at first; of equals, those that came first.

    Memory does not grow with the number of studies.

    Args:
        shards: all of them done.
        task: of the bundle that answered.
        wanted: which studies.
        most: of them.
    """
    best: list[tuple[float, Prediction]] = []
    for shard in range(len(shards)):
        with shards.out.open(part(PREDICTIONS, shard)) as stream:
            table = pq.read_table(stream).to_pandas()
        scores = _suspicions(table, task, wanted.finding)
        least = best[-1][0] if len(best) == most else -np.inf
        for row in np.flatnonzero(scores > least):
            prediction = _prediction(table.iloc[row], task)
            if wanted.takes(prediction, task):
                best.append((float(scores[row]), prediction))
        best = sorted(best, key=lambda scored: -scored[0])[:most]
    return [prediction for _, prediction in best]


def _suspicions(table: pd.DataFrame, task: Task, finding: str) -> Any:
    names = task.finding_names
    probabilities, thresholds = (
        table[[f"{value}.{name}" for name in names]].to_numpy(np.float64)
        for value in ("probability", "threshold")
    )
    return suspicions(probabilities, thresholds, task, finding)


def _prediction(row: "pd.Series[Any]", task: Task) -> Prediction:
    """The prediction that a row of a prediction table is of; its warnings are one text."""
    codec = PredictionTable(task.finding_names)
    values = {value: codec.read(row, value) for value in VALUES}
    return Prediction(
        study_id=row["study_id"],
        task=task.name,
        model=row["model"],
        digest=row["digest"],
        modalities=row["modalities"].split("+"),
        findings=tuple(
            FindingPrediction(
                finding=finding.name,
                title=finding.title,
                **{value: values[value].get(finding.name) for value in VALUES},
            )
            for finding in task.findings
        ),
        warnings=(row["warnings"],) if row["warnings"] else (),
        synthetic=task.synthetic,
    )


def written(predictions: Iterable[Prediction], task: Task) -> str:
    """Write a CSV with one row per prediction, its columns named as `score` names them.

    A text that a spreadsheet would compute has an apostrophe before it.
    """
    codec, stream = PredictionTable(task.finding_names), io.StringIO(newline="")
    table = csv.DictWriter(
        stream,
        ["study_id", "modalities", "warnings", *codec.columns, "model", "digest", "notice"],
        extrasaction="ignore",
        quoting=csv.QUOTE_NONNUMERIC,  # a list separator other than the comma splits no cell then
    )
    table.writeheader()
    for prediction in predictions:
        notice = f"{prediction.notice} {SYNTHETIC}" if prediction.synthetic else prediction.notice
        row = {**codec.row(prediction), "notice": notice}
        table.writerow({name: _cell(value) for name, value in row.items()})
    return stream.getvalue()


def _cell(value: Any) -> Any:
    computed = isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value)
    return f"'{value}" if computed else value
