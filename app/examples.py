"""Examples: studies that fill the form, out of a folder in the manifest-CSV layout or made up."""

from pathlib import Path
from typing import Any

from cxr_mm.contracts.task import Task
from cxr_mm.data.sources.manifest_csv import DEFAULT_FILE, read_manifest_csv
from cxr_mm.data.sources.synthetic import SynthesisSpec, synthesise

SHOWN = 6
SEED = 2026
"""Of the phantoms, whom no model of ours was trained on."""


def phantoms(folder: Path, count: int = SHOWN) -> Path:
    """Draw synthetic studies, as the task `synthetic` has them, into a folder."""
    return synthesise(folder, SynthesisSpec(studies=count, seed=SEED), workers=1)


def read(folder: Path, task: Task, count: int = SHOWN) -> list[list[Any]]:
    """Film path, note and clinical values of up to `count` studies, those with most inputs first.

    Raises:
        ManifestError: the folder has no manifest.csv, or a column is missing.
    """
    frame = read_manifest_csv(folder / DEFAULT_FILE, task, labels_required=False)
    note = task.note.column if task.note else None
    columns = ["image_path", *([note] if note else []), *task.clinical_names]
    fullest = frame[columns].notna().sum(axis=1).sort_values(ascending=False, kind="stable")
    rows = []
    for _, row in frame.loc[fullest.index[:count]].iterrows():
        values = {k: v for k, v in row.items() if isinstance(v, str)}
        path = values.get("image_path")
        film = path if path and Path(path).is_file() else None
        clinical = [values.get(name, "") for name in task.clinical_names]
        rows.append([film, values.get(note or "") or "", *clinical])
    return rows
