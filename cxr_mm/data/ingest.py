"""Stage `ingest`: source → manifest, pixel cache, image quality, and a report of dropped studies.

The folder is written whole or not at all; the same input gives the same bytes.
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.config import Params
from cxr_mm.core.errors import ManifestError
from cxr_mm.core.files import atomic_directory, write_json, write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task
from cxr_mm.core.types import MODALITIES
from cxr_mm.data.additions import KNOWN, with_additions
from cxr_mm.data.labels import Labelled, expected_cells, label_studies
from cxr_mm.data.manifest import ABSENT, QUALITY, Manifest
from cxr_mm.data.pixel_cache import CacheRow, build_cache
from cxr_mm.data.sources import read_source
from cxr_mm.data.sources.losses import (
    Cleared,
    Dropped,
    by_column,
    by_reason,
    describe_columns,
    describe_reasons,
)
from cxr_mm.imaging.quality import QUALITY_NAMES

PIXELS, REPORT = "pixels.npy", "report.json"
MODALITY_NAMES = {"image": "image", "tabular": "clinical features", "note": "note"}
WARNINGS = 5
"""Warnings of the image reader listed in the summary, the most frequent first."""
PAIRS = 20
"""Pairs of studies with one image and contradicting labels named in the report."""


@dataclass(frozen=True)
class _Ingested:
    """A manifest with its pixel rows, and the cache row of each study."""

    manifest: Manifest
    images: list[CacheRow]
    dropped: list[Dropped]
    without_image: list[Dropped]
    cleared: Cleared
    passed_over: Counter[str]
    notices: tuple[str, ...]


def ingest(task: Task, params: Params, paths: TaskPaths, root: Path) -> str:
    """Read the task's source and its additions, and decode their radiographs.

    Leaves in `paths.ingest`: manifest.parquet, pixels.npy, quality.parquet (a row per study:
    `QUALITY_NAMES`, `file_sha256`, `phash`, `warnings`), report.json, and source/ for a synthetic
    source. A study whose radiograph cannot be read is dropped with the reason, or used without
    its image if it has another modality of the task. Where no study is left, or more is lost than
    `params.ingest.max_loss`, report.json alone is left.

    Args:
        root: the data root.

    Returns:
        Text for a terminal: how many studies are used, and everything that was left out.

    Raises:
        DataNotFoundError: the source's files are not there.
        ManifestError: a table of the source is incomplete, no study is left, or too many are lost.
        StageError: a decoding process was killed.
    """
    _remove_leftovers(paths.ingest)
    with atomic_directory(paths.ingest) as folder:
        work = folder.resolve()
        raw = read_source(task, root, work)
        labelled = with_additions(label_studies(task, raw), paths)
        names = labelled.manifest.frame["image_path"]
        images = [None if pd.isna(name) else Path(name) for name in names]
        cached = build_cache(images, folder / PIXELS, params.ingest.size, params.ingest.workers)
        done = _with_images(labelled, cached, raw.passed_over)
        report = _report(done)
        fault = _fault(report, params.ingest.max_loss, paths.ingest / REPORT)
        if fault:
            (folder / PIXELS).unlink()
        else:
            _write_tables(done, folder, work, paths)
        write_json(folder / REPORT, report)
    if fault:
        raise fault
    return _summary(report)


def _write_tables(done: _Ingested, folder: Path, work: Path, paths: TaskPaths) -> None:
    moved = done.manifest.frame["image_path"].map(
        lambda path: _later(Path(path), work, paths), na_action="ignore"
    )
    write_parquet(folder / QUALITY, _quality(done))
    write_parquet(folder / "manifest.parquet", done.manifest.frame.assign(image_path=moved))


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary folders of runs that were killed."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(leftover)


def _later(path: Path, work: Path, paths: TaskPaths) -> str:
    """Path of a file after the folder is renamed, relative to the project's folder."""
    if path.is_relative_to(work):
        path = paths.ingest.resolve() / path.relative_to(work)
    root = paths.root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _with_images(
    labelled: Labelled, images: list[CacheRow], passed_over: Counter[str]
) -> _Ingested:
    """Add pixel rows to the manifest; drop studies without any modality."""
    frame = labelled.manifest.frame.assign(pixel_row=[image.pixel_row for image in images])
    task = labelled.manifest.task
    empty = ~Manifest(task, frame).mask().any(axis=1)
    unreadable = np.asarray([image.reason is not None for image in images], dtype=bool)
    drop = empty & unreadable

    def named(rows: NDArray[np.bool_]) -> list[Dropped]:
        at = np.flatnonzero(rows)
        return [
            Dropped(str(frame["study_id"].iloc[i]), f"radiograph: {images[i].reason}") for i in at
        ]

    manifest = Manifest.checked(task, frame[~drop], may_be_empty=True)
    return _Ingested(
        manifest=manifest,
        images=[images[i] for i in np.flatnonzero(~drop)],
        dropped=[*labelled.dropped, *named(drop)],
        without_image=named(unreadable & ~drop),
        cleared=labelled.cleared,
        passed_over=passed_over,
        notices=(*labelled.notices, *_absent_modalities(manifest)),
    )


def _absent_modalities(manifest: Manifest) -> list[str]:
    has = dict(zip(MODALITIES, manifest.mask().sum(axis=0).tolist(), strict=True))
    return [
        f"no study has any {MODALITY_NAMES[modality]}, which the task uses"
        for modality in manifest.task.modalities
        if len(manifest) and not has[modality]
    ]


def _quality(done: _Ingested) -> pd.DataFrame:
    table = pd.DataFrame([image.quality for image in done.images], columns=list(QUALITY_NAMES))
    table = table.astype("float64")
    table.insert(0, "study_id", done.manifest.frame["study_id"])
    return table.assign(
        file_sha256=[image.file_sha256 for image in done.images],
        phash=[image.phash for image in done.images],
        warnings=["; ".join(image.warnings) for image in done.images],
    )


def _report(done: _Ingested) -> dict[str, Any]:
    """Counts of the studies read, used and dropped, with reasons."""
    manifest, labels = done.manifest, done.manifest.labels()
    expected = expected_cells(manifest.task)
    given = {str(name): int(n) for name, n in manifest.frame.notna().sum().items()}
    rows = manifest.frame["pixel_row"]
    mask = manifest.mask().sum(axis=0)
    ids = manifest.frame["study_id"]
    warned = [
        Dropped(study, text)
        for study, image in zip(ids, done.images, strict=True)
        for text in image.warnings
    ]
    return {
        "task": manifest.task.name,
        "source": manifest.task.source.kind,
        "synthetic": manifest.task.synthetic,
        "studies_in_source": len(manifest) + len(done.dropped),
        "studies": len(manifest),
        "patients": int(manifest.frame["patient_id"].nunique()),
        "groups": int(manifest.frame["group"].nunique()),
        "images": int(rows[rows != ABSENT].nunique()),
        "modalities": {m: int(n) for m, n in zip(MODALITIES, mask, strict=True)},
        "findings": {
            name: {
                "positive": int((labels[:, i] == 1).sum()),
                "negative": int((labels[:, i] == 0).sum()),
                "missing": int(np.isnan(labels[:, i]).sum()),
            }
            for i, name in enumerate(manifest.task.finding_names)
        },
        "dropped": by_reason(done.dropped, expected),
        "kept_without_image": by_reason(done.without_image, {}),
        "values_cleared": by_column(done.cleared, given, expected),
        "files_passed_over": dict(sorted(done.passed_over.items())),
        "image_warnings": by_reason(warned, {})["reasons"],
        "contradicting_labels": _contradictions(done),
        "notices": list(done.notices),
    }


def _contradictions(done: _Ingested) -> dict[str, Any]:
    """Images that several studies have with labels that cannot all be right."""
    labels = done.manifest.labels()
    digest = pd.Series([image.file_sha256 for image in done.images], dtype=object)
    studies = done.manifest.frame["study_id"]
    pairs = []
    for _, rows in digest[digest.ne("")].groupby(digest).groups.items():
        own = labels[rows]
        differ = (own == 1).any(axis=0) & (own == 0).any(axis=0)
        if differ.any():
            column = own[:, int(differ.argmax())]
            pairs.append([studies[rows[int(np.argmax(column == v))]] for v in (1, 0)])
    return {"count": len(pairs), "examples": pairs[:PAIRS]}


def _fault(report: dict[str, Any], limit: float, path: Path) -> ManifestError | None:
    """The error where no study is left or more is lost than the limit, with what was found."""
    total, left, dropped = report["studies_in_source"], report["studies"], report["dropped"]
    images, without = report["modalities"]["image"], report["kept_without_image"]
    # A study of an addition that the source has already is no loss.
    known = sum(n["count"] for why, n in dropped["reasons"].items() if why.split()[0] == KNOWN)
    faults = []
    if not left or dropped["count"] - known > limit * (total - known):
        what = f"{left or 'no'} stud{'y is' if left <= 1 else 'ies are'} left of {total}"
        faults.append(f"{what}: {'; '.join(describe_reasons(dropped))}")
    if without["count"] > limit * (images + without["count"]):
        faults.append(f"images cannot be read: {'; '.join(describe_reasons(without))}")
    columns = {
        name: entry
        for name, entry in report["values_cleared"].items()
        if entry["cleared"] > limit * entry["given"]
    }
    faults += [f"cleared were {line}" for line in describe_columns(columns)]
    if not faults:
        return None
    above = f"more is lost than ingest.max_loss = {limit:g} allows: " if left else ""
    return ManifestError(
        above + " – ".join(faults),
        field=f"task {report['task']}",
        remedy=f"Correct the table or the task, or set ingest.max_loss for it; all is in {path}",
    )


def _summary(report: dict[str, Any]) -> str:
    """Text for a terminal: what is used, and everything that was left out."""
    modalities = ", ".join(f"{MODALITY_NAMES[m]} {n}" for m, n in report["modalities"].items() if n)
    warned = sorted(report["image_warnings"].items(), key=lambda item: -item[1]["count"])
    cleared = describe_columns(report["values_cleared"])
    over = ", ".join(f"{n} {kind}" for kind, n in report["files_passed_over"].items())
    contradicting = report["contradicting_labels"]["count"]
    return "\n".join(
        [
            f"{report['studies_in_source']} studies read, {report['studies']} used"
            f" ({modalities}), {report['dropped']['count']} left out",
            *(f"  left out: {line}" for line in describe_reasons(report["dropped"])),
            *(f"  without image: {n}" for n in describe_reasons(report["kept_without_image"])),
            *(f"  cleared: {line}" for line in cleared),
            *([f"  files passed over: {over}"] if over else []),
            *(f"  warning: {n['count']} images: {text}" for text, n in warned[:WARNINGS]),
            *([f"  {len(warned) - WARNINGS} further warnings"] if warned[WARNINGS:] else []),
            *([f"  images with contradicting labels: {contradicting}"] if contradicting else []),
            *(f"  note: {text}" for text in report["notices"]),
        ]
    )
