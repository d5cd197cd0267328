"""A folder of DICOM files (PS3.10), with an optional CSV of notes, features and findings."""

import warnings
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd
from pydicom import dcmread

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen
from cxr_mm.data.clinical import age_in_years
from cxr_mm.data.sources.base import (
    DICOM_SUFFIXES,
    RawStudies,
    checked_options,
    files_below,
    raw_studies,
)
from cxr_mm.data.sources.losses import Dropped, kind_of
from cxr_mm.data.sources.manifest_csv import read_studies, require_features
from cxr_mm.imaging.dicom import UNREADABLE

TAGS = {
    "study_id": "SOPInstanceUID",
    "dicom_study": "StudyInstanceUID",
    "accession": "AccessionNumber",
    "dicom_modality": "Modality",
    "patient_id": "PatientID",
    "view": "ViewPosition",
    "site": "InstitutionName",
    "age": "PatientAge",
    "sex": "PatientSex",
}
FROM_HEADER = ("age", "sex", "view")
RADIOGRAPHS = ("CR", "DX", "RG", "OT", "SC", "")


class DicomFolderOptions(Frozen):
    """Options of a folder of DICOM files."""

    csv: str = ""
    """CSV with `study_id` and further columns, below the source's folder or absolute."""


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
        table = read_studies(folder / options.csv, ["study_id"])
        columns = {*table.columns, *FROM_HEADER}
        require_features(task, columns, folder / options.csv)
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


def may_be_dicom(file: Path) -> bool:
    """Whether a file may be DICOM, by its name."""
    # Without a suffix, as PACS exports have it; SOPInstanceUIDs as names look like suffixes.
    numbered = not file.suffix or file.suffix[1:].isdigit()
    return file.suffix.lower() in DICOM_SUFFIXES or (numbered and file.name != "DICOMDIR")


def read_header(file: Path) -> dict[str, Any]:
    """Read the header of a DICOM file under the names of `TAGS`; empty where it is unreadable."""
    try:
        return _header(file)
    except UNREADABLE:
        return {}


def _header(file: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        # pydicom warns of unusual values by quoting them: names and ids would reach a log.
        warnings.simplefilter("ignore", UserWarning)
        header = dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS.values()))
        row: dict[str, Any] = {
            name: str(header.get(tag) or "").strip() for name, tag in TAGS.items()
        }
    row["age"] = age_in_years(row["age"])
    return row


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
