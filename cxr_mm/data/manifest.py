"""Manifest: one table for every source, with one row per study; and its files after `ingest`.

Columns: `study_id, patient_id, group, image_path, pixel_row, view, site, publisher, part, note`,
then `clinical.NAME` for each clinical feature, `finding.NAME` for each finding and
`population.NAME` for each population of the task. `publisher` is the web site that a collection
took the image from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.errors import ManifestError, StageError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.shards.store import is_url
from cxr_mm.core.task import Task
from cxr_mm.core.types import MODALITIES, Modality

QUALITY = "quality.parquet"
"""File with the image quality of each study, beside the manifest."""
TEXT = "text"
"""Column of it that says whether a word is burnt in."""
ABSENT = -1
"""Pixel row of a study without an image."""
TEXT_COLUMNS = (
    "study_id",
    "patient_id",
    "group",
    "image_path",
    "view",
    "site",
    "publisher",
    "part",
    "note",
)
REQUIRED = (*TEXT_COLUMNS, "pixel_row")
IDS = ("study_id", "patient_id", "group")


def clinical_column(name: str) -> str:
    """Manifest column of a clinical feature."""
    return f"clinical.{name}"


def finding_column(name: str) -> str:
    """Manifest column of a finding."""
    return f"finding.{name}"


def population_column(name: str) -> str:
    """Manifest column of a population."""
    return f"population.{name}"


@dataclass(frozen=True)
class Manifest:
    """A checked table of studies and its task.

    `frame` columns: text columns are str or None; `pixel_row` is the row in the pixel cache or
    -1 where there is no image; `part` is the source's own division (`train`, `test` or None), or
    `added`; `clinical.*` is float (number) or str (category), missing where not known; `finding.*`
    is 1.0, 0.0 or NaN (no information); `population.*` is whether the study belongs to it.
    """

    task: Task
    frame: pd.DataFrame

    @classmethod
    def checked(cls, task: Task, frame: pd.DataFrame, *, may_be_empty: bool = False) -> Self:
        """Validate a table.

        Raises:
            ManifestError: a column is missing, the table is empty and must not be, an id is
                missing or occurs twice, a label is neither 0, 1 nor missing, or a multiclass row
                does not have exactly one finding.
        """
        columns = [*REQUIRED, *map(clinical_column, task.clinical_names)]
        columns += [finding_column(name) for name in task.finding_names]
        columns += [population_column(each.name) for each in task.populations]
        if missing := [c for c in columns if c not in frame.columns]:
            raise ManifestError(
                f"the column is missing (there are {', '.join(map(str, frame.columns))})",
                field=", ".join(missing),
                remedy="Add the column; leave its cells empty where nothing is known",
            )
        if frame.empty and not may_be_empty:
            raise ManifestError(
                "no study is left",
                field="manifest",
                remedy="Look at the ingest report for the reasons rows were dropped",
            )
        _check_ids(frame)
        _check_labels(task, frame)
        return cls(task, frame[columns].reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.frame)

    def labels(self) -> NDArray[np.float32]:
        """Labels (N, F) in the task's finding order: 1, 0 or NaN."""
        columns = [finding_column(name) for name in self.task.finding_names]
        return self.frame[columns].to_numpy(dtype=np.float32, copy=True)

    def clinical(self) -> pd.DataFrame:
        """Clinical features with plain names, in the task's order."""
        columns = {clinical_column(name): name for name in self.task.clinical_names}
        return self.frame[list(columns)].rename(columns=columns)

    def mask(self) -> NDArray[np.bool_]:
        """Whether each study has each modality, (N, 3) in canonical order."""
        has: dict[Modality, pd.Series] = {
            "image": self.frame["pixel_row"] != ABSENT,
            "tabular": self.clinical().notna().any(axis=1),
            "note": self.frame["note"].notna(),
        }
        used = self.task.modalities
        columns = [has[m].to_numpy(bool) & (m in used) for m in MODALITIES]
        return np.stack(columns, axis=1)


def _check_ids(frame: pd.DataFrame) -> None:
    for column in IDS:
        if frame[column].isna().any():
            row = int(np.flatnonzero(frame[column].isna())[0])
            raise ManifestError(
                f"row {row} has none", field=column, remedy="Give every study an id"
            )
    twice = frame["study_id"][frame["study_id"].duplicated()]
    if len(twice):
        raise ManifestError(
            f"{twice.iloc[0]!r} occurs twice", field="study_id", remedy="Make each id unique"
        )


def _check_labels(task: Task, frame: pd.DataFrame) -> None:
    values = frame[[finding_column(name) for name in task.finding_names]]
    for column, series in values.items():
        try:
            numbers = series.to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ManifestError(
                "a label is not a number", field=str(column), remedy="Use 1, 0 or an empty cell"
            ) from error
        if not np.all(np.isnan(numbers) | np.isin(numbers, (0.0, 1.0))):
            raise ManifestError(
                "a label is neither 1, 0 nor missing",
                field=str(column),
                remedy="Use 1, 0 or an empty cell",
            )
    if task.problem == "multiclass":
        bad = values.sum(axis=1).ne(1) & values.notna().any(axis=1)
        if bad.any():
            raise ManifestError(
                f"study {frame.loc[bad, 'study_id'].iloc[0]!r} does not have exactly one finding",
                field="finding",
                remedy="A multiclass study has one finding that is 1 and the others 0",
            )


def load_manifest(paths: TaskPaths, task: Task) -> Manifest:
    """Load the manifest that `ingest` wrote, validated again; image paths relative to here.

    Raises:
        StageError: `ingest` has not run for this task.
        ManifestError: the manifest is another task's.
    """
    frame = _read(paths.manifest)
    if "publisher" not in frame:  # written by an earlier version
        frame["publisher"] = None
    for column in TEXT_COLUMNS:
        frame[column] = _none_where_missing(frame[column])
    for feature in task.clinical:
        column = clinical_column(feature.name)
        if column in frame and feature.type == "category":
            frame[column] = _none_where_missing(frame[column])
        elif column in frame:
            frame[column] = frame[column].astype("float64")
    frame["image_path"] = frame["image_path"].map(
        lambda path: path if is_url(path) else str(paths.root / path), na_action="ignore"
    )
    return Manifest.checked(task, frame)


def load_image_rows(paths: TaskPaths, task: Task) -> Manifest:
    """Load ids, rows in the pixel cache and labels alone, for a training of millions of images.

    The rest of the text is None, and there are no clinical features.

    Raises:
        StageError: `ingest` has not run for this task.
        ManifestError: the manifest is another task's.
    """
    columns = [*IDS, "pixel_row", *map(finding_column, task.finding_names)]
    columns += [population_column(each.name) for each in task.populations]
    frame = _read(paths.manifest, columns)
    frame[[column for column in TEXT_COLUMNS if column not in IDS]] = None
    return Manifest.checked(task.model_copy(update={"clinical": ()}), frame)


def with_frequent_findings(task: Task, paths: TaskPaths) -> Task:
    """The task with those findings that have `minimum_positives` among the ingested studies.

    Raises:
        StageError: `ingest` has not run for this task, or no finding has so many.
    """
    if not task.minimum_positives:
        return task
    frame = _read(paths.manifest)
    positives = {f: int(frame[finding_column(f.name)].eq(1).sum()) for f in task.findings}
    frequent = tuple(f for f, count in positives.items() if count >= task.minimum_positives)
    if not frequent:
        raise StageError(
            f"no finding has {task.minimum_positives} positives; the most frequent has"
            f" {max(positives.values())}",
            field="minimum_positives",
            remedy="Collect more studies, or set fewer in the task",
        )
    return task.model_copy(update={"findings": frequent})


def load_quality(paths: TaskPaths) -> pd.DataFrame:
    """Load the image quality: `study_id`, `QUALITY_NAMES`, `text` (whether a word is
    burnt in), `file_sha256`, `phash`, `warnings`.

    Rows are as in the manifest. Without an image the statistics are NaN, the others empty.

    Raises:
        StageError: `ingest` has not run for this task.
    """
    quality = _read(paths.ingest / QUALITY)
    if TEXT not in quality:  # written by an earlier version
        quality[TEXT] = False
    return quality


def _read(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:
        raise StageError(
            "missing or not readable", field=str(path), remedy="Run the stage `ingest` first"
        ) from error


def _none_where_missing(column: "pd.Series[str]") -> "pd.Series[str]":
    values = column.astype(object)
    return values.where(values.notna(), None)
