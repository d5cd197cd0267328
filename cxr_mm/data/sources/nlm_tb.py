"""Tuberculosis sets of the National Library of Medicine: Shenzhen and Montgomery County.

Jaeger et al. 2014 (Quant Imaging Med Surg 4:475, doi:10.3978/j.issn.2223-4292.2014.11.20).
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import Task
from cxr_mm.core.types import plural
from cxr_mm.data.clinical import age_in_years
from cxr_mm.data.sources.base import (
    NoOptions,
    RawStudies,
    checked_options,
    files_below,
    raw_studies,
)
from cxr_mm.data.sources.losses import Dropped, kind_of

NAME = re.compile(r"((CHNCXR|MCUCXR)_\d+)_([01])")
SITES = {"CHNCXR": "Shenzhen", "MCUCXR": "Montgomery"}
VIEWS = {"CHNCXR": None, "MCUCXR": "PA"}
"""Shenzhen has some AP images of children and does not say which."""
SEX = re.compile(r"\b([fm])(?:emale?|ale)?\b", re.IGNORECASE)
AGE = re.compile(r"(\d+)\s*([ymwd])", re.IGNORECASE)
TWICE = "an image of this name is there already"


def read_nlm_tb(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read `CHNCXR_0001_0.png` and `MCUCXR_0001_1.png`, at any depth below the folder.

    Raw label column: `tuberculosis`, the last digit of the name. `site` is Shenzhen or Montgomery.
    Clinical columns: `age` (years), `sex` (M, F), from the clinical reading of the same name with
    the ending `.txt`, in `ClinicalReadings/` of the originals; its text names the diagnosis and is
    no note. Each image is its own patient. Lung masks, which have the names of images, and other
    files are passed over.

    Raises:
        DataNotFoundError: no image is there.
        TaskError: an option is given.
    """
    checked_options(NoOptions, task)
    files = sorted(files_below(folder), key=lambda file: file.relative_to(folder))
    readings = {file.stem: file for file in files if file.suffix.lower() == ".txt"}
    rows: dict[str, dict[str, Any]] = {}
    dropped, passed_over = [], Counter[str]()
    for file in files:
        path = file.relative_to(folder)
        name = NAME.fullmatch(file.stem) if file.suffix.lower() == ".png" else None
        if any("mask" in part.lower() for part in path.parts):
            passed_over["masks"] += 1
        elif name is None and readings.get(file.stem) != file:
            passed_over[kind_of(file)] += 1
        elif name and file.stem in rows:
            dropped.append(Dropped(path.as_posix(), TWICE))
        elif name:
            rows[file.stem] = _row(name, path) | _reading(readings.get(file.stem))
    if not rows:
        raise DataNotFoundError(
            "no image of the two sets",
            field=str(folder),
            remedy="Keep the files' names, as CHNCXR_0001_0.png and MCUCXR_0001_1.png",
        )
    notices = _notices(rows.keys() - readings.keys())
    return raw_studies(pd.DataFrame(rows.values()), dropped, passed_over, notices)


def _row(name: re.Match[str], path: Path) -> dict[str, Any]:
    patient, prefix, label = name.groups()
    return {
        "study_id": name[0],
        "patient_id": patient,
        "image_path": path.as_posix(),
        "view": VIEWS[prefix],
        "site": SITES[prefix],
        "tuberculosis": label,
    }


def _reading(file: Path | None) -> dict[str, Any]:
    """Age and sex of a clinical reading, each None where it is not stated.

    Montgomery has `Patient's Sex: F` and `Patient's Age: 035Y` on two lines, Shenzhen one line as
    `male 45yrs`, `Female, 28yrs`, `femal 32yrs`, `male 16month` or `female 64days`.
    """
    text = file.read_text(encoding="utf-8", errors="replace") if file else ""
    head = [line for line in text.splitlines() if line.strip()][:2]
    sex = SEX.search(head[0]) if head else None
    age = AGE.search(" ".join(head))
    return {
        "sex": sex[1].upper() if sex else None,
        "age": age_in_years(f"{age[1]}{age[2].upper()}") if age else None,
    }


def _notices(without: set[str]) -> tuple[str, ...]:
    if not without:
        return ()
    return (
        f"{plural(len(without), 'image')} without a clinical reading, so that age and sex are not"
        f" known, as"
        f" {min(without)}",
    )
