"""Draft of a task: source, columns and notes for the user, and its commented YAML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import to_json
from cxr_mm.core.paths import data_root
from cxr_mm.core.templates import render
from cxr_mm.data.sources.base import IMAGE_SUFFIXES, files_below
from cxr_mm.data.sources.headers import may_be_dicom, read_header
from cxr_mm.data.sources.manifest_csv import image_path
from cxr_mm.data.task_draft.columns import Column, Kind, guess_column

KNOWN = ("study_id", "patient_id", "group", "image_path", "view", "site", "part")
"""Columns of a manifest CSV that are neither findings nor clinical features."""
DEFAULT_NOTES = ("note", "report", "befund", "notiz", "anamnese", "history", "indication")
HALF = 0.5
"""Share of a column's cells that end as image files do, above which it names files."""
SMALL_SET = 500
"""Studies below which folds are proposed."""


@dataclass(frozen=True)
class Draft:
    """What a task is written from.

    Args:
        source: `kind`, `folder` and `options` of the source.
        has_image: whether there are images.
        columns: every column of the table that is not in `KNOWN`.
        studies, patients: their numbers.
        notes: lines for the user about what was guessed.
    """

    source: dict[str, Any]
    has_image: bool
    columns: list[Column]
    studies: int
    patients: int
    notes: list[str] = field(default_factory=list)

    def of(self, kind: Kind) -> list[Column]:
        """Columns of a kind."""
        return [column for column in self.columns if column.kind == kind]


def draft_of(csv: Path, frame: pd.DataFrame, images: Path | None, findings: Sequence[str]) -> Draft:
    """Guess a task from a table.

    Args:
        csv: path of the table.
        frame: its cells as text, None where missing.
        images: folder of the images; None: that of the table.
        findings: columns to predict; empty: all columns of 0 and 1.

    Raises:
        ManifestError: an id column or image column is missing, or nothing can be predicted.
    """
    source = _source(csv, frame, images)
    dicom = source["kind"] == "dicom_folder"
    if not dicom:
        _require_image_path(csv, frame)
    _require_ids(csv, frame, ("study_id",) if dicom else ("study_id", "patient_id"))
    if unknown := [name for name in findings if name not in frame.columns]:
        raise _fault(csv, unknown[0], "no such column", f"There are {', '.join(frame.columns)}")
    own = [str(name) for name in frame.columns if name not in KNOWN]
    columns = [guess_column(name, frame[name].dropna().tolist(), findings) for name in own]
    columns = _one_note(columns, frame)
    draft = Draft(
        source=source,
        has_image=dicom or ("image_path" in frame and bool(frame["image_path"].notna().any())),
        columns=columns,
        studies=len(frame),
        patients=frame["patient_id" if "patient_id" in frame else "study_id"].nunique(),
    )
    if not draft.of("finding"):
        raise _fault(
            csv,
            "--finding",
            "no column has 0 and 1 alone, so it is not clear what is to be predicted",
            f"Name a column with --finding; there are {', '.join(own)}",
        )
    if draft.has_image and not dicom:
        draft.notes.append(_images_found(csv, frame, images))
    draft.notes.extend(f"{column.column}: {column.kind}, {column.about}" for column in columns)
    return draft


def _images_found(csv: Path, frame: pd.DataFrame, images: Path | None) -> str:
    """How many of the files named in `image_path` are there; none is an error."""
    folder, names = images or csv.parent, frame["image_path"].dropna().tolist()
    found = sum(Path(image_path(folder, name)).is_file() for name in names)
    if not found:
        raise _fault(
            csv,
            "image_path",
            f"none of {len(names)} files is in {folder}, as {names[0]!r}",
            "Name the folder that the paths are relative to with --images",
        )
    return f"image_path: {found} of {len(names)} files are there"


def _source(csv: Path, frame: pd.DataFrame, images: Path | None) -> dict[str, Any]:
    """A folder of DICOM files where the table names no images, else a manifest CSV."""
    if images is not None and not images.is_dir():
        raise InputError("no such folder", field=f"--images {images}", remedy="Name a folder")
    if images is not None and "image_path" not in frame:
        if not any(may_be_dicom(file) and read_header(file) for file in files_below(images)):
            raise _fault(csv, "image_path", "the column is missing", "Add the file of each study")
        folder, options = images, {"csv": str(csv.absolute())}
        return {"kind": "dicom_folder", "folder": _below_root(folder), "options": options}
    options = {"file": csv.name}
    if images is not None:
        options["images"] = str(images.absolute())
    return {"kind": "manifest_csv", "folder": _below_root(csv.parent), "options": options}


def _below_root(folder: Path) -> str:
    """Path relative to the data root where it is below it, so that the task works elsewhere too."""
    path, root = folder.resolve(), data_root().resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _require_image_path(csv: Path, frame: pd.DataFrame) -> None:
    """Refuse a table whose image files stand in a column of another name: they would be unused."""
    if "image_path" not in frame and (named := [c for c in frame if _names_files(frame[c])]):
        raise _fault(
            csv,
            "image_path",
            f"the column is missing, and {named[0]} has names of image files",
            f"Rename {named[0]} to image_path, or remove it if images are not to be used",
        )


def _names_files(cells: pd.Series) -> bool:
    known = cells.dropna().astype(str)
    return len(known) > 0 and bool(known.str.lower().str.endswith(IMAGE_SUFFIXES).mean() > HALF)


def _require_ids(csv: Path, frame: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name in frame.columns:
            continue
        unique = [
            str(c)
            for c in frame.columns
            if frame[c].notna().all() and frame[c].is_unique and not _names_files(frame[c])
        ]
        hint = f"; each row has another value in {', '.join(unique[:5])}" if unique else ""
        raise _fault(
            csv,
            name,
            f"the column is missing (there are {', '.join(map(str, frame.columns))}){hint}",
            f"Rename the column that has it to {name}",
        )


def _one_note(columns: list[Column], frame: pd.DataFrame) -> list[Column]:
    """Keep the note with a usual name, else the longest; leave the others out."""
    notes = [column for column in columns if column.kind == "note"]
    if not notes:
        return columns
    length = {c.column: frame[c.column].dropna().map(len).mean() for c in notes}
    kept = max(notes, key=lambda c: (c.name in DEFAULT_NOTES, length[c.column]))
    why = f"a text; the note is {kept.column}"
    return [
        Column(c.column, "left out", why) if c.kind == "note" and c is not kept else c
        for c in columns
    ]


def task_yaml(name: str, draft: Draft) -> str:
    """The YAML of a task, commented."""
    findings = draft.of("finding")
    return render(
        "task.yaml",
        name=name,
        problem="binary" if len(findings) == 1 else "multilabel",
        draft=draft,
        findings=findings,
        clinical=[c for c in draft.columns if c.kind in ("number", "category")],
        note=next(iter(draft.of("note")), None),
        left_out=draft.of("left out"),
        small=draft.studies < SMALL_SET,
        quoted=lambda value: " ".join(to_json(value).split()),
    )


def _fault(csv: Path, field: str, message: str, remedy: str) -> ManifestError:
    return ManifestError(message, field=f"{csv}: {field}", remedy=remedy)
