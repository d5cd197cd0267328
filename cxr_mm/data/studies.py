"""Studies: the one builder of `Study`, for form, API, command line and tables alike."""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cxr_mm.core.errors import InputError, NoteError, RadiographError
from cxr_mm.core.progress import prefetch
from cxr_mm.core.shards.store import Place, place_of
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.core.types import HeaderUse
from cxr_mm.data.clinical import YEARS, by_feature, check_clinical
from cxr_mm.data.notes import check_note
from cxr_mm.data.sources.dicom_folder import read_headers
from cxr_mm.data.sources.manifest_csv import iter_manifest_csv
from cxr_mm.data.sources.shard_tables import shard_files
from cxr_mm.data.tables import is_missing
from cxr_mm.imaging.radiograph import Radiograph, read_radiograph

_log = logging.getLogger(__name__)
GENERATED_ID = "study-"
"""Prefix of an id that was generated because the caller gave none."""
THREADS = 4
"""Threads that read the images of a table."""


@dataclass(frozen=True)
class BadRow:
    """A study that cannot be predicted, and why.

    Args:
        study_id: its id.
        reason: a sentence that names what is at fault.
        kind: the reason without names, the same for every such study.
    """

    study_id: str
    reason: str
    kind: str = ""


def bad_row(study_id: str, error: InputError) -> BadRow:
    """Make the row of a study with invalid input."""
    return BadRow(study_id, str(error), error.message)


LEFT_OUT = "header: left out, since --use-header was not given: "


def header_left_out(study: Study) -> bool:
    """Whether the image's header says something that was not used."""
    return any(warning.startswith(LEFT_OUT) for warning in study.warnings)


def header_values(task: Task, image: Radiograph) -> dict[str, str]:
    """What the header says of the task's age, sex and view, as a form or an option takes it.

    Left out is what the header does not say and what the task does not take.
    """
    offered = {}
    for feature in task.clinical:
        says = {"age": image.header.get("age"), "sex": image.header.get("sex"), "view": image.view}
        if feature.name not in says or (feature.name == "age" and feature.unit != YEARS):
            continue
        value = check_clinical((feature,), {feature.name: says[feature.name]})[feature.name]
        if value is not None:
            offered[feature.name] = value if isinstance(value, str) else f"{value:.3g}"
    return offered


def build_study(
    task: Task,
    read: Callable[[], Radiograph] | None = None,
    clinical: Mapping[str, Any] | None = None,
    note: str | None = None,
    view: str | None = None,
    study_id: str | None = None,
    patient_id: str | None = None,
    header: HeaderUse = "ignore",
) -> Study:
    """Build a checked study; the same input gives the same study through every door.

    Blanks around ids, view and note are dropped; what is empty then, or a word for a missing
    value (see `cxr_mm.data.tables`), is absent. Clinical values are checked and typed. The view is
    the one given, else the clinical feature `view`, else the image file's, spelt as the task does.
    A missing id is generated. The image is read last, and only if the task uses it.

    Args:
        task: whose inputs they are.
        read: reads the image; None without one.
        clinical: feature, or heading of its column → number, text or None.
        note: clinical note.
        view: view position.
        study_id, patient_id: the caller's own ids.
        header: what becomes of features that only the image's header says.

    Raises:
        ClinicalError: as `by_feature`; a value that cannot be used is unknown.
        NoteError, RadiographError: the input at fault.
    """
    values = check_clinical(task.clinical, clinical or {})
    text = _text_of(note)
    image = read() if read is not None and task.has_image else None
    named = by_feature(task.clinical, clinical or {})
    offered = header_values(task, image) if image and header != "ignore" else {}
    offered = {name: cell for name, cell in offered.items() if is_missing(named.get(name))}
    if header == "use" and offered:
        values = check_clinical(task.clinical, {**named, **offered})
    feature = values.get("view")
    seen = (
        _stripped(view)
        or (feature if isinstance(feature, str) else None)
        or (image.view if image else None)
    )
    given = {"image": read is not None, "note": text is not None}
    unused = [name for name in given if given[name] and name not in task.modalities]
    return Study(
        study_id=_stripped(study_id) or f"{GENERATED_ID}{uuid.uuid4()}",
        patient_id=_stripped(patient_id),
        image=image.pixels if image else None,
        clinical=values,
        note=text if task.note else None,
        view=task.spelt_view(seen) if seen else None,
        warnings=(
            *(image.warnings if image else ()),
            *([LEFT_OUT + _listed(offered)] if offered and header == "name" else ()),
            *(f"{modality}: given, but this model does not use it" for modality in unused),
        ),
        quality=image.quality if image else {},
        fitted=image.fitted if image else False,
        shape=image.shape if image else None,
    )


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _text_of(note: object) -> str | None:
    """A note without blanks around it; None where there is none.

    Raises:
        NoteError: it is something else than text, too long, or holds what no text does.
    """
    if not isinstance(note, str) and not is_missing(note):
        raise NoteError(f"{type(note).__name__} is no text", field="note", remedy="Give a str")
    text = _stripped(note)
    if text is not None:
        check_note(text)
    return text


def _stripped(text: object) -> str | None:
    return None if not isinstance(text, str) or is_missing(text) else text.strip()


def iter_studies(
    task: Task, source: Place, ahead: int = 0, header: HeaderUse = "ignore"
) -> Iterator[Study | BadRow]:
    """Read the studies of a table, or of a folder of DICOM files, one at a time in order.

    Args:
        task: whose columns the table has; an absent column is an absent modality or value.
        source: a manifest CSV, whose image paths are relative to its folder; shards of Parquet or
            WebDataset, see `shard_files`; or a folder, each file of which is a study.
        ahead: studies whose images threads read in advance.
        header: what becomes of features that only an image's header says.

    Raises:
        ManifestError: the file is missing, empty, not a CSV or has no column of the task.
        DataNotFoundError: the folder has no DICOM radiograph.
    """
    yield from read_studies(task, study_rows(task, source), ahead, header)


Row = Mapping[str, Any]
"""A study before its image is read: column → text, or None where not known."""


def study_rows(task: Task, source: Place) -> Iterator[Row | BadRow]:
    """List the studies of a source without reading an image; arguments as of `iter_studies`."""
    if isinstance(source, Path) and source.is_dir() and not shard_files(source):
        return _folder_rows(source)
    return _table_rows(task, source)


def read_studies(
    task: Task, rows: Iterable[Row | BadRow], ahead: int = 0, header: HeaderUse = "ignore"
) -> Iterator[Study | BadRow]:
    """Build the studies of rows, in order; other arguments as of `iter_studies`."""
    yield from prefetch(partial(_study, task, header), rows, ahead=ahead, threads=THREADS)


def _folder_rows(folder: Path) -> Iterator[Row | BadRow]:
    headers, dropped, passed_over = read_headers(folder)
    if passed_over:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in passed_over.items())
        _log.info(
            "%s: passed over, since they are no DICOM files by their names: %s", folder, counts
        )
    for row in headers.to_dict("records"):
        known = {"study_id": row["study_id"], "patient_id": row["patient_id"]}
        yield known | {"view": row["view"], "image_path": str(folder / row["image_path"])}
    yield from (BadRow(each.study_id, f"{each.reason}.", each.reason) for each in dropped)


def _table_rows(task: Task, source: Place) -> Iterator[Row]:
    for frame in iter_manifest_csv(source, task):
        names = [str(name) for name in frame.columns]
        for row in frame.itertuples(index=False, name=None):
            yield dict(zip(names, row, strict=True))


def _study(task: Task, header: HeaderUse, row: Row | BadRow) -> Study | BadRow:
    if isinstance(row, BadRow):
        return row
    place = row.get("image_path")
    try:
        read = partial(read_radiograph, place_of(place)) if isinstance(place, str) else None
        study = _with_or_without_image(task, read, row, header)
    except InputError as error:
        return bad_row(str(row["study_id"]), error)
    except Exception as error:  # noqa: BLE001  one study must not end a run of millions
        _log.warning("%s: failed unexpectedly", row["study_id"], exc_info=True)
        reason = f"failed unexpectedly ({type(error).__name__}: {error})"
        return BadRow(str(row["study_id"]), reason, "failed unexpectedly")
    if not study.modalities:
        return bad_row(study.study_id, nothing_given(task, study))
    return study


LOST_IMAGE = "image: left out: "
"""How the warning of a study begins whose image cannot be read, and which has other inputs."""


def _with_or_without_image(
    task: Task, read: Callable[[], Radiograph] | None, row: Mapping[str, Any], header: HeaderUse
) -> Study:
    """A study of a table; without its image, as `ingest` takes it, where the file is not usable."""
    inputs = row_inputs(task, row)
    try:
        return build_study(task, read, **inputs, header=header)
    except RadiographError as error:
        study = build_study(task, None, **inputs)
        if not study.modalities:
            raise
        return replace(study, warnings=(*study.warnings, f"{LOST_IMAGE}{error.message}"))


def nothing_given(task: Task, study: Study) -> InputError:
    """Say why a study is empty: the first value that cannot be used, or nothing was given."""
    faults = check_clinical(task.clinical, study.clinical).faults
    return faults[0] if faults else InputError("there is neither image, clinical value nor note")


def row_inputs(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """Take the inputs of `build_study`, all but the image, from a row of a manifest CSV.

    Args:
        task: whose columns they are; others are ignored.
        row: column → cell; None, or no such column, where not known.
    """
    return {
        "clinical": {f.name: row.get(f.column_in(row.keys())) for f in task.clinical},
        "note": row.get(task.note.column) if task.note else None,
        "view": None if "view" in task.clinical_names else row.get("view"),
        "study_id": row.get("study_id"),
        "patient_id": row.get("patient_id"),
    }
