"""COVID-19 image data collection of Cohen et al. 2020 (arXiv:2006.11988)."""

from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
from pydantic import Field

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen
from cxr_mm.data.sources.base import (
    RawStudies,
    checked_options,
    count_not_in_table,
    files_below,
    raw_studies,
)
from cxr_mm.data.sources.losses import dropped_rows
from cxr_mm.data.tables import read_table

EXPECTED = ("metadata.csv", "images")
RENAMED = {
    "patientid": "patient_id",
    "location": "site",
    "clinical_notes": "note",
    "pO2_saturation": "po2_saturation",
    "leukocyte_count": "leukocytes",
    "neutrophil_count": "neutrophils",
    "lymphocyte_count": "lymphocytes",
}
NEEDED = ("patientid", "finding", "view", "modality", "folder", "filename", "clinical_notes")


class CohenOptions(Frozen):
    """Which rows of the table are used.

    Args:
        only: column of the original → values; a row with any other value, or none, is dropped.
    """

    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)


def read_cohen(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read the radiographs of `metadata.csv`; one study per image.

    Raw label columns: those of the original (`finding`, `went_icu`, `intubated`, `survival` …);
    several findings are separated by `|`, and of a path such as `Pneumonia/Viral/COVID-19` (later
    releases) the last part is used. Clinical columns: `age` (years), `sex`, `offset` (days since
    onset), `temperature` (Cel), `po2_saturation` (%), `leukocytes`, `neutrophils` and
    `lymphocytes` (10*9/L). `publisher` is the domain of `url`. CT and rows without their image file
    are dropped. Patients who share an image file, such as 285 and 339, form one group. Files of
    `images` that the table does not name are passed over and counted.

    The option `only` keeps the rows of a population, such as `in_icu: [N]`: images of patients who
    were not yet in intensive care.

    Raises:
        DataNotFoundError: the table lacks columns of the original, or one that `only` names; or a
            folder cannot be listed.
        TaskError: another option than `only`.
    """
    only = checked_options(CohenOptions, task).only
    frame = _read_table(folder / EXPECTED[0], (*NEEDED, *only))
    frame["study_id"] = frame["patient_id"] + "/" + frame["filename"]
    frame["finding"] = frame["finding"].map(_findings, na_action="ignore")
    if "url" in frame:
        frame["publisher"] = frame["url"].map(_domain, na_action="ignore")
    frame["image_path"] = frame["folder"] + "/" + frame["filename"]
    reasons = _reasons(frame, folder).fillna(_outside(frame, only))
    used = frame[reasons.isna()].copy()
    used["group"] = _groups(used)
    named = set(frame["image_path"])
    others = (
        file
        for file in files_below(folder / EXPECTED[1])
        if file.relative_to(folder).as_posix() not in named
    )
    dropped = dropped_rows(frame["study_id"], reasons)
    return raw_studies(used, dropped, count_not_in_table(others))


def _read_table(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    frame = read_table(path)
    if missing := [c for c in needed if c not in frame.columns]:
        raise DataNotFoundError(
            f"not the table of the original: no column {', '.join(missing)}",
            field=str(path),
            remedy="Use the file as it was downloaded",
        )
    return frame.rename(columns=RENAMED)


def _findings(cell: str) -> str:
    return "|".join(part.strip().rsplit("/", 1)[-1] for part in cell.split(", "))


def _domain(url: str) -> str | None:
    """`www.nejm.org` → `nejm.org`; None for what is no address."""
    return (urlsplit(url).hostname or "").removeprefix("www.") or None


def _reasons(frame: pd.DataFrame, folder: Path) -> pd.Series:
    """The reason for dropping each row, or missing. The last reason set counts."""
    reasons = pd.Series(None, index=frame.index, dtype=object)
    exists = frame["image_path"].map(lambda path: (folder / path).is_file(), na_action="ignore")
    reasons[frame["study_id"].duplicated()] = "the same patient and file occur twice"
    reasons[~exists.eq(True)] = "the image file is not there"
    other = frame["modality"].ne("X-ray")
    reasons[other] = "dicom_modality " + frame.loc[other, "modality"].fillna("") + ", not X-ray"
    return reasons


def _outside(frame: pd.DataFrame, only: dict[str, tuple[str, ...]]) -> pd.Series:
    """The reason for which each row is not of the population, or missing."""
    reasons = pd.Series(None, index=frame.index, dtype=object)
    for column, values in only.items():
        found = frame[RENAMED.get(column, column)]
        outside = ~found.isin(values)
        reasons[outside] = column + " is " + found[outside].fillna("not stated")
    return reasons


def _groups(frame: pd.DataFrame) -> pd.Series:
    """Patients linked, directly or through others, by an image file; named by one of them."""
    groups = frame["patient_id"]
    while True:
        shared = groups.groupby(frame["image_path"]).transform("min")
        merged = shared.groupby(groups).transform("min")
        if merged.equals(groups):
            return groups
        groups = merged
