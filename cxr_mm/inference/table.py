"""Prediction table: the one codec between predictions and rows, and the one loop that fills it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cxr_mm.core.errors import InputError
from cxr_mm.core.prediction import Prediction
from cxr_mm.core.study import Study
from cxr_mm.core.types import subset_name
from cxr_mm.data.studies import BadRow, bad_row
from cxr_mm.inference.predictor import EncodedAnswer, Predictor
from cxr_mm.models.decision import Decisions

BATCH = 16
"""Studies answered at once; larger batches leave the processor's cache and take longer an image."""
ERROR = "error"
"""Column with the reason why a row was not predicted, where a table keeps such rows."""
STUDY = {
    **dict.fromkeys(
        ("study_id", "modalities", "classes", "warnings", "model", "digest"), pa.string()
    ),
    "coverage": pa.float64(),
}
VALUES = {
    "probability": pa.float64(),
    "threshold": pa.float64(),
    "positive": pa.bool_(),
    "certainty": pa.string(),
}
"""Values of each finding; names as in `FindingPrediction`."""


@dataclass(frozen=True)
class PredictionTable:
    """Predictions as rows: columns of the study, and `VALUE.FINDING` for each value of a finding.

    Args:
        findings: names of the task's findings.
    """

    findings: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the findings, in order."""
        return tuple(f"{value}.{name}" for name in self.findings for value in VALUES)

    def schema(self, **others: pa.DataType) -> pa.Schema:
        """Arrow types of all columns, `others` besides; a first group of rows may lack values."""
        kinds = {f"{value}.{name}": VALUES[value] for name in self.findings for value in VALUES}
        return pa.schema({**STUDY, **others, **kinds})

    def values(self, prediction: Prediction) -> dict[str, Any]:
        """Columns of the findings of one prediction; None where a value does not exist."""
        return {
            f"{value}.{found.finding}": getattr(found, value)
            for found in prediction.findings
            for value in VALUES
        }

    def row(self, prediction: Prediction) -> dict[str, Any]:
        """All columns of one prediction."""
        return {
            "study_id": prediction.study_id,
            "modalities": subset_name(prediction.modalities),
            "classes": "+".join(prediction.classes),
            "coverage": prediction.coverage,
            "warnings": "; ".join(prediction.warnings),
            "model": prediction.model,
            "digest": prediction.digest,
            **self.values(prediction),
        }

    def frame(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Join rows that contain the columns of the findings, thresholds as numbers."""
        table = pd.DataFrame(list(rows))
        thresholds = [f"threshold.{name}" for name in self.findings if len(table)]
        return table.astype(dict.fromkeys(thresholds, np.float64))

    def arrays(
        self, probabilities: NDArray[np.float64], decisions: Decisions
    ) -> dict[str, NDArray[Any]]:
        """Columns of the findings of N studies.

        Args:
            probabilities: (N, F) calibrated.
            decisions: on them.
        """
        values: dict[str, NDArray[Any]] = {
            "probability": probabilities,
            "threshold": decisions.thresholds,
            "positive": decisions.positives,
            "certainty": decisions.certainties,
        }
        return {
            f"{value}.{name}": values[value][:, f]
            for f, name in enumerate(self.findings)
            for value in VALUES
        }

    def read(self, row: "Mapping[str, Any] | pd.Series[Any]", value: str) -> dict[str, Any]:
        """Take one value of each finding from a row, those that are known, as Python values."""
        cells = {name: row[f"{value}.{name}"] for name in self.findings}
        return {
            name: cell.item() if isinstance(cell, np.generic) else cell
            for name, cell in cells.items()
            if not pd.isna(cell)
        }


def answer_in_batches(
    predictor: Predictor,
    studies: Iterable[Study | BadRow],
    rejected: Callable[[Study, InputError], BadRow] | None = None,
) -> Iterator[EncodedAnswer | BadRow]:
    """Encode and predict studies in batches; one that cannot be answered is a bad row in its place.

    Args:
        predictor: the model.
        studies: any number; bad rows are passed on.
        rejected: what becomes of a study that the model cannot answer; None names the error.
    """
    items = iter(studies)
    while batch := list(islice(items, BATCH)):
        readable = [item for item in batch if isinstance(item, Study)]
        answers = iter(predictor.attempt(readable))
        for item in batch:
            answer = item if isinstance(item, BadRow) else next(answers)
            if isinstance(answer, InputError) and isinstance(item, Study):
                answer = rejected(item, answer) if rejected else bad_row(item.study_id, answer)
            assert not isinstance(answer, InputError)
            yield answer
