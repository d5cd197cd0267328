"""A tree with one folder per class, as image classification data sets are commonly handed out."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import field_validator

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import ANY_OTHER, Task
from cxr_mm.core.types import Frozen, plural
from cxr_mm.data.sources.base import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    OUTSIDE,
    RawStudies,
    checked_options,
    files_below,
    raw_studies,
)
from cxr_mm.data.sources.headers import read_header
from cxr_mm.data.sources.losses import Dropped, kind_of

PARTS = dict.fromkeys(("train", "training", "val", "valid", "validation"), "train")
PARTS |= dict.fromkeys(("test", "testing"), "test")
"""Names of folders, in lower case, that are parts of the data and no classes."""
IMAGES = ("images", "image", "imgs", "img")
MASK = re.compile(r"(?:.*[ _-])?masks?", re.IGNORECASE)
SUFFIXES = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)
MASKS = "masks"


class ClassFoldersOptions(Frozen):
    """Options of a class-per-folder tree."""

    patient_pattern: str = ""
    """Regular expression whose first group, searched in the path below the class folder, is the
    patient; empty takes the PatientID of DICOM files, and makes any other file its own patient."""

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


@dataclass(frozen=True)
class _Place:
    """What the folders of a file say.

    Args:
        part: `train`, `test` or None.
        label: name of the class folder.
        below: path below the class folder.
        is_mask: whether it is a mask and no radiograph.
    """

    part: str | None
    label: str
    below: str
    is_mask: bool


def read_class_folders(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read `[train|val|test/]CLASS/**/*.{png,jpg,jpeg,dcm}`; raw label column `label`.

    The label is the name of the class folder: the first on the path that the task knows as a
    label, in any case, else the first that is no part. `val` joins `train`: validation is carved
    out of it by patient. Without `patient_pattern` the patient is the PatientID of a DICOM file;
    any other file is its own patient, which a notice says. Files whose path does not match the
    pattern are dropped; masks and files of another kind are passed over and counted.

    Raises:
        DataNotFoundError: no class folder has an image.
    """
    pattern = checked_options(ClassFoldersOptions, task).patient_pattern
    labels = _labels(task)
    rows, dropped, passed_over = [], [], Counter[str]()
    for file in files_below(folder):
        path = file.relative_to(folder)
        place = _place(path, labels)
        if file.suffix.lower() not in SUFFIXES:
            passed_over[kind_of(file)] += 1
        elif place is None:
            passed_over[OUTSIDE] += 1
        elif place.is_mask:
            passed_over[MASKS] += 1
        elif patient := _patient(file, path, place, pattern):
            rows.append((path.as_posix(), patient, path.as_posix(), place.part, place.label))
        else:
            dropped.append(Dropped(path.as_posix(), "the file name does not tell the patient"))
    if not rows:
        kinds = ", ".join(f"{n} {kind}" for kind, n in passed_over.items()) or "none"
        raise DataNotFoundError(
            f"no image in a class folder ({len(dropped)} whose name does not tell the patient;"
            f" other files: {kinds})",
            field=str(folder),
            remedy="Lay the images out as CLASS/FILE.png, or below train/ and test/",
        )
    columns = ["study_id", "patient_id", "image_path", "part", "label"]
    frame = pd.DataFrame(rows, columns=columns)
    return raw_studies(frame, dropped, passed_over, _notices(frame, pattern))


def _labels(task: Task) -> dict[str, str]:
    """The task's labels by their lower-case spelling."""
    known = (label for f in task.findings for label in (*f.positive, *f.negative, *f.unlabelled))
    return {label.casefold(): label for label in known if label != ANY_OTHER}


def _place(path: Path, labels: Mapping[str, str]) -> _Place | None:
    """Part, label and kind of a file by its folders; None outside of any class folder."""
    folders = path.parts[:-1]
    part = next((PARTS[name.lower()] for name in folders if name.lower() in PARTS), None)
    known = [k for k, name in enumerate(folders) if name.casefold() in labels]
    other = [
        k
        for k, name in enumerate(folders)
        if name.lower() not in (*PARTS, *IMAGES) and not MASK.fullmatch(name)
    ]
    if not (at := (known or other)[:1]):
        return None
    around = (*folders[: at[0]], *folders[at[0] + 1 :], path.stem)
    return _Place(
        part=part,
        label=labels.get(folders[at[0]].casefold(), folders[at[0]]),
        below="/".join(path.parts[at[0] + 1 :]),
        is_mask=any(MASK.fullmatch(name) for name in around),
    )


def _patient(file: Path, path: Path, place: _Place, pattern: str) -> str | None:
    if pattern:
        match = re.search(pattern, place.below)
        return match[1] if match else None
    is_dicom = file.suffix.lower() in DICOM_SUFFIXES
    return (read_header(file).get("patient_id") if is_dicom else None) or path.as_posix()


def _notices(frame: pd.DataFrame, pattern: str) -> tuple[str, ...]:
    alone = int(frame["patient_id"].eq(frame["study_id"]).sum())
    if pattern or not alone:
        return ()
    return (
        f"the patient of {plural(alone, 'image')} is not known, so each counts as its"
        " own and one patient may be in several parts; set source.options.patient_pattern"
        " if file names tell patients",
    )
