"""Worklist: many studies answered, and which of them to look at first; no Gradio."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from app.archive import FILES, Item, Upload
from app.service import InferenceService
from cxr_mm.core.errors import InputError, ManifestError, RadiographError
from cxr_mm.core.prediction import Answer, Prediction
from cxr_mm.core.progress import NO_PROGRESS, Progress, prefetch
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.data.sources.columns import OPTIONS, named_by, with_usual_names
from cxr_mm.data.studies import THREADS, BadRow, row_inputs
from cxr_mm.data.tables import SEPARATORS, iter_table
from cxr_mm.imaging.geometry import grey
from cxr_mm.inference.suspicion import ANY, NEGATIVE, suspicion
from cxr_mm.inference.table import BATCH, answer_in_batches
from cxr_mm.inference.worklist import Wanted

TABLE_BYTES = 16 * 1024**2
"""Largest table that is read."""
COLUMNS = 1000
"""Most columns that are read; a table of millions would take all memory."""

Cells = Mapping[str, str | None]
"""A row: column → text, None where the cell is empty."""


def read_rows(table: Item, task: Task) -> tuple[list[Cells], tuple[str, ...]]:
    """Rows of a CSV, and its columns that the task does not know.

    Any of the columns of a manifest CSV may be there, as usual or as the task calls them:
    `study_id`, `patient_id`, `image_path`, `view`, the task's note column and its clinical
    features; one of `study_id` and `image_path` must be.

    Raises:
        ManifestError: it is no CSV, too large, or has neither column.
    """
    try:
        _check_size(table)
        frame = with_usual_names(next(iter_table(table.path, rows=FILES + 1)), task)
    except ManifestError as error:  # by its name, not by where it lies
        raise ManifestError(error.message, field=table.name, remedy=error.remedy) from error
    names = [str(name) for name in frame.columns]
    if not {"study_id", "image_path"} & set(names):
        raise ManifestError(
            f"neither study_id nor image_path is among its columns ({', '.join(names)})",
            field=table.name,
            remedy="Add one of them",
        )
    if len(frame) > FILES:
        raise ManifestError(
            f"it has more than {FILES} rows",
            field=table.name,
            remedy="Give it in parts, or use cxr-mm worklist",
        )
    known = {*OPTIONS, *(named_by(task, usual) for usual in OPTIONS)}
    known |= {feature.column_in(names) for feature in task.clinical}
    known |= {task.note.column} if task.note else set()
    cells = frame.itertuples(index=False, name=None)
    rows: list[Cells] = [dict(zip(names, row, strict=True)) for row in cells]
    return rows, tuple(name for name in names if name not in known)


def _check_size(table: Item) -> None:
    """Refuse a table that would take all memory, before it is read."""
    if table.path.stat().st_size > TABLE_BYTES:
        raise ManifestError(
            f"it is larger than {TABLE_BYTES // 1024**2} MiB", remedy="Give it in parts"
        )
    with table.path.open(errors="replace", newline="") as stream:
        lines = stream.readline(), stream.readline()  # the first may state the separator
    if max(line.count(each) for line in lines for each in SEPARATORS) >= COLUMNS:
        raise ManifestError(
            f"it has more than {COLUMNS} columns", remedy="Keep those that the task knows"
        )


LONGEST = 96
"""Pixels of the longer side of a thumbnail."""


@dataclass(frozen=True)
class Row:
    """One answered study.

    Args:
        prediction: what the model says.
        thumbnail: uint8 (H, W), the longer side at most 96; None without an image.
    """

    prediction: Prediction
    thumbnail: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Worklist:
    """Many studies, in the order of the CSV and then of the images.

    Args:
        rows: studies that were answered.
        bad: files and studies that were not, and why.
        ignored: columns of the CSV that the task does not know.
        log_trouble: why not every prediction could be logged; empty where it was, or no log is
            kept.
    """

    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]
    ignored: tuple[str, ...] = ()
    log_trouble: str = ""


@dataclass(frozen=True)
class _Case:
    """A study as it was handed in."""

    study_id: str
    image: Item | None
    cells: Cells


@dataclass(frozen=True)
class _Ready:
    """A study whose image is fitted into the model's square, and the image's thumbnail."""

    study: Study
    thumbnail: NDArray[np.uint8] | None


def predicted(service: InferenceService, upload: Upload, watch: Progress = NO_PROGRESS) -> Worklist:
    """Answer every study that can be answered, and log the answers once all are there.

    A row of the CSV and an image go together by `image_path`, or where that is empty by `study_id`.
    Of an image only the thumbnail is kept.

    Args:
        service: whose model answers.
        upload: images, a CSV, or both.
        watch: called after each batch with the number of studies done.

    Raises:
        InputError: nothing was given, or the CSV cannot be read.
        CancelledError: the watch says so; nothing is logged then.
    """
    service = service.pinned()
    table, ignored = read_rows(upload.table, service.task) if upload.table else ([], ())
    cases, bad = _cases(upload.images, table)
    bad = [*upload.refused, *bad]
    if not cases and not bad:
        raise InputError(
            "Nothing was given yet", remedy="Give images, zip files of images or a CSV"
        )
    rows: list[Row] = []
    answers: list[Answer] = []
    thumbnails: dict[str, NDArray[np.uint8] | None] = {}
    items = prefetch(partial(_ready, service), cases, ahead=BATCH, threads=THREADS)
    watch.step(0, len(cases))
    found = answer_in_batches(
        service.predictor, _studies(items, thumbnails), partial(_rejected, service)
    )
    for number, answer in enumerate(found, 1):
        if isinstance(answer, BadRow):
            bad.append(answer)
        else:
            study_id = answer.study.study_id
            rows.append(Row(answer.prediction, thumbnails.pop(study_id)))
            answers.append(answer.without_pixels())
        if number % BATCH == 0 or number == len(cases):
            watch.step(number, len(cases))
    return Worklist(tuple(rows), tuple(bad), ignored, service.logged(answers))


def _studies(
    items: Iterable[_Ready | BadRow], thumbnails: dict[str, NDArray[np.uint8] | None]
) -> Iterator[Study | BadRow]:
    """Pass studies on and keep their thumbnails by id."""
    for item in items:
        if isinstance(item, BadRow):
            yield item
        else:
            thumbnails[item.study.study_id] = item.thumbnail
            yield item.study


def _rejected(service: InferenceService, study: Study, error: InputError) -> BadRow:
    service.refused(error)
    return BadRow(study.study_id, _reason(error))


def _ready(service: InferenceService, case: _Case) -> _Ready | BadRow:
    inputs = row_inputs(service.task, case.cells) | {"study_id": case.study_id}
    try:
        study = service.study(str(case.image.path) if case.image else None, **inputs)
    except InputError as error:
        return BadRow(case.study_id, _reason(error))
    if study.image is None:
        return _Ready(study, None)
    return _Ready(service.bundle.fitted(study), grey(study.image, LONGEST)[:, :, 0])


def _reason(error: InputError) -> str:
    """What is wrong, without the name of the image, beside which it stands."""
    field = "" if isinstance(error, RadiographError) else error.field
    return str(InputError(error.message, field=field, remedy=error.remedy))


class _Images:
    """Images by the names that the cells of a CSV may give them."""

    def __init__(self, images: Iterable[Item]) -> None:
        self.exact: dict[str, Item] = {}
        self.alike: dict[str, list[Item]] = {}
        for image in images:
            self.exact[image.name] = image
            path = PurePosixPath(image.name)
            for name in {path.name, path.stem}:
                self.alike.setdefault(name, []).append(image)

    def named(self, cell: str) -> Item | None:
        """The image of this very name, else the only one whose name ends so, folders left out."""
        path = cell.replace("\\", "/")
        alike = self.alike.get(PurePosixPath(path).name, [])
        return self.exact.get(path) or (alike[0] if len(alike) == 1 else None)


def _cases(images: Sequence[Item], rows: Iterable[Cells]) -> tuple[list[_Case], list[BadRow]]:
    """Rows with their images, then images without a row; each study id once."""
    known, taken = _Images(images), set[str]()
    cases: dict[str, _Case] = {}
    bad: list[BadRow] = []
    for number, cells in enumerate(rows, 1):
        name = cells.get("study_id") or cells.get("image_path") or ""
        image = known.named(cells.get("image_path") or name)
        if image:
            taken.add(image.name)
        if reason := _fault(name, cells, image, cases):
            bad.append(BadRow(name or f"row {number}", reason))
        else:
            cases[name] = _Case(name, image, cells)
    for image in images:
        if image.name in taken:
            continue
        if reason := _fault(image.name, {}, image, cases):
            bad.append(BadRow(image.name, reason))
        else:
            cases[image.name] = _Case(image.name, image, {})
    return list(cases.values()), bad


def _fault(name: str, cells: Cells, image: Item | None, before: Container[str]) -> str:
    if not name:
        return "it has neither study_id nor image_path."
    if name in before:
        return "another study has this id."
    if cells.get("image_path") and image is None:
        return f"image_path: {cells['image_path']} is not among the images, or more than once."
    return ""


def chosen(found: Worklist, task: Task, wanted: Wanted) -> list[Row]:
    """Rows that are wanted, most suspicious first; of equals, those that came first."""
    rows = [row for row in found.rows if wanted.takes(row.prediction, task)]
    return sorted(rows, key=lambda row: -suspicion(row.prediction, task, wanted.finding))


def orders(task: Task) -> list[tuple[str, str]]:
    """What a worklist of the task can be ordered by, as (title, finding); the usual first."""
    each = [(finding.title, finding.name) for finding in task.findings]
    if task.problem != "multiclass":
        return [("Any finding", ANY), *each]
    negative = [title for title, name in each if name in NEGATIVE]
    return [*((f"Anything but: {title}", ANY) for title in negative[:1]), *each]
