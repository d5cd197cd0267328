"""New task: a commented YAML for the user's own table, guessed column by column and checked."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cxr_mm.core.errors import ClinicalError, InputError, ManifestError
from cxr_mm.core.paths import data_root

if TYPE_CHECKING:  # other commands start without it
    import pandas as pd

commands = typer.Typer()
PANEL = "Data"


@commands.command("new-task", rich_help_panel=PANEL)
def new_task(
    name: Annotated[str, typer.Argument(help="Name: lower case letters, digits, underscores.")],
    csv: Annotated[Path, typer.Option(help="Your table, a row for each study.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, if it is not that of the table.")
    ] = None,
    finding: Annotated[
        list[str] | None,
        typer.Option(help="Column to predict; may be repeated. Default: columns of 0 and 1."),
    ] = None,
) -> None:
    """Write tasks/NAME.yaml for your own table, and check it."""
    from cxr_mm.core.files import write_text
    from cxr_mm.core.task import TASKS, load_task
    from cxr_mm.data.tables import read_table

    path = TASKS / f"{name}.yaml"
    if path.exists():
        raise InputError("exists already", field=str(path), remedy="Choose another name")
    draft = draft_of(csv, read_table(csv), images, finding or ())
    write_text(path, task_yaml(name, draft))
    task = load_task(path)
    print(f"{path}: {', '.join(task.finding_names)} from {', '.join(task.modalities)}")
    for line in draft.notes:
        print(f"  {line}")
    print(f"Look through it (units and ranges), add {name} to tasks in params.yaml, then:")
    print(f"  dvc repro ingest@{name} && dvc repro evaluate@{name} reference@{name}")


KNOWN = ("study_id", "patient_id", "group", "image_path", "view", "site", "part")
"""Columns of a manifest CSV that are neither findings nor clinical features."""
DEFAULT_NOTES = ("note", "report", "befund", "notiz", "anamnese", "history", "indication")
PRESENT, ABSENT, UNCERTAIN = {"1", "1.0"}, {"0", "0.0"}, {"-1", "-1.0"}
MOST_CATEGORIES, FEWEST_NUMBERS, NUMERIC_SHARE, LONG_TEXT, SMALL_SET = 12, 7, 0.9, 30, 500
"""Distinct values of a category at most; of a number at least; share of cells that read as numbers;
letters on average from which a text is a note; studies below which folds are proposed."""
Kind = Literal["finding", "number", "category", "note", "left out"]


@dataclass(frozen=True)
class Column:
    """A column of the table and what it was taken for.

    Args:
        column: its name in the table.
        kind: what it becomes in the task.
        about: comment beside it: what the table has, or why it is left out.
        values: of a category its categories; of a finding the words for present, absent and without
            information.
        low, high: proposed limits of a number.
    """

    column: str
    kind: Kind
    about: str
    values: tuple[Any, ...] = ()
    low: float = math.nan
    high: float = math.nan

    @property
    def name(self) -> str:
        """Identifier in the task."""
        plain = re.sub(r"[^a-z0-9]+", "_", _ascii(self.column).lower()).strip("_")
        return plain if plain[:1].isalpha() else f"x_{plain}"

    @property
    def is_age(self) -> bool:
        """Whether the name says that it is an age in years."""
        return self.name in {"age", "alter", "age_years", "patient_age", "alter_jahre"}


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


def draft_of(
    csv: Path, frame: "pd.DataFrame", images: Path | None, findings: Sequence[str]
) -> Draft:
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
    _require_ids(csv, frame, ("study_id",) if dicom else ("study_id", "patient_id"))
    if unknown := [name for name in findings if name not in frame.columns]:
        raise _fault(csv, unknown[0], "no such column", f"There are {', '.join(frame.columns)}")
    own = [str(name) for name in frame.columns if name not in KNOWN]
    columns = [_guess(name, frame[name].dropna().tolist(), findings) for name in own]
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


def _images_found(csv: Path, frame: "pd.DataFrame", images: Path | None) -> str:
    """How many of the files named in `image_path` are there; none is an error."""
    from cxr_mm.data.sources.manifest_csv import image_path

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


def _source(csv: Path, frame: "pd.DataFrame", images: Path | None) -> dict[str, Any]:
    """A folder of DICOM files where the table names no images, else a manifest CSV."""
    from cxr_mm.data.sources.base import files_below
    from cxr_mm.data.sources.dicom_folder import may_be_dicom, read_header

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


def _require_ids(csv: Path, frame: "pd.DataFrame", names: Sequence[str]) -> None:
    for name in names:
        if name in frame.columns:
            continue
        unique = [str(c) for c in frame.columns if frame[c].notna().all() and frame[c].is_unique]
        hint = f"; each row has another value in {', '.join(unique[:5])}" if unique else ""
        raise _fault(
            csv,
            name,
            f"the column is missing (there are {', '.join(map(str, frame.columns))}){hint}",
            f"Rename the column that has it to {name}",
        )


def _guess(name: str, cells: list[str], findings: Sequence[str]) -> Column:
    """What a column is taken for, by its known cells."""
    counts = Counter(cells)
    about = f"{len(cells)} known, {len(counts)} different"
    if name in findings or (not findings and _is_label(counts)):
        return Column(name, "finding", _shares(counts), _words(name, counts))
    if not counts:
        return Column(name, "left out", "no value")
    numbers = _numbers(name, cells)
    if len(numbers) >= NUMERIC_SHARE * len(cells) and len(set(numbers)) >= FEWEST_NUMBERS:
        unread = (
            f", {len(cells) - len(numbers)} are no numbers" if len(numbers) < len(cells) else ""
        )
        about = f"{min(numbers):g} to {max(numbers):g}{unread}"
        return Column(name, "number", about, (), *_limits(numbers))
    categories = _categories(counts)
    if 2 <= len(categories) <= MOST_CATEGORIES and len(categories) <= len(cells) / 2:
        return Column(name, "category", _shares(counts), categories)
    if sum(map(len, cells)) >= LONG_TEXT * len(cells):
        return Column(name, "note", about)
    return Column(name, "left out", f"{about}: an id, a date, or one value only")


def _is_label(counts: Counter[str]) -> bool:
    values = set(counts)
    return bool(values & PRESENT and values & ABSENT) and values <= PRESENT | ABSENT | UNCERTAIN


def _words(
    name: str, counts: Counter[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Words for present, absent and without information."""
    values = {re.sub(r"\.0+$", "", value) for value in counts}
    known = {word: kind for kind, words in enumerate(WORDS) for word in words}
    found: tuple[list[str], ...] = ([], [], [])
    for value in sorted(values):
        if value.lower() not in known:
            raise ManifestError(
                f"{value!r} means neither present nor absent",
                field=f"--finding {name}",
                remedy=f"Write it as one of {', '.join(sorted(known))}, or leave the cell empty",
            )
        found[known[value.lower()]].append(value)
    positive, negative, unknown = (tuple(words) for words in found)
    return positive or ("1",), negative or ("0",), unknown


WORDS = (
    ("1", "yes", "y", "true", "positive", "present", "ja", "j"),
    ("0", "no", "n", "false", "negative", "absent", "nein"),
    ("-1", "uncertain", "unclear", "unklar"),
)
"""Words for present, absent and without information, in lower case."""


def _numbers(name: str, cells: list[str]) -> list[float]:
    """Cells that read as numbers, as tables write them."""
    from cxr_mm.core.task import ClinicalFeature
    from cxr_mm.data.clinical import check_clinical

    unit = "a" if Column(name, "number", "").is_age else ""
    wide = ClinicalFeature(
        name="x", title="x", type="number", unit=unit, minimum=-1e12, maximum=1e12
    )
    found = []
    for cell in cells:
        try:
            value = check_clinical([wide], {"x": cell})["x"]
        except ClinicalError:
            continue
        if isinstance(value, float):
            found.append(value)
    return found


def _limits(numbers: list[float]) -> tuple[float, float]:
    """Limits around what the table has: from 0 where nothing is below it, to twice the largest."""
    low, high = min(numbers), max(numbers)
    return (0.0 if low >= 0 else _rounded(2 * low)), _rounded(2 * high) if high > 0 else 0.0


def _rounded(value: float) -> float:
    """Rounded away from 0 to one digit."""
    step = 10.0 ** math.floor(math.log10(abs(value)))
    return math.copysign(math.ceil(abs(value) / step) * step, value)


def _categories(counts: Counter[str]) -> tuple[str, ...]:
    """Values in order of frequency; of spellings that differ in case, the most frequent."""
    spelt: dict[str, str] = {}
    for value, _ in counts.most_common():
        spelt.setdefault(value.lower(), value)
    return tuple(spelt.values())


def _shares(counts: Counter[str]) -> str:
    shown = ((" ".join(value.split())[:LONG_TEXT], n) for value, n in counts.most_common(6))
    return ", ".join(f"{value}: {count}" for value, count in shown)


def _one_note(columns: list[Column], frame: "pd.DataFrame") -> list[Column]:
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
    from cxr_mm.core.files import to_json
    from cxr_mm.core.templates import render

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


def _ascii(text: str) -> str:
    """Letters of English only: `ö` as `oe`, other marks dropped."""
    import unicodedata

    for letter, plain in {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}.items():
        text = text.replace(letter, plain).replace(letter.upper(), plain)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _fault(csv: Path, field: str, message: str, remedy: str) -> ManifestError:
    return ManifestError(message, field=f"{csv}: {field}", remedy=remedy)
