"""Stage `resolve`: the dependencies of a task's stages, one small JSON file per section.

dvc.yaml cannot express "params.yaml with this task's overrides", nor depend on a data root from an
environment variable. This stage always runs, within a second, and does both. Every other stage
then runs again only if its own section, the task or the data has changed.
"""

import shutil
from pathlib import Path
from typing import Any

from cxr_mm.core.config import Params
from cxr_mm.core.files import to_json, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task
from cxr_mm.data.additions import additions_fingerprint
from cxr_mm.data.sources import fingerprint

PROSE = {"title", "licence", "citation", "caveats"}
"""Fields that training does not depend on; nor does it on the codes of findings."""
EXPERIMENTS = (".dvc", "tmp", "exps")
"""Folder, below the project's, that DVC keeps the folders of queued experiments in."""


def question_of(task: Task) -> dict[str, Any]:
    """What of a task training depends on, as JSON, without its parameters."""
    whole = task.model_dump(mode="json", exclude={"params", *PROSE})
    for finding in whole["findings"]:
        finding.pop("code", None)
    for named in (*whole["clinical"], whole["note"] or {}):
        named.pop("loinc", None)
    return whole


def _link_to_project(root: Path) -> None:
    """Link a data root below the project from the folder that DVC runs a queued experiment in."""
    if root.exists():
        return
    for above in Path.cwd().parents:
        if above.parts[-3:] == EXPERIMENTS and (whole := above.parents[2] / root).is_dir():
            root.parent.mkdir(parents=True, exist_ok=True)
            root.symlink_to(whole, target_is_directory=True)


def resolve(task: Task, params: Params, paths: TaskPaths, root: Path) -> None:
    """Write the task, each section of its parameters and the fingerprint of its data.

    In the folder of a queued experiment, which has what git tracks alone, the data are linked.

    Raises:
        DataNotFoundError: the source's files are not there.
    """
    _link_to_project(root)
    sections = params.model_dump(mode="json", exclude={"tasks"})
    whole = task.model_dump(mode="json", exclude={"params"})
    source, added = fingerprint(task, root), additions_fingerprint(paths)
    files = {
        **sections,
        "task": whole,
        # The manifest does not depend on the split: its fields go with the parameters of `split`.
        "split": {**sections["split"], "spec": whole["split"]},
        "question": {n: value for n, value in question_of(task).items() if n != "split"},
        "source": {**source, "additions": added} if added else source,
    }
    for name, content in files.items():
        target = paths.resolved / f"{name}.json"
        if not target.is_file() or target.read_text(encoding="utf-8") != to_json(content):
            write_json(target, content)
    for stale in paths.resolved.iterdir():
        if stale.stem not in files:
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
