"""NIH ChestX-ray14 of Wang et al. 2017 (CVPR, doi:10.1109/CVPR.2017.369)."""

from collections import defaultdict
from pathlib import Path

import pandas as pd

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen
from cxr_mm.data.clinical import age_in_years
from cxr_mm.data.sources.base import (
    RawStudies,
    checked_options,
    count_not_in_table,
    files_below,
    paths_matching,
    raw_studies,
)
from cxr_mm.data.sources.losses import dropped_rows
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

READ_COLUMNS = ("image", "rsna_class")


class Nih14Options(Frozen):
    """Labels besides those of the reports."""

    radiologists: str = ""
    """CSV below the source's folder with `image` and `rsna_class`, as radiologists of the RSNA
    Pneumonia Detection Challenge read some of the images; empty for none."""


def read_nih14(task: Task, folder: Path, work: Path) -> RawStudies:  # noqa: ARG001
    """Read `Data_Entry_2017*.csv` and the images of `images/` or `images_001/images/` ….

    Raw label column: `Finding Labels`, several separated by `|`. Clinical columns: `age` (years),
    `sex` (M, F), `view` (PA, AP), `follow_up`. Rows without their image file are dropped, and so
    are rows whose name several files have, which may be different images. Files that the table
    does not name are passed over and counted.

    With the option `radiologists` there is a further label column, `rsna_class` of Shih et al. 2019
    (Radiol Artif Intell, doi:10.1148/ryai.2019180041): `Lung Opacity`, `No Lung Opacity / Not
    Normal` or `Normal`, missing for an image that they did not read.

    Raises:
        DataNotFoundError: the table lacks columns of the original, or a folder cannot be listed.
        ManifestError: the radiologists' table cannot be read or lacks a column.
        TaskError: another option than `radiologists`.
    """
    radiologists = checked_options(Nih14Options, task).radiologists
    table = paths_matching(folder, EXPECTED[0])[-1]
    frame = _read_table(table)
    frame["age"] = frame["age"].map(age_in_years)
    if radiologists:
        classes = read_table(folder / radiologists, READ_COLUMNS).drop_duplicates("image")
        frame["rsna_class"] = frame["study_id"].map(classes.set_index("image")["rsna_class"])
    files = _files_by_name(folder)
    number = frame["study_id"].map(lambda name: len(files.get(name, ())))
    reasons = pd.Series(None, index=frame.index, dtype=object)
    reasons[number == 0] = "the image file is not there"
    reasons[number > 1] = "several image files have this name"
    used = frame[number == 1]
    paths = used["study_id"].map(lambda name: files[name][0].relative_to(folder).as_posix())
    named = set(frame["study_id"])
    others = (file for name in files if name not in named for file in files[name])
    return raw_studies(
        used.assign(image_path=paths),
        dropped_rows(frame["study_id"], reasons),
        count_not_in_table(others),
    )


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    """Name → the files of that name in all folders of images."""
    files: dict[str, list[Path]] = defaultdict(list)
    for top in paths_matching(folder, EXPECTED[1]):
        for file in files_below(top):
            files[file.name].append(file)
    return files


def _read_table(path: Path) -> pd.DataFrame:
    frame = read_table(path)
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise DataNotFoundError(
            f"not the table of the original: no column {', '.join(missing)}",
            field=str(path),
            remedy="Use the file as it was downloaded",
        )
    return frame[list(COLUMNS)].rename(columns=COLUMNS)
