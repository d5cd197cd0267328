"""Worklist: many studies answered, and which of them to look at first; no Gradio."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from app.archive import Item, Upload
from app.reading import ReadingRoom
from app.worklist_csv import Cells, read_rows
from cxr_mm.contracts.answer import Answer
from cxr_mm.contracts.prediction import FindingPrediction, Prediction
from cxr_mm.contracts.study import Study
from cxr_mm.contracts.task import Task
from cxr_mm.data.ahead import made_ahead
from cxr_mm.data.note import mask_note
from cxr_mm.data.transform import fitted_study
from cxr_mm.errors import InputError, RadiographError
from cxr_mm.explain import render
from cxr_mm.explain.watch import UNWATCHED, Watch
from cxr_mm.scoring import BATCH, THREADS, BadRow

LONGEST = 96
"""Pixels of the longer side of a thumbnail."""
ANY = ""
"""In place of a finding: all of them together."""
NEGATIVE = ("normal", "no_finding", "negative", "healthy")
"""Names by which a multiclass task says that a class of it means that nothing is found."""
SMALLEST = 1e-6
"""Threshold below which a probability over its threshold says no more."""


@dataclass(frozen=True)
class Row:
    """One answered study.

    Args:
        said: what the model says.
        thumbnail: uint8 (H, W), the longer side at most 96; None without a film.
    """

    said: Prediction
    thumbnail: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Worklist:
    """Many studies, in the order of the CSV and then of the films.

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
class Wanted:
    """Which studies of a worklist are shown, and by what they are ordered.

    Args:
        finding: the one that counts, or `ANY`.
        positive, uncertain: only studies of which a finding that counts is so.
        warned: only studies with a warning.
        text: only studies whose id holds this, in upper or lower case.
    """

    finding: str = ANY
    positive: bool = False
    uncertain: bool = False
    warned: bool = False
    text: str = ""


@dataclass(frozen=True)
class _Case:
    """A study as it was handed in."""

    study_id: str
    film: Item | None
    cells: Cells


@dataclass(frozen=True)
class _Ready:
    """A study whose film is fitted into the model's square, and the film's thumbnail."""

    study: Study
    thumbnail: NDArray[np.uint8] | None


def predicted(room: ReadingRoom, upload: Upload, watch: Watch = UNWATCHED) -> Worklist:
    """Answer every study that can be answered, and log the answers once all are there.

    A row of the CSV and a film go together by `image_path`, or where that is empty by `study_id`.
    Of a film only the thumbnail is kept.

    Args:
        room: whose model answers.
        upload: films, a CSV, or both.
        watch: told after each batch how many studies are done.

    Raises:
        InputError: nothing was given, or the CSV cannot be read.
        CancelledError: the watch says so; nothing is logged then.
    """
    room = room.pinned()
    table, ignored = read_rows(upload.table, room.task) if upload.table else ([], ())
    cases, bad = _cases(upload.films, table)
    bad = [*upload.refused, *bad]
    if not cases and not bad:
        raise InputError("Nothing was given yet", remedy="Give films, zip files of films or a CSV")
    rows: list[Row] = []
    answers: list[Answer] = []
    items = made_ahead(partial(_ready, room), cases, ahead=BATCH, threads=THREADS)
    watch.step(0, len(cases))
    for first in range(0, len(cases), BATCH):
        for ready, answer in _attempted(room, islice(items, BATCH), bad):
            rows.append(Row(answer.prediction, ready.thumbnail))
            answers.append(replace(answer, study=replace(answer.study, image=None)))
        watch.step(first + BATCH, len(cases))
    return Worklist(tuple(rows), tuple(bad), ignored, room.logged(answers))


def _attempted(
    room: ReadingRoom, batch: Iterable[_Ready | BadRow], bad: list[BadRow]
) -> Iterator[tuple[_Ready, Answer]]:
    """The studies of a batch that can be answered; the others join the bad."""
    ready = []
    for item in batch:
        if isinstance(item, BadRow):
            bad.append(item)
        else:
            ready.append(item)
    answers = room.predictor.attempt([item.study for item in ready])
    for item, answer in zip(ready, answers, strict=True):
        if isinstance(answer, InputError):
            room.refused(answer)
            bad.append(BadRow(item.study.study_id, _reason(answer)))
        else:
            yield item, answer


def _ready(room: ReadingRoom, case: _Case) -> _Ready | BadRow:
    task, cells = room.task, case.cells
    note = cells.get(task.note.column) if task.note else None
    try:
        if note and task.note:
            mask_note(note, task.note)  # refused here, so that one note costs one row
        study = room.study(
            str(case.film.path) if case.film else None,
            {name: cells.get(name) for name in task.clinical_names},
            note,
            None if "view" in task.clinical_names else cells.get("view"),
            case.study_id,
        )
    except InputError as error:
        return BadRow(case.study_id, _reason(error))
    study = replace(study, patient_id=cells.get("patient_id"))
    if study.image is None:
        return _Ready(study, None)
    return _Ready(fitted_study(study, room.bundle.size), render.grey(study.image, LONGEST)[:, :, 0])


def _reason(error: InputError) -> str:
    """What is wrong, without the name of the film, beside which it stands."""
    field = "" if isinstance(error, RadiographError) else error.field
    return str(InputError(error.message, field=field, remedy=error.remedy))


class _Films:
    """Films by the names that the cells of a CSV may give them."""

    def __init__(self, films: Iterable[Item]) -> None:
        self.exact: dict[str, Item] = {}
        self.alike: dict[str, list[Item]] = {}
        for film in films:
            self.exact[film.name] = film
            path = PurePosixPath(film.name)
            for name in {path.name, path.stem}:
                self.alike.setdefault(name, []).append(film)

    def named(self, cell: str) -> Item | None:
        """The film of this very name, else the only one whose name ends so, folders left out."""
        path = cell.replace("\\", "/")
        alike = self.alike.get(PurePosixPath(path).name, [])
        return self.exact.get(path) or (alike[0] if len(alike) == 1 else None)


def _cases(films: Sequence[Item], rows: Iterable[Cells]) -> tuple[list[_Case], list[BadRow]]:
    """Rows with their films, then films without a row; each study id once."""
    known, taken = _Films(films), set[str]()
    cases: dict[str, _Case] = {}
    bad: list[BadRow] = []
    for number, cells in enumerate(rows, 1):
        name = cells.get("study_id") or cells.get("image_path") or ""
        film = known.named(cells.get("image_path") or name)
        if film:
            taken.add(film.name)
        if reason := _fault(name, cells, film, cases):
            bad.append(BadRow(name or f"row {number}", reason))
        else:
            cases[name] = _Case(name, film, cells)
    for film in films:
        if film.name in taken:
            continue
        if reason := _fault(film.name, {}, film, cases):
            bad.append(BadRow(film.name, reason))
        else:
            cases[film.name] = _Case(film.name, film, {})
    return list(cases.values()), bad


def _fault(name: str, cells: Cells, film: Item | None, before: Container[str]) -> str:
    if not name:
        return "it has neither study_id nor image_path."
    if name in before:
        return "another study has this id."
    if cells.get("image_path") and film is None:
        return f"image_path: {cells['image_path']} is not among the films, or more than once."
    return ""


def chosen(found: Worklist, task: Task, wanted: Wanted) -> list[Row]:
    """Rows that are wanted, most suspicious first; of equals, those that came first."""
    rows = [row for row in found.rows if _is_wanted(row.said, task, wanted)]
    return sorted(rows, key=lambda row: -suspicion(row.said, task, wanted.finding))


def _is_wanted(said: Prediction, task: Task, wanted: Wanted) -> bool:
    counting = _counting(said, task, wanted.finding)
    return (
        (not wanted.positive or any(f.positive for f in counting))
        and (not wanted.uncertain or any(f.certainty == "uncertain" for f in counting))
        and (not wanted.warned or bool(said.warnings))
        and wanted.text.strip().casefold() in said.study_id.casefold()
    )


def suspicion(said: Prediction, task: Task, finding: str = ANY) -> float:
    """How far up in the list a study belongs.

    Of one finding it is its probability. Of any it is the highest probability over its threshold,
    or in a multiclass task the probability that something is found.
    """
    counting = _counting(said, task, finding)
    if finding == ANY and task.problem != "multiclass":
        return max(f.probability / max(f.threshold or 0.0, SMALLEST) for f in counting)
    return sum(f.probability for f in counting)


def orders(task: Task) -> list[tuple[str, str]]:
    """What a worklist of the task can be ordered by, as (title, finding); the usual first."""
    each = [(finding.title, finding.name) for finding in task.findings]
    if task.problem != "multiclass":
        return [("Any finding", ANY), *each]
    negative = [title for title, name in each if name in NEGATIVE]
    return [*((f"Anything but: {title}", ANY) for title in negative[:1]), *each]


def _counting(said: Prediction, task: Task, finding: str) -> list[FindingPrediction]:
    """The findings that count: the one, or all that mean that something is found."""
    if finding != ANY:
        return [f for f in said.findings if f.finding == finding]
    found = task.problem != "multiclass"
    return [f for f in said.findings if found or f.finding not in NEGATIVE]
