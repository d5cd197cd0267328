"""Paediatric chest radiographs of Kermany et al. 2018 (Cell 172:1122, doi:10.17632/rscbjbr9sj)."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from cxr_mm.core.task import Task
from cxr_mm.data.sources.base import (
    IMAGE_SUFFIXES,
    OUTSIDE,
    NoOptions,
    RawStudies,
    checked_options,
    files_below,
    raw_studies,
)
from cxr_mm.data.sources.losses import Dropped, kind_of

EXPECTED = ("train/NORMAL", "train/PNEUMONIA", "test/NORMAL", "test/PNEUMONIA")
PNEUMONIA = re.compile(r"^(person\d+)_(bacteria|virus)")
NORMAL = re.compile(r"^((?:NORMAL2-)?IM-\d+)")
AETIOLOGY = {"bacteria": "BACTERIAL", "virus": "VIRAL"}
VAL_REASON = "the val part of 16 images is too small to select on"


def read_kermany(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read `{train,test}/{NORMAL,PNEUMONIA}`; raw label column `label`.

    Labels are `NORMAL`, `BACTERIAL`, `VIRAL`, or `PNEUMONIA` if the name has no aetiology.
    Patients are identified by file name, within a part only: the numbering may restart.
    All images are AP. The 16 images of `val` are counted as dropped; files that are no image or
    in none of these folders are passed over and counted.

    Raises:
        DataNotFoundError: a folder cannot be listed.
    """
    checked_options(NoOptions, task)
    rows, dropped, passed_over = [], [], Counter[str]()
    for file in files_below(folder):
        path = file.relative_to(folder)
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            passed_over[kind_of(file)] += 1
        elif path.parts[0] == "val":
            dropped.append(Dropped(path.as_posix(), VAL_REASON))
        elif "/".join(path.parts[:2]) in EXPECTED:
            rows.append(_row(path))
        else:
            passed_over[OUTSIDE] += 1
    rows.sort(key=lambda row: row["part"], reverse=True)  # train before test
    return raw_studies(pd.DataFrame(rows), dropped, passed_over)


def _row(path: Path) -> dict[str, str]:
    part, name = path.parts[:2]
    patient, label = _patient_and_label(name, path.stem)
    return {
        "study_id": path.as_posix(),
        "patient_id": f"{part}/{patient}",
        "group": f"{part}/{patient}",
        "image_path": path.as_posix(),
        "view": "AP",
        "part": part,
        "label": label,
    }


def _patient_and_label(name: str, stem: str) -> tuple[str, str]:
    if name == "PNEUMONIA" and (match := PNEUMONIA.match(stem)):
        return f"{match[1]}_{match[2]}", AETIOLOGY[match[2]]
    if name == "NORMAL" and (match := NORMAL.match(stem)):
        return match[1], name
    return stem, name
