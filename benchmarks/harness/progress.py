"""Progress: tasks of a part that are stored, so that a command goes on where it was stopped."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.harness.outputs import after
from benchmarks.harness.parts import Part
from benchmarks.harness.runs import BASE, LAYERS, code_digest
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import shipped_tasks

BEGUN = BASE / "begun"
"""A file for each part that was stopped: task → what it was measured on."""
CODE = (*LAYERS, "explain")


def each_task(name: str, part: Part, chosen: Sequence[str]) -> Iterator[TaskPaths]:
    """Paths of each task of a part; one counts as stored once the next is asked for.

    Args:
        name: of the part.
        part: with a stage in `after`.
        chosen: tasks that are measured whatever is stored, so that commands may run side by side;
            where empty, those of the part that a stopped command left.

    Raises:
        StageError: no task has run the stage.
    """
    file = BEGUN / f"{name}.json"
    stored = dict(read_json(file)) if file.is_file() and not chosen else {}
    found = 0
    for paths in after(part.after, name, chosen or part.tasks or shipped_tasks()):
        found += 1
        state = _state(paths)
        if stored.get(paths.task) == state:
            print(f"{name}: {paths.task} is stored already", flush=True)
            continue
        yield paths
        if not chosen:
            stored[paths.task] = state
            write_json(file, stored)
    if not found:
        stage = part.after
        raise StageError(f"no task has run {stage}", field=name, remedy=f"Run dvc repro {stage}")
    if not chosen:
        file.unlink(missing_ok=True)


def _state(paths: TaskPaths) -> list[Any]:
    """What figures of a task depend on: code, embeddings, and bundle where there is one."""
    outputs = [path for path in (paths.embeddings, paths.bundle) if path.exists()]
    return [code_digest(*CODE), *(path.stat().st_mtime_ns for path in outputs)]
