"""Paediatric chest radiographs of Kermany et al. 2018 (Cell 172:1122, doi:10.17632/rscbjbr9sj)."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cxr_mm.core.task import Task
from cxr_mm.data.sources.base import (
    IMAGE_SUFFIXES,
    NoOptions,
    RawStudies,
    checked_options,
    files_below,
    raw_studies,
)
from cxr_mm.data.sources.losses import Dropped

EXPECTED = ("train/NORMAL", "train/PNEUMONIA", "test/NORMAL", "test/PNEUMONIA")
PNEUMONIA = re.compile(r"^(person\d+)_(bacteria|virus)")
NORMAL = re.compile(r"^((?:NORMAL2-)?IM-\d+)")
AETIOLOGY = {"bacteria": "BACTERIAL", "virus": "VIRAL"}
VAL_REASON = "the val part of 16 images is too small to select on"


def read_kermany(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read `{train,test}/{NORMAL,PNEUMONIA}`; raw label column `label`.

    Labels are `NORMAL`, `BACTERIAL`, `VIRAL`, or `PNEUMONIA` if the name has no aetiology.
    Patients are identified by file name, within a part only: the numbering may restart.
    All images are AP. The 16 images of `val` are counted as dropped.
    """
    checked_options(NoOptions, task)
    rows = [
        _row(folder, part, name, file)
        for part in ("train", "test")
        for name in ("NORMAL", "PNEUMONIA")
        for file in _images(folder / part / name)
    ]
    val = folder / "val"
    dropped = [
        Dropped(str(file.relative_to(folder)), VAL_REASON)
        for file in (_images(val) if val.is_dir() else ())
    ]
    return raw_studies(pd.DataFrame(rows), dropped)


def _images(folder: Path) -> Iterator[Path]:
    return (f for f in files_below(folder) if f.suffix.lower() in IMAGE_SUFFIXES)


def _row(folder: Path, part: str, name: str, file: Path) -> dict[str, str]:
    path = file.relative_to(folder).as_posix()
    patient, label = _patient_and_label(name, file.stem)
    return {
        "study_id": path,
        "patient_id": f"{part}/{patient}",
        "group": f"{part}/{patient}",
        "image_path": path,
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
