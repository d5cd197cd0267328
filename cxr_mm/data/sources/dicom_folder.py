"""A folder of DICOM files (PS3.10), with an optional CSV of notes, features and findings."""

from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import Task
from cxr_mm.data.sources.base import RawStudies, checked_options, files_below, raw_studies
from cxr_mm.data.sources.columns import ColumnOptions, require_columns, with_usual_names
from cxr_mm.data.sources.headers import FROM_HEADER, TAGS, may_be_dicom, read_header
from cxr_mm.data.sources.losses import Dropped, kind_of
from cxr_mm.data.sources.manifest_csv import check_studies
from cxr_mm.data.tables import read_table

RADIOGRAPHS = ("CR", "DX", "RG", "OT", "SC", "")


class DicomFolderOptions(ColumnOptions):
    """Options of a folder of DICOM files."""

    csv: str = ""
    """CSV with an id of each study and further columns, below the source's folder or absolute."""


def read_dicom_folder(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read the headers, not the pixels, of every DICOM file below `folder`; one study per file.

    Header columns: `study_id` (SOPInstanceUID), `patient_id`, `view`, `site`, `age` (years),
    `sex`. A row of the CSV joins every file whose SOPInstanceUID, path, name, StudyInstanceUID
    or accession number is its `study_id`; where both say something the CSV holds, since a
    de-identified header may not. Files that are unreadable or no radiographs, and CSV rows
    without a file, are dropped.

    Raises:
        DataNotFoundError: no DICOM file is there.
        ManifestError: the CSV is unreadable, or lacks a clinical column that no header has.
    """
    options = checked_options(DicomFolderOptions, task)
    frame, dropped, passed_over = read_headers(folder)
    if options.csv:
        path = folder / options.csv
        table = with_usual_names(read_table(path), task)
        of_files = ("patient_id", "image_path", *FROM_HEADER)
        require_columns(task, table.columns, path, "train", of_files)
        check_studies(table, path)
        frame, unmatched = _joined(frame, table)
        dropped += [Dropped(study, "no DICOM file has this id") for study in unmatched]
    return raw_studies(frame, dropped, passed_over)


def read_headers(folder: Path) -> tuple[pd.DataFrame, list[Dropped], Counter[str]]:
    """Read the header of every DICOM radiograph below a folder.

    Returns:
        Headers, files dropped, and numbers of other files by kind.

    Raises:
        DataNotFoundError: no DICOM radiograph is there.
    """
    rows: dict[str, dict[str, Any]] = {}
    dropped, passed_over = [], Counter[str]()
    for file in files_below(folder):
        if not may_be_dicom(file):
            passed_over[kind_of(file)] += 1
            continue
        path = file.relative_to(folder).as_posix()
        row = read_header(file) | {"image_path": path}
        if "study_id" not in row:
            dropped.append(Dropped(path, "not a readable DICOM file"))
            continue
        study = row["study_id"]
        if not study:
            dropped.append(Dropped(path, "no SOPInstanceUID, perhaps cut short"))
        elif row["dicom_modality"] not in RADIOGRAPHS:
            reason = f"dicom_modality {row['dicom_modality']}, no radiograph"
            dropped.append(Dropped(study, reason))
        elif study in rows:
            dropped.append(Dropped(path, "the same SOPInstanceUID occurs twice"))
        else:
            rows[study] = row
    frame = pd.DataFrame(rows.values(), columns=[*TAGS, "image_path"], dtype=object)
    if frame.empty:
        raise DataNotFoundError(
            f"no readable DICOM radiograph ({len(dropped)} other files)",
            field=str(folder),
            remedy="Put files with the suffix .dcm, or none, into it",
        )
    return frame.replace("", None), dropped, passed_over


def _joined(frame: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Headers with the matching CSV row on top, and the ids of CSV rows that match none."""
    known = set(table["study_id"])
    matches = [_match(row, known) for row in frame.to_dict("records")]
    rows = table.set_index("study_id").reindex(matches).set_index(frame.index)
    rows = rows.drop(columns=["image_path"], errors="ignore")
    return rows.combine_first(frame), sorted(known - set(matches))


def _match(row: dict[Hashable, Any], known: set[str]) -> str:
    """The CSV's id of a file; empty where it has none."""
    path = Path(row["image_path"])
    keys = (row["study_id"], str(path), path.name, path.stem, row["dicom_study"], row["accession"])
    return next((key for key in keys if key and key in known), "")
