"""Part `repro`: `dvc repro` where nothing changed, and where one parameter did."""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness.parts import Row
from cxr_mm.core.config import PARAMS_FILE
from cxr_mm.core.errors import StageError
from cxr_mm.core.task import SHIPPED
from monitoring.retraining.experiment import dvc

PROJECT = Path(__file__).parents[2]
TASK, STUDIES = "small", 400
IDLE = 3
"""Runs in which nothing has changed; their median counts."""
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "evaluate.bootstrap": {"evaluate": {"bootstrap": 500}},
    "fuse.operating_point": {"fuse": {"operating_point": "high_sensitivity"}},
}


def measure() -> list[Row]:
    """A row for the first run, one where nothing changed, and one for each parameter."""
    with tempfile.TemporaryDirectory() as name:
        project = make_project(Path(name) / "project")
        first = repro(project)
        taken = {"first run of all stages": [first]}
        taken["nothing changed"] = [repro(project) for _ in range(IDLE)]
        for what, change in CHANGES.items():
            change_params(project, change)
            taken[f"{what} changed"] = [repro(project)]
    return [_row(what, seconds, first) for what, seconds in taken.items()]


def make_project(folder: Path) -> Path:
    """Clone the project and give it one small synthetic task.

    Raises:
        StageError: git or the project's history is not there.
    """
    done = subprocess.run(
        ["git", "clone", "--quiet", PROJECT, folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(
            f"git clone failed ({done.stderr.strip()})",
            field=str(PROJECT),
            remedy="Measure this in a git checkout of the project",
        )
    task = yaml.safe_load((SHIPPED / "synthetic.yaml").read_text(encoding="utf-8"))
    task |= {"name": TASK}
    task["source"]["options"] = {"studies": STUDIES, "seed": 0}
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / f"{TASK}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    change_params(folder, {"tasks": [TASK]})
    return folder


def change_params(project: Path, change: dict[str, Any]) -> None:
    """Set parameters in the project's params.yaml, section by section; the others stay."""
    file = project / PARAMS_FILE
    params = yaml.safe_load(file.read_text(encoding="utf-8"))
    for section, values in change.items():
        merged = {**params.get(section, {}), **values} if isinstance(values, dict) else values
        params[section] = merged
    file.write_text(yaml.safe_dump(params), encoding="utf-8")


def repro(project: Path) -> float:
    """Seconds of `dvc repro`, run with the project's own code.

    Raises:
        StageError: a stage failed.
    """
    started = time.perf_counter()
    dvc(project, "repro")
    return time.perf_counter() - started


def _row(what: str, taken: list[float], first: float) -> Row:
    seconds = statistics.median(taken)
    return Row(
        task=f"synthetic, {STUDIES} studies",
        row=what,
        metric="time against the first run",
        value=seconds / first,
        n=len(taken),
        seconds=seconds,
    )
