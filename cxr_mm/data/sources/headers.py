"""Headers of DICOM files: what they say of a study, read without their pixels."""

import warnings
from pathlib import Path
from typing import Any

from pydicom import dcmread

from cxr_mm.data.clinical import age_in_years
from cxr_mm.data.sources.base import DICOM_SUFFIXES
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
"""Columns that a table may leave to the headers."""


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
