"""Sources: one module per layout of files on disk; each returns the same raw table."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.paths import DATA_ROOT_VARIABLE
from cxr_mm.core.task import SourceKind, Task
from cxr_mm.data.sources import cohen, kermany, nih14, nlm_tb
from cxr_mm.data.sources.base import RawStudies, Source, files_below, paths_matching, stat_of
from cxr_mm.data.sources.class_folders import read_class_folders
from cxr_mm.data.sources.dicom_folder import read_dicom_folder
from cxr_mm.data.sources.losses import Dropped
from cxr_mm.data.sources.manifest_csv import manifest_file, read_manifest_source
from cxr_mm.data.sources.merged import members_of, merge
from cxr_mm.data.sources.synthetic import read_synthetic

__all__ = [
    "EXPECTED",
    "SOURCES",
    "Dropped",
    "RawStudies",
    "Source",
    "can_fetch",
    "fingerprint",
    "members_of",
    "missing_in",
    "read_source",
    "source_folder",
    "source_found",
]


SOURCES: dict[SourceKind, Source] = {
    "synthetic": read_synthetic,
    "kermany": kermany.read_kermany,
    "nih14": nih14.read_nih14,
    "cohen": cohen.read_cohen,
    "nlm_tb": nlm_tb.read_nlm_tb,
    "class_folders": read_class_folders,
    "manifest_csv": read_manifest_source,
    "dicom_folder": read_dicom_folder,
}
"""Kind → how it is read; `merged` is read by its members."""
MERGED: SourceKind = "merged"
EXPECTED: dict[SourceKind, tuple[str, ...]] = {
    "kermany": kermany.EXPECTED,
    "nih14": nih14.EXPECTED,
    "cohen": cohen.EXPECTED,
}
"""Patterns below the source's folder that must each match something."""


def source_folder(task: Task, root: Path) -> Path:
    """Folder of the task's source below the data root, made absolute."""
    return (root / Path(task.source.folder).expanduser()).resolve()


def source_found(task: Task, root: Path) -> str | None:
    """None if the source's files exist, else a description of what is missing."""
    if task.synthetic:
        return None
    if task.source.kind == MERGED:
        found = {name: source_found(member, root) for name, member in members_of(task).items()}
        return "; ".join(f"{name}: {text}" for name, text in found.items() if text) or None
    return missing_in(task, source_folder(task, root))


def missing_in(task: Task, folder: Path) -> str | None:
    """Describe what a folder lacks as the task's source; None if it is complete.

    Raises:
        DataNotFoundError: a folder cannot be listed.
    """
    if not folder.is_dir():
        return f"no folder {folder}"
    if task.source.kind == "manifest_csv":
        file = folder / manifest_file(task)
        return None if file.is_file() else f"no file {file}"
    expected = EXPECTED.get(task.source.kind, ())
    if task.source.kind == "nih14" and (table := task.source.options.get("radiologists")):
        expected = (*expected, str(table))
    missing = [pattern for pattern in expected if not paths_matching(folder, pattern)]
    return f"no {', '.join(missing)} in {folder}" if missing else None


def read_source(task: Task, root: Path, work: Path) -> RawStudies:
    """Read the task's source; image paths come out absolute.

    Args:
        task: names the source and its folder below the data root.
        root: the data root.
        work: folder that a source may write into (the synthetic one does).

    Raises:
        DataNotFoundError: files of the source are missing, or a folder cannot be listed.
        ManifestError: a table of the user is incomplete.
        TaskError: an option of the source is unknown or has a wrong value.
    """
    _require(task, root)
    if task.source.kind == MERGED:
        members = members_of(task)
        return merge(task, {name: read_source(members[name], root, work) for name in members})
    folder = source_folder(task, root)
    raw = SOURCES[task.source.kind](task, folder, work)
    paths = raw.frame["image_path"].map(lambda path: str(folder / path), na_action="ignore")
    return replace(raw, frame=raw.frame.assign(image_path=paths))


def fingerprint(task: Task, root: Path) -> dict[str, Any]:
    """Number, bytes and a digest over names, sizes and times of the source's files.

    Fast, so that every run can see whether the data changed; files outside the source's folder
    that a manifest may name are ignored. A synthetic source has its options instead of a digest.

    Raises:
        DataNotFoundError: files of the source are missing or vanish meanwhile, or a folder cannot
            be listed.
    """
    _require(task, root)
    if task.synthetic:
        return {"kind": "synthetic", "options": task.source.options}
    if task.source.kind == MERGED:
        members = {name: fingerprint(member, root) for name, member in members_of(task).items()}
        return {"kind": MERGED, "members": members}
    folder = source_folder(task, root)
    digest, count, size = hashlib.sha256(), 0, 0
    for file in files_below(folder):
        stat = stat_of(file)
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        count, size = count + 1, size + stat.st_size
    return {
        "kind": task.source.kind,
        "files": count,
        "bytes": size,
        "digest": digest.hexdigest(),
    }


def can_fetch(task: Task) -> bool:
    """Whether `cxr-mm fetch` can download the task's data."""
    if task.source.kind == MERGED:
        return any(map(can_fetch, members_of(task).values()))
    return bool(task.source.download)


def _require(task: Task, root: Path) -> None:
    if missing := source_found(task, root):
        raise DataNotFoundError(
            missing,
            field=f"task {task.name}",
            remedy=f"Set {DATA_ROOT_VARIABLE} to the folder that holds it"
            + (f", or run `cxr-mm fetch {task.name}`" if can_fetch(task) else ""),
        )
