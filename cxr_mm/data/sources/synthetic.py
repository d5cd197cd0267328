"""Source `synthetic`: the population of a documented model, written and read back."""

from pathlib import Path

import pandas as pd

from cxr_mm.core.task import Task
from cxr_mm.data.sources.base import RawStudies, checked_options, raw_studies
from cxr_mm.data.synthetic.population import SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise


def read_synthetic(task: Task, _folder: Path, work: Path) -> RawStudies:
    """Make up the task's population below `work` and read the manifest back.

    Raises:
        TaskError: an option of the task's source is unknown or out of range.
    """
    spec = checked_options(SynthesisSpec, task)
    source = synthesise(work / "source", spec).resolve()
    frame = pd.read_csv(source / "manifest.csv", dtype=str, keep_default_na=False)
    frame = frame.replace({"": None})
    there = frame["image_path"].notna()
    frame.loc[there, "image_path"] = [str(source / path) for path in frame["image_path"][there]]
    return raw_studies(frame, [])
