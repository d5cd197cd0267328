"""A tree with one folder per class, as image classification data sets are commonly handed out."""

import re
from pathlib import Path

import pandas as pd
from pydantic import field_validator

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen
from cxr_mm.data.sources.base import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    RawStudies,
    checked_options,
    files_below,
    raw_studies,
)
from cxr_mm.data.sources.losses import Dropped

PARTS = {"train": "train", "val": "train", "valid": "train", "validation": "train", "test": "test"}
SUFFIXES = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)


class ClassFoldersOptions(Frozen):
    """Options of a class-per-folder tree."""

    patient_pattern: str = ""
    """Regular expression whose first group, searched in the path below the class folder, is the
    patient; empty makes every file its own patient."""

    @field_validator("patient_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        if pattern and not groups:
            raise ValueError(f"{pattern!r} has no group in parentheses for the patient")
        return pattern


def read_class_folders(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read `[train|val|test/]CLASS/**/*.{png,jpg,jpeg,dcm}`; raw label column `label`.

    The label is the name of the class folder. `val` joins `train`: validation is carved out of
    it by patient. Files without a patient in their name are dropped.

    Raises:
        DataNotFoundError: no class folder has an image.
    """
    pattern = checked_options(ClassFoldersOptions, task).patient_pattern
    rows, dropped = [], []
    for file in files_below(folder):
        path = file.relative_to(folder)
        part = PARTS.get(path.parts[0])
        below = path.parts[1:] if part else path.parts
        if len(below) < 2 or file.suffix.lower() not in SUFFIXES:
            continue
        study = path.as_posix()
        if patient := _patient("/".join(below[1:]), study, pattern):
            rows.append((study, patient, study, part, below[0]))
        else:
            dropped.append(Dropped(study, "the file name does not tell the patient"))
    if not rows:
        raise DataNotFoundError(
            f"no image in a class folder ({len(dropped)} whose name does not tell the patient)",
            field=str(folder),
            remedy="Lay the images out as CLASS/FILE.png, or below train/ and test/",
        )
    columns = ["study_id", "patient_id", "image_path", "part", "label"]
    return raw_studies(pd.DataFrame(rows, columns=columns), dropped)


def _patient(name: str, study: str, pattern: str) -> str | None:
    if not pattern:
        return study
    match = re.search(pattern, name)
    return match[1] if match else None
