"""Draft of a task: source, columns and notes for the user, and its commented YAML."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import to_json
from cxr_mm.core.paths import data_root
from cxr_mm.core.templates import render
from cxr_mm.core.types import plural
from cxr_mm.data.sources.base import files_below
from cxr_mm.data.sources.columns import OPTIONS
from cxr_mm.data.sources.headers import FROM_HEADER, may_be_dicom, read_header
from cxr_mm.data.sources.manifest_csv import image_path
from cxr_mm.data.task_draft.columns import Column, Kind, guess_column
from cxr_mm.data.task_draft.known import find_known, frontal_views, names_files, no_such_column

UNUSED = ("group", "site", "publisher", "part")
"""Optional columns of a manifest CSV that are no clinical features."""
DEFAULT_NOTES = ("note", "report", "befund", "notiz", "anamnese", "history", "indication")
HEADERS = 50
"""Headers that are read to find out what they say."""
SMALL_SET = 500
"""Studies below which folds are proposed."""


@dataclass(frozen=True)
class Draft:
    """What a task is written from.

    Args:
        source: `kind`, `folder` and `options` of the source.
        has_image: whether there are images.
        columns: every column of the table that is none of ids, images and views.
        studies, patients: their numbers.
        views: the frontal ones, where there are others.
        of_headers: age, sex and view, as far as DICOM headers alone have them → how many do.
        notes: lines for the user about what was guessed.
    """

    source: dict[str, Any]
    has_image: bool
    columns: list[Column]
    studies: int
    patients: int
    views: list[str] = field(default_factory=list)
    of_headers: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of(self, kind: Kind) -> list[Column]:
        """Columns of a kind."""
        return [column for column in self.columns if column.kind == kind]


def draft_of(
    csv: Path,
    frame: pd.DataFrame,
    images: Path | None,
    findings: Sequence[str],
    named: Mapping[str, str] | None = None,
) -> Draft:
    """Guess a task from a table.

    Args:
        csv: path of the table.
        frame: its cells as text, None where missing.
        images: folder of the images; None: that of the table.
        findings: columns to predict; empty: all columns of 0 and 1.
        named: usual name of an id → its column.

    Raises:
        ManifestError: as `find_known`; or nothing can be predicted.
    """
    dicom = _is_dicom_folder(csv, frame, images)
    known = find_known(csv, frame, dict(named or {}), dicom)
    if unknown := [name for name in findings if name not in frame.columns]:
        raise no_such_column(csv, unknown[0], frame)
    taken = {*known.values(), *UNUSED}
    own = [str(name) for name in frame.columns if name not in taken]
    columns = [guess_column(name, frame[name].dropna().tolist(), findings) for name in own]
    columns = _one_note(columns, frame)
    files = frame[known["image_path"]].dropna().tolist() if "image_path" in known else []
    folder = images or csv.parent
    draft = Draft(
        source=_source(csv, images, dicom, known),
        has_image=dicom or bool(files),
        columns=columns,
        studies=len(frame),
        patients=frame[known.get("patient_id", known["study_id"])].nunique(),
        views=frontal_views(frame[known["view"]]) if "view" in known else [],
        of_headers=_of_headers(
            sorted(files_below(folder))
            if dicom
            else [Path(image_path(folder, name)) for name in files],
            {column.name for column in columns} | ({"view"} & known.keys()),
        ),
    )
    if not draft.of("finding"):
        raise _fault(
            csv,
            "--finding",
            "no column has 0 and 1 alone, so it is not clear what is to be predicted",
            f"Name a column with --finding; there are {', '.join(own)}"
            if own
            else "Add a column with 1 and 0 for what is to be predicted",
        )
    draft.notes.extend(f"{own}: {usual}" for usual, own in known.items() if own != usual)
    if files and not dicom:
        draft.notes.append(_images_found(csv, known["image_path"], files, folder))
    draft.notes.extend(f"{column.column}: {column.kind}, {column.about}" for column in columns)
    draft.notes.extend(f"{name}: of the DICOM headers, {n}" for name, n in draft.of_headers.items())
    return draft


def _of_headers(files: Sequence[Path], has: Collection[str]) -> dict[str, str]:
    """Of age, sex and view, what the table lacks and headers of its DICOM files say."""
    some = [file for file in files if may_be_dicom(file)][:HEADERS]
    headers = [header for file in some if (header := read_header(file))]
    counts = {name: sum(bool(header[name]) for header in headers) for name in FROM_HEADER}
    return {
        name: f"{count} of {len(headers)} have it"
        for name, count in counts.items()
        if count and name not in has
    }


def _images_found(csv: Path, column: str, names: Sequence[str], folder: Path) -> str:
    """How many of the named files are there; none is an error."""
    found = sum(Path(image_path(folder, name)).is_file() for name in names)
    if not found:
        raise _fault(
            csv,
            column,
            f"none of {plural(len(names), 'file')} is in {folder}, as {names[0]!r}",
            "Name the folder that the paths are relative to with --images",
        )
    return f"{column}: {found:,} of {plural(len(names), 'file')} found"


def _is_dicom_folder(csv: Path, frame: pd.DataFrame, images: Path | None) -> bool:
    """Whether the images are a folder of DICOM files that the table does not name."""
    if images is None:
        return False
    if not images.is_dir():
        raise InputError("no such folder", field=f"--images {images}", remedy="Name a folder")
    if "image_path" in frame or any(names_files(frame[column]) for column in frame):
        return False
    if not any(may_be_dicom(file) and read_header(file) for file in files_below(images)):
        raise _fault(csv, "image_path", "the column is missing", "Add the file of each study")
    return True


def _source(
    csv: Path, images: Path | None, dicom: bool, known: Mapping[str, str]
) -> dict[str, Any]:
    """The source, with the names of columns that are not the usual ones."""
    named = {OPTIONS[usual]: own for usual, own in known.items() if own != usual}
    if dicom:
        assert images is not None
        options = {"csv": str(csv.absolute()), **named}
        return {"kind": "dicom_folder", "folder": _below_root(images), "options": options}
    options = {"file": csv.name, **({"images": str(images.absolute())} if images else {}), **named}
    return {"kind": "manifest_csv", "folder": _below_root(csv.parent), "options": options}


def _below_root(folder: Path) -> str:
    """Path relative to the data root where it is below it, so that the task works elsewhere too."""
    path, root = folder.resolve(), data_root().resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


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
