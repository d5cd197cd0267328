"""Setting: a task with other parameters than its own, and the folders that a run of it has."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cxr_mm
from cxr_mm import __version__
from cxr_mm.contracts.task import Task
from cxr_mm.data.resolve import PROSE
from cxr_mm.data.tasks import load_task
from cxr_mm.files import to_json
from cxr_mm.params import Params, for_task, load_params, with_split
from cxr_mm.paths import TaskPaths

BASE = Path(".cache") / "benchmarks"
PACKAGE = Path(cxr_mm.__file__).parent
LAYERS = ("contracts", "data", "models", "training", "evaluation")
"""Whose code makes a figure."""
Overrides = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """A task with its parameters, and where a run of it lies."""

    task: Task
    params: Params

    @property
    def paths(self) -> TaskPaths:
        sections = ("ingest", "split", "train_image", "embed", "fuse", "evaluate")
        return self._below("runs", *sections)

    @property
    def ingested(self) -> TaskPaths:
        return self._below("data", "ingest")

    @property
    def divided(self) -> TaskPaths:
        return self._below("data", "ingest", "split")

    def _below(self, kind: str, *sections: str) -> TaskPaths:
        question = self.task.model_dump(mode="json", exclude={"params", *PROSE})
        if "split" not in sections:
            question.pop("split")
        chosen = {name: self.params.model_dump(mode="json")[name] for name in sections}
        # What is cheap is made anew when its code changes; for a training that is only said.
        code = code_digest("contracts", "data") if kind == "data" else __version__
        text = to_json([code, question, chosen])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return TaskPaths(self.task.name, BASE / kind / f"{self.task.name}-{digest}")


def setting(task: str, overrides: Overrides) -> Setting:
    """The task with `overrides` on top of everything that its file and params.yaml say.

    Raises:
        TaskError: there is no such task.
        ParamsError: an override is unknown or out of range.
    """
    found = load_task(task)
    shipped = for_task(load_params(), found)
    params = for_task(shipped, found.model_copy(update={"params": overrides}))
    return Setting(with_split(found, params.split), params)


@functools.cache
def code_digest(*layers: str) -> str:
    """Digest of the modules of some layers, as they were when first asked for."""
    digest = hashlib.sha256()
    for layer in layers:
        for file in sorted((PACKAGE / layer).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
