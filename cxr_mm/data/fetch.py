"""Download a task's public data set into the layout that its source reads."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from cxr_mm.core.errors import DataNotFoundError, TaskError
from cxr_mm.core.files import atomic_directory
from cxr_mm.core.task import Task
from cxr_mm.data.sources import EXPECTED, members_of, missing_in, source_folder, source_found

GIT_SECONDS = 6 * 3600


def fetch(task: Task, root: Path) -> Path:
    """Download the task's data below the data root, unless it is there already.

    Returns:
        The source's folder; of merged sources, whose members are fetched one by one, the root.

    Raises:
        TaskError: the task's data is synthetic, or it names no download.
        DataNotFoundError: the download failed or lacks files, or the folder has other files; the
            message has the manual steps. No incomplete folder is left.
    """
    if task.source.kind == "merged":
        for member in members_of(task).values():
            if source_found(member, root):
                fetch(member, root)
        return root
    folder = source_folder(task, root)
    if task.synthetic or not task.source.download:
        reason = "its data is made up" if task.synthetic else "the task names no download"
        raise TaskError(f"there is nothing to fetch, {reason}", field=f"task {task.name}")
    if (missing := missing_in(task, folder)) is None:
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise DataNotFoundError(
            f"the folder holds something else or only a part ({missing})",
            field=str(folder),
            remedy="Move it away and fetch again",
        )
    with atomic_directory(folder) as aside:
        _download(task, aside, folder)
        if missing := missing_in(task, aside):
            raise _failed(task, folder, f"the download is not as expected: {missing}")
    return folder


def _download(task: Task, aside: Path, folder: Path) -> None:
    kind, _, address = task.source.download.partition(":")
    if kind == "git":
        _clone(task, address, aside, folder)
    elif kind == "kaggle":
        _copy_from_kaggle(task, address, aside, folder)
    else:
        raise TaskError(
            f"{task.source.download!r} is neither kaggle:OWNER/NAME nor git:URL",
            field=f"tasks/{task.name}: source.download",
        )


def _clone(task: Task, url: str, aside: Path, folder: Path) -> None:
    command = ["git", "clone", "--depth", "1", "--progress", "--", url, str(aside)]
    # On a terminal git draws its own progress; elsewhere its last line goes into the error.
    stderr = None if sys.stderr.isatty() else subprocess.PIPE
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        subprocess.run(
            command, check=True, stderr=stderr, text=True, timeout=GIT_SECONDS, env=environment
        )
    except FileNotFoundError as error:
        raise _failed(task, folder, "git is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise _failed(task, folder, f"git took longer than {GIT_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        message = (error.stderr or f"status {error.returncode}").strip().splitlines()[-1]
        raise _failed(task, folder, f"git clone failed ({message})") from error


def _copy_from_kaggle(task: Task, handle: str, aside: Path, folder: Path) -> None:
    try:
        kagglehub = importlib.import_module("kagglehub")
    except ImportError as error:
        reason = "kagglehub is not installed (`pip install kagglehub`)"
        raise _failed(task, folder, reason) from error
    faults = kagglehub.exceptions
    try:
        download = Path(kagglehub.dataset_download(handle))
    except (
        OSError,  # all of requests' errors among them
        ValueError,
        faults.BackendError,
        faults.CredentialError,
        faults.DataCorruptionError,
        faults.NotFoundError,
        faults.UnauthenticatedError,
    ) as error:
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise _failed(task, folder, f"the download failed ({message})") from error
    for candidate in _shallow(download):
        if missing_in(task, candidate) is None:
            shutil.copytree(candidate, aside, copy_function=_link_or_copy, dirs_exist_ok=True)
            return
    raise _failed(task, folder, f"the download in {download} has not the layout expected")


def _shallow(folder: Path) -> Iterator[Path]:
    """The folder, its subfolders and theirs; archives often have a folder or two on top."""
    return chain(
        [folder],
        sorted(p for p in folder.glob("*") if p.is_dir()),
        sorted(p for p in folder.glob("*/*") if p.is_dir()),
    )


def _link_or_copy(source: str, target: str) -> None:
    """Share the file with kagglehub's cache where the disk allows it: it may be 40 GB."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _failed(task: Task, folder: Path, reason: str) -> DataNotFoundError:
    kind, _, address = task.source.download.partition(":")
    if kind == "git":
        steps = f"By hand: git clone --depth 1 {address} {folder}"
    else:
        page = f"https://www.kaggle.com/datasets/{address}"
        holds = ", ".join(EXPECTED.get(task.source.kind, ())) or "the files"
        steps = f"By hand: download {page} and unpack it so that {folder} holds {holds}"
    return DataNotFoundError(reason, field=f"task {task.name}", remedy=steps)
