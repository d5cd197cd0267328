"""NIH ChestX-ray14 of Wang et al. 2017 (CVPR, doi:10.1109/CVPR.2017.369)."""

from pathlib import Path

import pandas as pd

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import Task
from cxr_mm.data.clinical import age_in_years
from cxr_mm.data.sources.base import (
    IMAGE_SUFFIXES,
    NoOptions,
    RawStudies,
    checked_options,
    files_below,
    paths_matching,
    raw_studies,
)
from cxr_mm.data.sources.losses import Dropped
from cxr_mm.data.tables import read_table

EXPECTED = ("Data_Entry_2017*.csv", "images*")
COLUMNS = {
    "Image Index": "study_id",
    "Patient ID": "patient_id",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "View Position": "view",
    "Follow-up #": "follow_up",
    "Finding Labels": "Finding Labels",
}


def read_nih14(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read `Data_Entry_2017*.csv` and the images of `images/` or `images_001/images/` ….

    Raw label column: `Finding Labels`, several separated by `|`. Clinical columns: `age` (years),
    `sex` (M, F), `view` (PA, AP), `follow_up`. Rows without their image file are dropped.

    Raises:
        DataNotFoundError: the table lacks columns of the original.
    """
    checked_options(NoOptions, task)
    table = paths_matching(folder, EXPECTED[0])[-1]
    frame = _read_table(table)
    frame["age"] = frame["age"].map(age_in_years)
    images = {
        file.name: file.relative_to(folder).as_posix()
        for top in paths_matching(folder, EXPECTED[1])
        for file in files_below(top)
        if file.suffix.lower() in IMAGE_SUFFIXES
    }
    frame["image_path"] = frame["study_id"].map(images)
    gone = frame["image_path"].isna()
    dropped = [
        Dropped(study, "the image file is not there") for study in frame.loc[gone, "study_id"]
    ]
    return raw_studies(frame[~gone], dropped)


def _read_table(path: Path) -> pd.DataFrame:
    frame = read_table(path)
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise DataNotFoundError(
            f"not the table of the original: no column {', '.join(missing)}",
            field=str(path),
            remedy="Use the file as it was downloaded",
        )
    return frame[list(COLUMNS)].rename(columns=COLUMNS)
