"""Known columns: which columns of a table have ids, image files and views, whatever their names."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxr_mm.core.errors import ManifestError, did_you_mean
from cxr_mm.core.task import VIEWS
from cxr_mm.data.sources.base import DICOM_SUFFIXES, IMAGE_SUFFIXES
from cxr_mm.data.sources.columns import OPTIONS
from cxr_mm.data.task_draft.columns import is_view, plain_name

ENDING = re.compile(r"(id|uid|nr|no|num|nummer|number|code|key|kennung|nummern)$")
"""How names of ids end, in English and German."""
STEMS = {
    "study_id": (
        "study", "studie", "studien", "untersuchung", "untersuchungs", "exam", "examination",
        "accession", "studyinstance", "sopinstance", "fall", "case", "image", "bild", "aufnahme",
    ),
    "patient_id": ("patient", "patienten", "pat", "subject", "proband", "probanden", "person"),
}  # fmt: skip
"""Id → what is before the ending."""
ALONE = ("study", "accession", "patient", "subject", "mrn")
"""Names of ids without an ending."""
HALF = 0.5
"""Share of a column's cells that end as image files do, above which it names files."""
FILES = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)
FRONTAL = ("pa", "ap", "frontal")


def find_known(
    csv: Path, frame: pd.DataFrame, given: dict[str, str], of_headers: bool
) -> dict[str, str]:
    """Find the columns of ids, image files and views.

    Args:
        csv: path of the table.
        frame: its cells as text, None where missing.
        given: usual name → column, as the user named it.
        of_headers: whether the images are a folder of DICOM files, whose headers name patients.

    Returns:
        Usual name (a key of `OPTIONS`) → column; those that are not there are left out.

    Raises:
        ManifestError: an id is in no column, or image files are in several.
    """
    found = {usual: usual for usual in OPTIONS if usual in frame} | given
    for column in given.values():
        if column not in frame:
            raise no_such_column(csv, column, frame)
    if "image_path" not in found and not of_headers and (file_column := _file_column(csv, frame)):
        found["image_path"] = file_column
    for usual in STEMS:
        if usual not in found and (named := _id_column(frame, usual)):
            found[usual] = named
    if "study_id" not in found and _identifies(frame, files := found.get("image_path", "")):
        found["study_id"] = files
    needed = ("study_id",) if of_headers else tuple(STEMS)
    if missing := [usual for usual in needed if usual not in found]:
        raise _no_id(csv, frame, missing)
    if "view" not in found and (view := _view_column(frame)):
        found["view"] = view
    return found


def _id_column(frame: pd.DataFrame, usual: str) -> str | None:
    """The first column whose name says that it has this id; of studies each has its own."""
    named: dict[str, str] = {}
    for column in map(str, frame.columns):
        plain = plain_name(column).replace("_", "")
        stem = ENDING.sub("", plain)
        if stem != plain or plain in ALONE:
            named.setdefault("patient" if stem == "mrn" else stem, column)
    columns = [named[stem] for stem in STEMS[usual] if stem in named]
    if usual == "study_id":
        columns = [column for column in columns if _identifies(frame, column)]
    return next(iter(columns), None)


def _identifies(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and bool(frame[column].notna().all() and frame[column].is_unique)


def _file_column(csv: Path, frame: pd.DataFrame) -> str | None:
    """The column of image files; several are refused, since one may be of masks."""
    named = [str(column) for column in frame if names_files(frame[column])]
    if len(named) > 1:
        raise _fault(
            csv,
            ", ".join(named),
            "several columns have names of image files",
            f"Rename the one of the radiographs to image_path, as {named[0]}",
        )
    return next(iter(named), None)


def names_files(cells: pd.Series) -> bool:
    """Whether a column has names of image files."""
    known = cells.dropna().astype(str)
    return len(known) > 0 and bool(known.str.lower().str.endswith(FILES).mean() > HALF)


def _view_column(frame: pd.DataFrame) -> str | None:
    """The column of view positions, one of AP and PA before one of frontal and lateral."""
    columns = [c for c in map(str, frame) if is_view(Counter(frame[c].dropna()))]
    return next((c for c in columns if _has_projection(frame[c])), next(iter(columns), None))


def _has_projection(cells: pd.Series) -> bool:
    return bool(cells.dropna().str.casefold().isin(("ap", "pa")).any())


def frontal_views(cells: pd.Series) -> list[str]:
    """Frontal views of a column, as `ingest` spells them; empty where there are no others."""
    distinct = list(dict.fromkeys(cells.dropna()))
    frontal = [view for view in distinct if view.casefold() in FRONTAL]
    spelt = [view.upper() if view.upper() in VIEWS else view for view in frontal]
    return list(dict.fromkeys(spelt)) if len(frontal) < len(distinct) else []


def _no_id(csv: Path, frame: pd.DataFrame, missing: Sequence[str]) -> ManifestError:
    """The error for ids that are in no column; it names columns in which each row is another."""
    unique = [c for c in map(str, frame) if _identifies(frame, c) and not names_files(frame[c])]
    hint = f"; each row has another value in {', '.join(unique[:5])}" if unique else ""
    what = "the column is missing" if len(missing) == 1 else "these columns are missing"
    options = " and ".join(f"--{OPTIONS[name].replace('_', '-')}" for name in missing)
    return _fault(
        csv,
        ", ".join(missing),
        f"{what} (there are {', '.join(map(str, frame.columns))}){hint}",
        f"Name the column that has it with {options}",
    )


def no_such_column(csv: Path, column: str, frame: pd.DataFrame) -> ManifestError:
    """Make the error for a column that a table was said to have; it names the one most like it."""
    columns = [str(name) for name in frame.columns]
    remedy = did_you_mean(column, columns, f"There are {', '.join(columns)}")
    return _fault(csv, column, "no such column", remedy)


def _fault(csv: Path, field: str, message: str, remedy: str) -> ManifestError:
    return ManifestError(message, field=f"{csv}: {field}", remedy=remedy)
