"""A manifest CSV: one row per study, the layout in which users bring their own data."""

import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from cxr_mm.core.errors import ManifestError
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen
from cxr_mm.data.sources.base import Dropped, RawStudies, checked_options, raw_studies

DEFAULT_FILE = "manifest.csv"


class ManifestOptions(Frozen):
    """Options of a manifest CSV."""

    file: str = DEFAULT_FILE
    """The CSV, below the source's folder or absolute."""


def manifest_file(task: Task) -> str:
    """The CSV that the task names."""
    return checked_options(ManifestOptions, task).file


def read_manifest_source(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read the task's CSV; rows whose image file does not exist are dropped.

    Raises:
        ManifestError: as `read_manifest_csv`.
    """
    frame = read_manifest_csv(folder / manifest_file(task), task, labels_required=True)
    return without_missing_images(frame)


def without_missing_images(frame: pd.DataFrame) -> RawStudies:
    """Drop rows whose image file does not exist."""
    gone = frame["image_path"].map(lambda p: not Path(p).is_file(), na_action="ignore").eq(True)
    reason = "the image file is not there"
    return raw_studies(frame[~gone], [Dropped(s, reason) for s in frame.loc[gone, "study_id"]])


def read_manifest_csv(path: Path, task: Task, *, labels_required: bool) -> pd.DataFrame:
    """Read a manifest CSV as text, columns checked, image paths made absolute.

    Columns: `study_id`, `patient_id`, `image_path` (relative to the CSV's folder, or absolute),
    the task's note column, one column per clinical feature, and per finding either the source's
    raw label column or one named after the finding with 1, 0 or nothing. `group, view, site,
    part` are optional; so are `image_path` and the note column (no study then has one), and,
    where labels are not required, `patient_id` and the labels. Whether images exist is not
    checked here.

    Raises:
        ManifestError: the file is missing, is no CSV, has no row, lacks a column, or a study id
            is missing or occurs twice.
    """
    required = ["study_id", *task.clinical_names]
    if labels_required:
        required.append("patient_id")
    frame = read_table(path, required)
    if labels_required:
        require_labels(task, frame.columns, path)
    return _completed(frame, task, path)


def iter_manifest_csv(path: Path, task: Task, rows: int = 512) -> Iterator[pd.DataFrame]:
    """Iterate over `read_manifest_csv` without required labels, `rows` rows at a time.

    The whole file is checked before the first rows are returned, so that an error of the table is
    raised at once and not after an hour of scoring; only the study ids are held in memory.

    Raises:
        ManifestError: as `read_manifest_csv`.
    """
    required = ["study_id", *task.clinical_names]
    ids: set[str] = set()
    for piece in text_pieces(path, rows):
        _check_ids(csv_rows(piece, required, path), path, ids)
    _check_any(ids, path)
    for piece in text_pieces(path, rows):
        yield _completed(csv_rows(piece, required, path), task, path)


def _completed(frame: pd.DataFrame, task: Task, path: Path) -> pd.DataFrame:
    """Add missing optional columns; make image paths absolute."""
    optional = {"patient_id", "image_path", task.note.column if task.note else "note"}
    frame[sorted(optional - set(frame.columns))] = None
    frame["image_path"] = frame["image_path"].map(
        lambda cell: str(path.parent.absolute() / cell), na_action="ignore"
    )
    return frame


def read_table(path: Path, required: Iterable[str]) -> pd.DataFrame:
    """Read a CSV with a column `study_id` as text, empty cells as missing.

    Raises:
        ManifestError: as `read_manifest_csv`.
    """
    frame, ids = csv_rows(pd.concat(text_pieces(path)), required, path), set[str]()
    _check_ids(frame, path, ids)
    _check_any(ids, path)
    return frame


def csv_rows(text: pd.DataFrame, required: Iterable[str], path: Path) -> pd.DataFrame:
    """Strip names and cells; empty cells become missing."""
    cells = {str(name).strip(): _stripped(column) for name, column in text.items()}
    frame = pd.DataFrame(cells, index=text.index, dtype=object)
    if missing := [name for name in required if name not in frame.columns]:
        raise _missing(path, missing, frame.columns)
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


def _stripped(column: "pd.Series[str]") -> list[str | None]:
    return [text.strip() or None for text in column]


def require_labels(task: Task, columns: Collection[str], path: Path) -> None:
    """Check that every finding has its raw label column or one named after the finding.

    Raises:
        ManifestError: a finding has neither.
    """
    missing = [f for f in task.findings if not {f.raw_column, f.name} & set(columns)]
    if missing:
        raise _missing(path, [finding.name for finding in missing], columns)


def _missing(path: Path, names: Iterable[str], columns: Iterable[str]) -> ManifestError:
    return ManifestError(
        f"the column is missing (there are {', '.join(columns)})",
        field=f"{path}: {', '.join(names)}",
        remedy="Add the column; leave its cells empty where nothing is known",
    )


def text_pieces(path: Path, rows: int = 4096) -> Iterator[pd.DataFrame]:
    """Read a CSV as text, `rows` rows at a time; at least one piece, which may be empty."""
    with _csv_errors(path):
        pieces = pd.read_csv(
            path,
            dtype=str,
            keep_default_na=False,
            index_col=False,
            encoding="utf-8-sig",
            chunksize=rows,
        )
    with pieces:
        while True:
            with _csv_errors(path):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    """Raise errors of pandas about a CSV as ManifestError."""
    try:
        with warnings.catch_warnings():
            # A row longer than the header would otherwise shift or lose cells in silence.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except OSError as error:
        raise ManifestError(
            f"cannot be read ({error.strerror})",
            field=str(path),
            remedy="Give the path of a CSV file",
        ) from error
    except pd.errors.EmptyDataError as error:
        raise ManifestError(
            "the file is empty", field=str(path), remedy="Write a header and one row per study"
        ) from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as error:
        raise ManifestError(
            f"not a CSV in UTF-8: {error}",
            field=str(path),
            remedy="Separate cells by commas and quote those that hold commas",
        ) from error
