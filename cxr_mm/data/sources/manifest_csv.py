"""A manifest CSV: one row per study, the layout in which users bring their own data."""

import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pandas as pd

from cxr_mm.core.errors import ManifestError
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen
from cxr_mm.data.sources.base import RAW_COLUMNS, RawStudies, checked_options, raw_studies
from cxr_mm.data.tables import find_dialect, iter_table, missing_column, nearest, read_table

DEFAULT_FILE = "manifest.csv"
_log = logging.getLogger(__name__)


class ManifestOptions(Frozen):
    """Options of a manifest CSV."""

    file: str = DEFAULT_FILE
    """The CSV, below the source's folder or absolute."""
    images: str = ""
    """Folder that `image_path` is relative to, below the source's folder or absolute; empty means
    that of the CSV."""


def manifest_file(task: Task) -> str:
    """The CSV that the task names."""
    return checked_options(ManifestOptions, task).file


def read_manifest_source(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read the task's CSV; whether image files exist is found out when they are decoded.

    Raises:
        ManifestError: as `read_manifest_csv`.
    """
    options = checked_options(ManifestOptions, task)
    path = folder / options.file
    images = folder / options.images if options.images else None
    return raw_studies(read_manifest_csv(path, task, labels_required=True, images=images), [])


def read_manifest_csv(
    path: Path, task: Task, *, labels_required: bool, images: Path | None = None
) -> pd.DataFrame:
    """Read a manifest CSV as text, columns checked, image paths made absolute.

    Columns: `study_id`, `patient_id`, `image_path` (absolute, or relative to `images`, by default
    the CSV's folder), the task's note column, one column per clinical feature, and per finding
    either the source's raw label column or one named after the finding with 1, 0 or nothing.
    `group, view, site, part` are optional; so are `image_path` and the note column (no study then
    has one), and, where labels are not required, `patient_id`, the labels and every column of an
    input but one; what is absent is logged. Where they are required, a column that is spelt almost
    as an optional input is an error. Whether images exist is not checked here.

    Raises:
        ManifestError: the file is missing, is no CSV, has no row, lacks a column, or a study id
            is missing or occurs twice.
    """
    frame = read_studies(path, ["study_id", *(["patient_id"] if labels_required else [])])
    if labels_required:
        require_features(task, frame.columns, path)
        require_labels(task, frame.columns, path)
        _require_no_misspelt(task, frame.columns, path)
    else:
        require_any_input(task, frame.columns, path)
    return _completed(frame, task, images or path.parent)


def iter_manifest_csv(path: Path, task: Task, rows: int = 512) -> Iterator[pd.DataFrame]:
    """Iterate over `read_manifest_csv` without required labels, `rows` rows at a time.

    The whole file is checked before the first rows are returned, so that an error of the table is
    raised at once and not after an hour of scoring; only the study ids are held in memory.

    Raises:
        ManifestError: as `read_manifest_csv`.
    """
    ids, dialect = set[str](), find_dialect(path)
    for number, piece in enumerate(iter_table(path, ["study_id"], rows, dialect)):
        if number == 0:
            require_any_input(task, piece.columns, path)
        _check_ids(piece, path, ids)
    _check_any(ids, path)
    for piece in iter_table(path, ["study_id"], rows, dialect):
        yield _completed(piece, task, path.parent)


def _completed(frame: pd.DataFrame, task: Task, images: Path) -> pd.DataFrame:
    """Add missing optional columns; make image paths absolute."""
    optional = {"patient_id", "image_path", task.note.column if task.note else "note"}
    optional |= {feature.column_in(frame.columns) for feature in task.clinical}
    frame[sorted(optional - set(frame.columns))] = None
    frame["image_path"] = frame["image_path"].map(
        lambda cell: image_path(images.absolute(), cell), na_action="ignore"
    )
    return frame


def image_path(folder: Path, cell: str) -> str:
    """Make the path of an image absolute; backslashes, as Windows writes them, separate folders."""
    path = folder / cell
    return str(folder / cell.replace("\\", "/") if "\\" in cell and not path.exists() else path)


def read_studies(path: Path, required: Iterable[str]) -> pd.DataFrame:
    """Read a table in which each row has its own `study_id`.

    Raises:
        ManifestError: as `read_manifest_csv`.
    """
    frame, ids = read_table(path, required), set[str]()
    _check_ids(frame, path, ids)
    _check_any(ids, path)
    return frame


def _check_ids(frame: pd.DataFrame, path: Path, before: set[str]) -> None:
    """Check that each study has a new id; add the ids to `before`."""
    for study_id in frame["study_id"]:
        if study_id is None:
            raise ManifestError(
                f"row {len(before) + 1} has none",
                field=f"{path}: study_id",
                remedy="Give every study an id",
            )
        if study_id in before:
            raise ManifestError(
                f"{study_id!r} occurs twice",
                field=f"{path}: study_id",
                remedy="Make each id unique",
            )
        before.add(study_id)


def _check_any(ids: Collection[str], path: Path) -> None:
    if not ids:
        raise ManifestError("there is no row below the header", field=str(path))


def require_features(task: Task, columns: Collection[str], path: Path) -> None:
    """Check that every clinical feature has its column or one named after the feature.

    Raises:
        ManifestError: a feature has neither.
    """
    if missing := [f for f in task.clinical if f.column_in(columns) not in columns]:
        raise missing_column(path, [feature.column or feature.name for feature in missing], columns)


def require_any_input(task: Task, columns: Collection[str], path: Path) -> None:
    """Check that a table has a column of an input of the task, and log which of them it lacks.

    Raises:
        ManifestError: it has none.
    """
    inputs = [
        *(["image_path"] if task.has_image else []),
        *([task.note.column] if task.note else []),
        *(feature.column_in(columns) for feature in task.clinical),
    ]
    absent = [name for name in inputs if name not in columns]
    if len(absent) == len(inputs):
        raise missing_column(path, absent, columns)
    if absent:
        others = [name for name in columns if name not in {*inputs, *RAW_COLUMNS}]
        alike = {name: nearest(name, others) for name in absent}
        hints = [f" ({own!r} is another name than {name!r})" for name, own in alike.items() if own]
        _log.info("%s: no column %s, so no study has it%s", path, ", ".join(absent), "".join(hints))


def require_labels(task: Task, columns: Collection[str], path: Path) -> None:
    """Check that every finding has its raw label column or one named after the finding.

    Raises:
        ManifestError: a finding has neither.
    """
    missing = [f for f in task.findings if not {f.raw_column, f.name} & set(columns)]
    if missing:
        raise missing_column(path, [finding.name for finding in missing], columns)


def _require_no_misspelt(task: Task, columns: Collection[str], path: Path) -> None:
    """Refuse a table without an input's column that has one spelt almost alike."""
    inputs = [name for name in ("image_path",) if task.has_image]
    inputs += [task.note.column] if task.note else []
    used = {*RAW_COLUMNS, *inputs, *(f.column_in(columns) for f in task.clinical)}
    used |= {column for finding in task.findings for column in (finding.raw_column, finding.name)}
    others = [column for column in columns if column not in used]
    for name in inputs:
        if name not in columns and nearest(name, others):
            raise missing_column(path, [name], others)
