"""DataFrames of studies: each becomes the manifest CSV that every command reads."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from cxr_mm.api.images import file_of
from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.task import Task
from cxr_mm.data.sources.columns import named_by
from cxr_mm.data.sources.manifest_csv import image_path
from cxr_mm.data.tables import is_missing
from cxr_mm.imaging.dicom import is_dicom

FolderInput = str | os.PathLike[str] | None
STUDY_ID, IMAGE = "study_id", "image_path"
CSV_NAME, CALLED = "studies.csv", "the DataFrame"


@contextmanager
def table_of(task: Task, frame: pd.DataFrame, images: FolderInput = None) -> Iterator[Path]:
    """The manifest CSV of a DataFrame in a folder that is removed afterwards.

    Raises:
        ManifestError, InputError: as `write_table`; errors of the CSV name the DataFrame instead.
    """
    with TemporaryDirectory(prefix="cxr-mm-") as folder:
        path = write_table(task, frame, Path(folder), images)
        with errors_of_frame(path):
            yield path


@contextmanager
def errors_of_frame(path: Path) -> Iterator[None]:
    """Have errors of a table name the DataFrame that it was written from, not its file."""
    try:
        yield
    except ManifestError as error:
        field = error.field.replace(str(path), CALLED)
        raise ManifestError(error.message, field=field, remedy=error.remedy) from error


def write_table(task: Task, frame: pd.DataFrame, folder: Path, images: FolderInput = None) -> Path:
    """Write a DataFrame as a manifest CSV, and images in memory beside it.

    Args:
        task: whose columns it has, as a manifest CSV has them. Without a column of study ids the
            index is taken for them. A cell of `image_path` is a path or any other `ImageInput`.
        frame: a row for each study.
        folder: to write into.
        images: folder that paths of images are relative to; None: the working directory.

    Raises:
        InputError: it is no DataFrame, or an image is of no known type.
        ManifestError: it has no row, or its index is needed for ids and is not unique.
        RadiographError: an array is no radiograph; the row is named.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            f"{type(frame).__name__} is no table of studies",
            field="data",
            remedy="Give a pandas DataFrame with a row for each study",
        )
    if frame.empty:
        raise ManifestError("it has no row", field=CALLED, remedy="Give a row for each study")
    table = frame.copy(deep=False)
    if not {STUDY_ID, named_by(task, STUDY_ID)} & set(table.columns):
        table[STUDY_ID] = table.index.astype(str)
    if (column := _image_column(task, table)) is not None:
        cells = zip(table.index, table[column], strict=True)
        folder.mkdir(parents=True, exist_ok=True)
        files = [_file(cell, key, n, folder, images) for n, (key, cell) in enumerate(cells)]
        table[column] = pd.Series(files, index=table.index, dtype=object)
    path = folder / CSV_NAME
    # Quoted throughout, so that no name of a column can be taken for a separator.
    table.to_csv(path, index=False, quoting=csv.QUOTE_ALL, errors="replace")
    return path


def count_images(task: Task, frame: pd.DataFrame) -> int:
    """Number of rows with an image that the task can use."""
    column = _image_column(task, frame)
    if column is None or not task.has_image:
        return 0
    return sum(not is_missing(cell) for cell in frame[column])


def _image_column(task: Task, frame: pd.DataFrame) -> str | None:
    return next((name for name in (named_by(task, IMAGE), IMAGE) if name in frame), None)


def _file(cell: Any, row: Any, number: int, folder: Path, images: FolderInput) -> str | None:
    """Absolute path of the image in a cell; one in memory is written to a file of its own."""
    if is_missing(cell):
        return None
    if isinstance(cell, str | os.PathLike):
        return image_path(Path(images or "").absolute(), str(cell))
    try:
        data = file_of(cell)
    except InputError as error:
        field = f"{CALLED}, row {row}: {error.field}"
        raise type(error)(error.message, field=field, remedy=error.remedy) from error
    path = folder / f"{number:06d}{'.dcm' if is_dicom(data) else '.png'}"
    path.write_bytes(data)
    return str(path)
