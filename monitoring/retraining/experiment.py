"""Experiment: the project's DVC pipeline in a separate folder, which leaves the champion untouched.

The folder has copies of parameters, tasks and code, and a DVC repository that shares the project's
cache: unchanged stages are not run again, and an interrupted run continues.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import yaml

import cxr_mm
import monitoring
from cxr_mm.core.config import PARAMS_FILE, load_params
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import atomic_directory, write_text
from cxr_mm.core.paths import DATA_ROOT_VARIABLE, TaskPaths, data_root
from cxr_mm.core.task import TASKS, Task, load_task
from cxr_mm.data.additions import FOLDER, additions_folder, versions

PIPELINE = "dvc.yaml"
RUNS = (("explain",), ("evaluate", "reference"))
"""Last stages of the pipeline: `explain` before the others, so that the model card of a challenger
has what it measured."""
LOG = "log.txt"
NEWEST_REFERENCE_FOLDER = "newest_reference"
"""Reference of the newest studies; no output of the pipeline, which would make it again."""
CODE: tuple[ModuleType, ...] = (cxr_mm, monitoring)
"""Packages that the stages depend on."""
LAST = 3
"""Lines of the log that an error repeats."""
ANNOUNCED = ("Running stage", "Stage ")
"""Beginnings of DVC's lines about a stage."""
POLL = 0.5
"""Seconds between looks into the log."""
_log = logging.getLogger(__name__)


def create_workspace(folder: Path, task: Task, project: Path) -> None:
    """Copy into a folder what the pipeline of one task needs besides its data.

    Args:
        folder: an empty folder.
        task: written into it where it is not as the project has it.
        project: folder with params.yaml and dvc.yaml.

    Raises:
        ParamsError, StageError: as of `params_of`.
        TaskError: the project has no such task.
    """
    write_text(folder / PARAMS_FILE, params_of(task.name, project))
    for name in (PIPELINE, ".dvcignore"):
        if (project / name).is_file():
            shutil.copy2(project / name, folder / name)
    if (project / TASKS).is_dir():
        shutil.copytree(project / TASKS, folder / TASKS)
    if task != load_task(task.name, project):
        written = yaml.safe_dump(task.model_dump(mode="json"))
        write_text(folder / TASKS / f"{task.name}.yaml", written)
    for package in CODE:
        source = Path(str(package.__file__)).parent
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / source.name, ignore=ignored)
    added = additions_folder(TaskPaths(task.name, folder))
    added.mkdir(parents=True)
    for version in versions(TaskPaths(task.name, project)):
        (added / version.name).symlink_to(version.resolve(), target_is_directory=True)


def keep_addition(experiment: Path, task: str, version: str, root: Path) -> Path | None:
    """Copy a version of additions from an experiment into the project, if it is missing there.

    Returns:
        Its folder in the project; None where neither has it.
    """
    created, folder = (base / FOLDER / task / version for base in (experiment, root))
    if folder.exists():
        return folder
    if not created.exists():
        return None
    with atomic_directory(folder) as aside:
        shutil.copytree(created, aside, dirs_exist_ok=True)
    return folder


def params_of(task: str, project: Path) -> str:
    """params.yaml of a project for one task alone: nothing in it is of another.

    Raises:
        ParamsError: a parameter is unknown or out of range.
        StageError: the project has no pipeline.
    """
    for name in (PIPELINE, PARAMS_FILE):
        if not (project / name).is_file():
            raise StageError(
                "no such file",
                field=str(project / name),
                remedy="Run this in the project's folder",
            )
    load_params(project / PARAMS_FILE)
    params = yaml.safe_load((project / PARAMS_FILE).read_text(encoding="utf-8"))
    own = (params.get("per_task") or {}).get(task)
    return yaml.safe_dump({**params, "tasks": [task], "per_task": {task: own} if own else {}})


def reproduce(folder: Path, task: str, project: Path) -> None:
    """Run every stage that is not up to date, and say which; their output is added to log.txt.

    Raises:
        StageError: a stage failed, or another process works in the folder.
    """
    with _exclusive(folder) as lock:
        if not (folder / ".dvc" / "config").is_file():
            dvc(folder, "init", "--no-scm", "--force", "--quiet")
        if (cache := project / ".dvc" / "cache").is_dir():
            dvc(folder, "cache", "dir", "--local", "--quiet", str(cache.resolve()))
        # Lock of a killed run, which DVC honours until the system has reaped the process.
        (folder / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
        for stages in RUNS:
            dvc(folder, "repro", *(f"{stage}@{task}" for stage in stages), lock=lock)


@contextmanager
def _exclusive(folder: Path) -> Iterator[int]:
    """Hold a lock, which ends with the last process that inherited it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(
                "another process works in it", field=str(folder), remedy="Wait until it has ended"
            ) from error
        yield file.fileno()


def dvc(folder: Path, *words: str, log: Path | None = None, lock: int | None = None) -> None:
    """Run DVC in a folder, with the code of that folder.

    Args:
        log: file that its output is appended to; default: log.txt in the folder.
        lock: descriptor of a file that it keeps open until it ends.

    Raises:
        StageError: it failed.
    """
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {
        "PATH": programs,
        "PYTHONPATH": str(folder.resolve()),
        "DVC_NO_ANALYTICS": "1",
        DATA_ROOT_VARIABLE: str(data_root().resolve()),
    }
    log = log or folder / LOG
    with log.open("a", encoding="utf-8") as stream:
        running = subprocess.Popen(
            [sys.executable, "-m", "dvc", *words],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=() if lock is None else (lock,),
        )
        _report_stages(running, log, stream.tell())
    if running.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST:]
        raise StageError(
            f"dvc {words[0]} ended with code {running.returncode} ({' '.join(last)})",
            field=str(log),
            remedy="Fix what it names; the next run continues where this one stopped",
        )


def _report_stages(running: "subprocess.Popen[bytes]", log: Path, start: int) -> None:
    """Say which stages run, as the log names them, until the process ends.

    The process writes into the file rather than a pipe, so that it survives this one.
    """
    with log.open(encoding="utf-8", errors="replace") as stream:
        stream.seek(start)
        ended = False
        while not ended:
            with suppress(subprocess.TimeoutExpired):
                running.wait(POLL)
                ended = True
            for line in stream:
                if line.startswith(ANNOUNCED):
                    _log.info("%s", line.strip())
