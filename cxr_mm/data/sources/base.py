"""The raw table that every source returns, and functions that the sources share."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn, TypeVar

import pandas as pd
from pydantic import ValidationError

from cxr_mm.core.errors import DataNotFoundError, TaskError
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen, faults_of
from cxr_mm.data.manifest import TEXT_COLUMNS
from cxr_mm.data.sources.losses import Dropped, kind_of

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
OUTSIDE, NOT_IN_TABLE = "outside the class folders", "images that the table does not name"
"""Kinds of images that are passed over: of a tree of class folders, and of a table."""


@dataclass(frozen=True)
class RawStudies:
    """The studies of a source, before views, labels and clinical values are checked.

    `frame` has the columns `TEXT_COLUMNS` (text, missing where not known; `image_path` relative
    to the source's folder or absolute; `part` is `train`, `test` or missing; a missing `group`
    means the task's group key), the source's raw label columns, and its clinical columns under
    the names that tasks use for features. `passed_over` counts files that are no image of the
    source, by kind; `notices` are sentences without a full stop that a user should read.
    """

    frame: pd.DataFrame
    dropped: list[Dropped]
    passed_over: Counter[str] = field(default_factory=Counter)
    notices: tuple[str, ...] = ()


Source = Callable[[Task, Path, Path], RawStudies]
"""(task, folder of the source, folder it may write into) → raw studies."""


class NoOptions(Frozen):
    """A source that takes no options."""


Options = TypeVar("Options", bound=Frozen)


def checked_options(model: type[Options], task: Task) -> Options:
    """The task's `source.options` as the source's own type.

    Raises:
        TaskError: an option is unknown or has a wrong value.
    """
    try:
        return model.model_validate(task.source.options)
    except ValidationError as error:
        field, message = faults_of(error, model)
        known = ", ".join(model.model_fields) or "none"
        raise TaskError(
            message,
            field=f"tasks/{task.name}: source.options.{field}",
            remedy=f"Options of {task.source.kind}: {known}",
        ) from error


def raw_studies(
    frame: pd.DataFrame,
    dropped: list[Dropped],
    passed_over: Counter[str] | None = None,
    notices: tuple[str, ...] = (),
) -> RawStudies:
    """Add the columns of `TEXT_COLUMNS` that a table lacks."""
    missing = [c for c in TEXT_COLUMNS if c not in frame.columns]
    empty = pd.DataFrame(None, index=frame.index, columns=missing, dtype=object)
    table = pd.concat([frame, empty], axis=1).reset_index(drop=True)
    return RawStudies(table, dropped, passed_over or Counter(), notices)


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder in sorted order, except hidden ones and `__MACOSX`.

    Links to folders are followed, each folder once.

    Raises:
        DataNotFoundError: a folder cannot be listed.
    """
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=_unlistable, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here, name) for name in sorted(names) if not name.startswith("."))


def stat_of(file: Path) -> os.stat_result:
    """Size and times of a file that a folder lists.

    Raises:
        DataNotFoundError: it has vanished since, or is a link to nothing.
    """
    try:
        return file.stat()
    except OSError as error:
        raise DataNotFoundError(
            f"listed in its folder, but cannot be looked at ({error.strerror})",
            field=str(file),
            remedy="Run this again when nothing changes the data; remove links that lead nowhere",
        ) from error


def count_not_in_table(files: Iterable[Path]) -> Counter[str]:
    """Count files that no row of the source's table names: images as such, others by kind."""
    return Counter(
        NOT_IN_TABLE if file.suffix.lower() in IMAGE_SUFFIXES else kind_of(file) for file in files
    )


def paths_matching(folder: Path, pattern: str) -> list[Path]:
    """Sorted paths below a folder that match a pattern, such as `train/NORMAL` or `images*`.

    Raises:
        DataNotFoundError: a folder on the way cannot be listed; `Path.glob` would skip it.
    """
    found = [folder]
    for part in pattern.split("/"):
        found = [
            path
            for here in found
            if here.is_dir()
            for path in _listed(here)
            if fnmatchcase(path.name, part)
        ]
    return sorted(found)


def _listed(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries]
    except OSError as error:
        _unlistable(error)


def _unlistable(error: OSError) -> NoReturn:
    """Refuse a folder that this account cannot list: its studies would be missing in silence."""
    raise DataNotFoundError(
        f"the folder cannot be listed ({error.strerror})",
        field=str(error.filename),
        remedy="Give this account permission to read it, or move it out of the data",
    ) from error
