"""A manifest CSV: one row per study, the layout in which users bring their own data."""

from array import array
from collections.abc import Callable, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.core.errors import ManifestError
from cxr_mm.core.shards.store import Place, is_url
from cxr_mm.core.task import Task
from cxr_mm.data.sources.base import RawStudies, checked_options, raw_studies
from cxr_mm.data.sources.columns import ColumnOptions, Use, require_columns, with_usual_names
from cxr_mm.data.sources.headers import FROM_HEADER, may_be_dicom, read_header
from cxr_mm.data.sources.shard_tables import shard_files
from cxr_mm.data.tables import Dialect, find_dialect, iter_table, read_table

DEFAULT_FILE = "manifest.csv"


class ManifestOptions(ColumnOptions):
    """Options of a manifest CSV."""

    file: str = DEFAULT_FILE
    """The CSV, below the source's folder or absolute."""
    images: str = ""
    """Folder that the paths of images are relative to, below the source's folder or absolute; empty
    means that of the CSV."""
    image_column: str = ""
    """Column with the path of the image, instead of `image_path`; empty: that one."""


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
    return raw_studies(read_manifest_csv(path, task, "train", images), [])


def read_manifest_csv(
    path: Place, task: Task, use: Use, images: Path | None = None
) -> pd.DataFrame:
    """Read a manifest CSV or shards as text, columns checked, image paths made absolute.

    Columns: `study_id`, `patient_id`, `image_path` (absolute, or relative to `images`, by default
    the CSV's folder), the task's note column, one column per clinical feature, and per finding
    either the source's raw label column or one named after the finding with 1, 0 or nothing.
    `group, view, site, publisher, part` are optional; what else may be absent follows from the use,
    see `require_columns`. Age, sex and view that a table to train on lacks are those of the headers
    where its images are DICOM files. Whether images exist is not checked here.

    Raises:
        ManifestError: the file is missing, is no CSV, has no row, lacks a column, or a study id
            is missing or occurs twice.
    """
    frame, folder = with_usual_names(read_table(path), task), images or folder_of(path)
    of_header = _of_headers(frame, task, folder) if use == "train" else {}
    require_columns(task, frame.columns, path, use, of_header)
    check_studies(frame, path)
    return _completed(frame.assign(**of_header), task, folder)


def iter_manifest_csv(path: Place, task: Task, rows: int = 512) -> Iterator[pd.DataFrame]:
    """Iterate over `read_manifest_csv` for prediction, `rows` rows at a time.

    The whole file is checked before the first rows are returned, so that an error of the table is
    raised at once and not after an hour of scoring; only hashes of the ids are held in memory.

    Raises:
        ManifestError: as `read_manifest_csv`.
    """
    dialect = None if shard_files(path) else find_dialect(path)
    pieces = partial(_named_pieces, path, task, rows, dialect)
    _check_table(pieces, task, path)
    for piece in pieces():
        yield _completed(piece, task, folder_of(path))


def _named_pieces(
    path: Place, task: Task, rows: int, dialect: Dialect | None
) -> Iterator[pd.DataFrame]:
    for piece in iter_table(path, rows=rows, dialect=dialect):
        yield with_usual_names(piece, task)


def _check_table(pieces: Callable[[], Iterator[pd.DataFrame]], task: Task, path: Place) -> None:
    """Check a table for prediction with eight bytes a row in memory: a hash of each id.

    Raises:
        ManifestError: as `read_manifest_csv`.
    """
    hashes = array("q")
    for number, piece in enumerate(pieces()):
        if number == 0:
            require_columns(task, piece.columns, path, "predict")
        for study_id in piece["study_id"]:
            if study_id is None:
                raise _no_id(path, len(hashes) + 1)
            hashes.append(hash(study_id))
    _check_any(hashes, path)
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if repeated:  # the same id, or another of the same hash: only the ids tell
        seen = set[str]()
        for piece in pieces():
            _check_ids(piece[piece["study_id"].map(hash).isin(repeated)], path, seen)


def folder_of(table: Place) -> Path:
    """Folder that the paths of images in a table are relative to."""
    path = Path(table)
    return path if path.is_dir() else path.parent


def _of_headers(frame: pd.DataFrame, task: Task, folder: Path) -> dict[str, list[Any]]:
    """Features that the table lacks, as the headers of its DICOM images have them."""
    lacking = [
        f.name
        for f in task.clinical
        if f.name in FROM_HEADER and f.column_in(frame.columns) not in frame
    ]
    if not lacking or "image_path" not in frame:
        return {}
    files = [Path(image_path(folder, cell)) if cell else None for cell in frame["image_path"]]
    dicom = [file is not None and may_be_dicom(file) for file in files]
    if not any(dicom):
        return {}
    headers = [
        read_header(file) if file and is_one else {}
        for file, is_one in zip(files, dicom, strict=True)
    ]
    return {name: [header.get(name) for header in headers] for name in lacking}


def _completed(frame: pd.DataFrame, task: Task, images: Path) -> pd.DataFrame:
    """Add missing optional columns; make image paths absolute."""
    optional = {"patient_id", "image_path", task.note.column if task.note else "note"}
    optional |= {feature.column_in(frame.columns) for feature in task.clinical}
    frame[sorted(optional - set(frame.columns))] = None
    other = images / str(task.source.options.get("images") or "")
    folders = images.absolute(), other.absolute()
    paths = [None if cell is None else _found(cell, *folders) for cell in frame["image_path"]]
    # Objects: as text, pandas would turn None into NaN, which is no path to those who ask for one.
    frame["image_path"] = pd.Series(paths, index=frame.index, dtype=object)
    return frame


def _found(cell: str, folder: Path, other: Path) -> str:
    """Path of an image below the table's folder, or below that of the task if it is there alone."""
    path = image_path(folder, cell)
    if other == folder or is_url(path) or Path(path).exists():
        return path
    elsewhere = image_path(other, cell)
    return elsewhere if Path(elsewhere).exists() else path


def image_path(folder: Path, cell: str) -> str:
    """Make the path of an image absolute; backslashes, as Windows writes them, separate folders.

    A URL stays as it is.
    """
    if is_url(cell):
        return cell
    path = folder / cell
    return str(folder / cell.replace("\\", "/") if "\\" in cell and not path.exists() else path)


def check_studies(frame: pd.DataFrame, path: Place) -> None:
    """Check that a table has studies, each with a `study_id` of its own.

    Raises:
        ManifestError: there is no row, or an id is missing or occurs twice.
    """
    ids = set[str]()
    _check_ids(frame, path, ids)
    _check_any(ids, path)


def _check_ids(frame: pd.DataFrame, path: Place, before: set[str]) -> None:
    """Check that each study has a new id; add the ids to `before`."""
    for study_id in frame["study_id"]:
        if study_id is None:
            raise _no_id(path, len(before) + 1)
        if study_id in before:
            raise ManifestError(
                f"{study_id!r} occurs twice",
                field=f"{path}: study_id",
                remedy="Make each id unique",
            )
        before.add(study_id)


def _no_id(path: Place, row: int) -> ManifestError:
    return ManifestError(
        f"row {row} has none", field=f"{path}: study_id", remedy="Give every study an id"
    )


def _check_any(ids: Sized, path: Place) -> None:
    if not ids:
        raise ManifestError("there is no row below the header", field=str(path))
