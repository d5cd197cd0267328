"""Stage `ingest`: source → manifest, pixel cache, image quality, and a report of dropped studies.

The folder is written whole or not at all; the same input gives the same bytes.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.config import Params
from cxr_mm.core.errors import ManifestError
from cxr_mm.core.files import atomic_directory, write_json, write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.shards.store import is_url, place_of
from cxr_mm.core.shards.work import Run, run_here
from cxr_mm.core.task import Task
from cxr_mm.core.types import MODALITIES, plural
from cxr_mm.data.additions import KNOWN, with_additions
from cxr_mm.data.labels import Labelled, expected_cells, label_studies
from cxr_mm.data.manifest import ABSENT, QUALITY, Manifest
from cxr_mm.data.pixel_cache import CacheRow, build_cache
from cxr_mm.data.sources import RawStudies, read_source
from cxr_mm.data.sources.losses import (
    Dropped,
    by_column,
    by_reason,
    describe_columns,
    describe_reasons,
)
from cxr_mm.imaging.quality import QUALITY_NAMES

PIXELS, REPORT, PARTS = "pixels.npy", "report.json", ".ingest-parts"
MODALITY_NAMES = {"image": "image", "tabular": "clinical features", "note": "note"}
WARNINGS = 5
"""Warnings of the image reader listed in the summary, the most frequent first."""
PAIRS = 20
"""Pairs of studies with one image and contradicting labels named in the report."""


@dataclass(frozen=True)
class _Ingested:
    """Studies with their pixel rows, the cache row of each, and those used without their image."""

    labelled: Labelled
    images: list[CacheRow]
    without_image: list[Dropped]


def ingest(task: Task, params: Params, paths: TaskPaths, root: Path, run: Run = run_here) -> str:
    """Read the task's source and its additions, and decode their radiographs.

    Leaves in `paths.ingest`: manifest.parquet, pixels.npy, quality.parquet (a row per study:
    `QUALITY_NAMES`, `text`, `file_sha256`, `phash`, `warnings`), report.json, and source/ for a
    synthetic source. A study whose radiograph cannot be read is dropped with the reason, or used
    without its image if it has another modality of the task. Where no study is left, or more is
    lost than `params.ingest.max_loss`, report.json alone is left; what the table loses is checked
    before any radiograph is decoded, and the report then has no counts of images.

    Args:
        root: the data root.
        run: where radiographs are decoded; the bytes are the same.

    Returns:
        Text for a terminal: how many studies are used, the labels of each finding, and everything
        that was left out.

    Raises:
        DataNotFoundError: the source's files are not there.
        ManifestError: a table of the source is incomplete, no study is left, or too many are lost.
        StageError: a decoding process was killed.
    """
    _remove_leftovers(paths.ingest)
    limit = params.ingest.max_loss
    with atomic_directory(paths.ingest) as folder:
        raw = read_source(task, root, folder.resolve())
        labelled = with_additions(label_studies(task, raw), paths)
        report = _table_report(labelled, raw)
        faults = [*_lost_studies(report, limit), *_lost_values(report, limit)]
        if not faults:
            done = _decoded(labelled, folder, params, run)
            report = {**_table_report(done.labelled, raw), **_image_report(done)}
            faults = [*_lost_studies(report, limit), *_lost_images(report, limit)]
            if faults:
                (folder / PIXELS).unlink()
            else:
                _write_tables(done, folder, paths)
        write_json(folder / REPORT, report)
    if faults:
        raise _too_much_lost(report, faults, limit, paths.ingest / REPORT)
    return _summary(report)


def _write_tables(done: _Ingested, folder: Path, paths: TaskPaths) -> None:
    frame, work = done.labelled.manifest.frame, folder.resolve()
    moved = frame["image_path"].map(
        lambda path: path if is_url(path) else _later(Path(path), work, paths), na_action="ignore"
    )
    write_parquet(folder / QUALITY, _quality(done))
    write_parquet(folder / "manifest.parquet", frame.assign(image_path=moved))


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


def _decoded(labelled: Labelled, folder: Path, params: Params, run: Run) -> _Ingested:
    """Decode the radiographs, add pixel rows to the manifest, drop studies without any modality."""
    names = labelled.manifest.frame["image_path"]
    paths = [None if pd.isna(name) else place_of(name) for name in names]
    chosen = params.ingest
    images = build_cache(
        paths,
        folder / PIXELS,
        chosen.size,
        chosen.workers if run is run_here else 1,
        mask_text=chosen.mask_text,
        run=run,
        parts=folder.with_name(PARTS),
    )
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
    left = replace(
        labelled,
        manifest=manifest,
        dropped=[*labelled.dropped, *named(drop)],
        notices=(*labelled.notices, *_absent_modalities(manifest)),
    )
    kept = [images[i] for i in np.flatnonzero(~drop)]
    return _Ingested(left, kept, without_image=named(unreadable & ~drop))


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
    table.insert(0, "study_id", done.labelled.manifest.frame["study_id"])
    return table.assign(
        text=[image.text for image in done.images],
        file_sha256=[image.file_sha256 for image in done.images],
        phash=[image.phash for image in done.images],
        warnings=["; ".join(image.warnings) for image in done.images],
    )


def _table_report(labelled: Labelled, raw: RawStudies) -> dict[str, Any]:
    """Counts of the studies read, used and dropped, with reasons."""
    manifest, labels = labelled.manifest, labelled.manifest.labels()
    expected = expected_cells(manifest.task)
    given = {str(name): int(n) for name, n in manifest.frame.notna().sum().items()}
    return {
        "task": manifest.task.name,
        "source": manifest.task.source.kind,
        "synthetic": manifest.task.synthetic,
        "studies_in_source": len(manifest) + len(labelled.dropped),
        "studies": len(manifest),
        "patients": int(manifest.frame["patient_id"].nunique()),
        "groups": int(manifest.frame["group"].nunique()),
        "findings": {
            name: {
                "positive": int((labels[:, i] == 1).sum()),
                "negative": int((labels[:, i] == 0).sum()),
                "missing": int(np.isnan(labels[:, i]).sum()),
            }
            for i, name in enumerate(manifest.task.finding_names)
        },
        "dropped": by_reason(labelled.dropped, expected),
        "values_cleared": by_column(labelled.cleared, given, expected),
        "files_passed_over": dict(sorted(raw.passed_over.items())),
        "notices": list(labelled.notices),
    }


def _image_report(done: _Ingested) -> dict[str, Any]:
    """Counts of images and of modalities, and what was noticed in decoding."""
    manifest = done.labelled.manifest
    rows, mask = manifest.frame["pixel_row"], manifest.mask().sum(axis=0)
    warned = [
        Dropped(study, text)
        for study, image in zip(manifest.frame["study_id"], done.images, strict=True)
        for text in image.warnings
    ]
    return {
        "images": int(rows[rows != ABSENT].nunique()),
        "modalities": {m: int(n) for m, n in zip(MODALITIES, mask, strict=True)},
        "kept_without_image": by_reason(done.without_image, {}),
        "image_warnings": by_reason(warned, {})["reasons"],
        "contradicting_labels": _contradictions(done),
    }


def _contradictions(done: _Ingested) -> dict[str, Any]:
    """Images that several studies have with labels that cannot all be right."""
    labels = done.labelled.manifest.labels()
    digest = pd.Series([image.file_sha256 for image in done.images], dtype=object)
    studies = done.labelled.manifest.frame["study_id"]
    pairs = []
    for _, rows in digest[digest.ne("")].groupby(digest).groups.items():
        own = labels[rows]
        differ = (own == 1).any(axis=0) & (own == 0).any(axis=0)
        if differ.any():
            column = own[:, int(differ.argmax())]
            pairs.append([studies[rows[int(np.argmax(column == v))]] for v in (1, 0)])
    return {"count": len(pairs), "examples": pairs[:PAIRS]}


def _lost_studies(report: dict[str, Any], limit: float) -> list[str]:
    """The fault that no study is left, or that more are dropped than the limit allows."""
    total, left, dropped = report["studies_in_source"], report["studies"], report["dropped"]
    # A study of an addition that the source has already is no loss.
    known = sum(n["count"] for why, n in dropped["reasons"].items() if why.split()[0] == KNOWN)
    if left and dropped["count"] - known <= limit * (total - known):
        return []
    what = f"{plural(left, 'study') if left else 'no study'} left of {total:,}"
    return [f"{what}: {'; '.join(describe_reasons(dropped))}"]


def _lost_values(report: dict[str, Any], limit: float) -> list[str]:
    """The columns of which more values are cleared than the limit allows."""
    columns = {
        name: entry
        for name, entry in report["values_cleared"].items()
        if entry["cleared"] > limit * entry["given"]
    }
    return [f"cleared were {line}" for line in describe_columns(columns)]


def _lost_images(report: dict[str, Any], limit: float) -> list[str]:
    """The fault that more images are unreadable than the limit allows."""
    images, without = report["modalities"]["image"], report["kept_without_image"]
    if without["count"] <= limit * (images + without["count"]):
        return []
    return [f"images cannot be read: {'; '.join(describe_reasons(without))}"]


def _too_much_lost(
    report: dict[str, Any], faults: list[str], limit: float, path: Path
) -> ManifestError:
    above = f"more is lost than ingest.max_loss = {limit:g} allows: " if report["studies"] else ""
    return ManifestError(
        above + " – ".join(faults),
        field=f"task {report['task']}",
        remedy=f"Correct the table or the task, or set ingest.max_loss for it; all is in {path}",
    )


def _summary(report: dict[str, Any]) -> str:
    """Text for a terminal: what is used, its labels, and everything that was left out."""
    modalities = ", ".join(f"{MODALITY_NAMES[m]} {n}" for m, n in report["modalities"].items() if n)
    warned = sorted(report["image_warnings"].items(), key=lambda item: -item[1]["count"])
    cleared = describe_columns(report["values_cleared"])
    over = ", ".join(f"{n} {kind}" for kind, n in report["files_passed_over"].items())
    contradicting = report["contradicting_labels"]["count"]
    return "\n".join(
        [
            f"{plural(report['studies_in_source'], 'study')} read, {report['studies']:,} used"
            f" ({modalities}), {report['dropped']['count']} left out",
            *(
                f"  {name}: {n['positive']} positive, {n['negative']} negative,"
                f" {n['missing']} unknown"
                for name, n in report["findings"].items()
            ),
            *(f"  left out: {line}" for line in describe_reasons(report["dropped"])),
            *(f"  without image: {n}" for n in describe_reasons(report["kept_without_image"])),
            *(f"  cleared: {line}" for line in cleared),
            *([f"  files passed over: {over}"] if over else []),
            *(f"  warning: {plural(n['count'], 'image')}: {text}" for text, n in warned[:WARNINGS]),
            *([f"  {len(warned) - WARNINGS} further warnings"] if warned[WARNINGS:] else []),
            *([f"  images with contradicting labels: {contradicting}"] if contradicting else []),
            *(f"  note: {text}" for text in report["notices"]),
        ]
    )
