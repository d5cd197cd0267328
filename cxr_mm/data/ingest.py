"""Stage `ingest`: source → manifest, pixel cache, image quality, and a report of dropped studies.

The folder is written whole or not at all; the same input gives the same bytes.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.core.config import Params
from cxr_mm.core.files import atomic_directory, write_json, write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task
from cxr_mm.core.types import MODALITIES
from cxr_mm.data.additions import with_additions
from cxr_mm.data.labels import Labelled, to_manifest
from cxr_mm.data.manifest import ABSENT, QUALITY, Manifest
from cxr_mm.data.pixel_cache import CacheRow, build_cache
from cxr_mm.data.sources import Dropped, read_source
from cxr_mm.imaging.quality import QUALITY_NAMES

PIXELS, REPORT = "pixels.npy", "report.json"
EXAMPLES = 20
"""Study ids named per reason in the report."""


@dataclass(frozen=True)
class _Ingested:
    """A manifest with its pixel rows, and the cache row of each study."""

    manifest: Manifest
    images: list[CacheRow]
    dropped: list[Dropped]
    without_image: list[Dropped]
    cleared: Counter[str]


def ingest(task: Task, params: Params, paths: TaskPaths, root: Path) -> None:
    """Read the task's source and its additions, and decode their radiographs.

    Leaves in `paths.ingest`: manifest.parquet, pixels.npy, quality.parquet (a row per study:
    `QUALITY_NAMES`, `file_sha256`, `phash`), report.json, and source/ for a synthetic
    source. A study whose radiograph cannot be read is dropped with the reason, or used without
    its image if it has another modality of the task.

    Args:
        root: the data root.

    Raises:
        DataNotFoundError: the source's files are not there.
        ManifestError: a table of the source is incomplete, or no study is left.
        StageError: a decoding process was killed.
    """
    _remove_leftovers(paths.ingest)
    with atomic_directory(paths.ingest) as folder:
        work = folder.resolve()
        labelled = with_additions(to_manifest(task, read_source(task, root, work)), paths)
        names = labelled.manifest.frame["image_path"]
        images = [None if pd.isna(name) else Path(name) for name in names]
        cached = build_cache(images, folder / PIXELS, params.ingest.size, params.ingest.workers)
        done = _with_images(labelled, cached)
        moved = done.manifest.frame["image_path"].map(
            lambda path: _later(Path(path), work, paths), na_action="ignore"
        )
        write_json(folder / REPORT, _report(done))
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


def _with_images(labelled: Labelled, images: list[CacheRow]) -> _Ingested:
    """Add pixel rows to the manifest; drop studies without any modality."""
    frame = labelled.manifest.frame.assign(pixel_row=[image.pixel_row for image in images])
    task = labelled.manifest.task
    empty = ~Manifest(task, frame).mask().any(axis=1)
    unreadable = np.asarray([image.reason is not None for image in images])
    drop = empty & unreadable

    def named(rows: np.ndarray) -> list[Dropped]:
        at = np.flatnonzero(rows)
        return [
            Dropped(str(frame["study_id"].iloc[i]), f"radiograph: {images[i].reason}") for i in at
        ]

    return _Ingested(
        manifest=Manifest.checked(task, frame[~drop]),
        images=[images[i] for i in np.flatnonzero(~drop)],
        dropped=[*labelled.dropped, *named(drop)],
        without_image=named(unreadable & ~drop),
        cleared=labelled.cleared,
    )


def _quality(done: _Ingested) -> pd.DataFrame:
    table = pd.DataFrame([image.quality for image in done.images], columns=list(QUALITY_NAMES))
    table = table.astype("float64")
    table.insert(0, "study_id", done.manifest.frame["study_id"])
    return table.assign(
        file_sha256=[image.file_sha256 for image in done.images],
        phash=[image.phash for image in done.images],
    )


def _report(done: _Ingested) -> dict[str, Any]:
    """Counts of the studies read, used and dropped, with reasons."""
    manifest, labels = done.manifest, done.manifest.labels()
    rows = manifest.frame["pixel_row"]
    mask = manifest.mask().sum(axis=0)
    warned = Counter(text for image in done.images for text in image.warnings)
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
        "dropped": _by_reason(done.dropped),
        "kept_without_image": _by_reason(done.without_image),
        "values_cleared": dict(sorted(done.cleared.items())),
        "image_warnings": dict(sorted(warned.items())),
    }


def _by_reason(dropped: Iterable[Dropped]) -> dict[str, Any]:
    studies: dict[str, list[str]] = {}
    for one in dropped:
        studies.setdefault(one.reason, []).append(one.study_id)
    reasons = {
        reason: {"count": len(ids), "examples": ids[:EXAMPLES]}
        for reason, ids in sorted(studies.items())
    }
    return {"count": sum(map(len, studies.values())), "reasons": reasons}
