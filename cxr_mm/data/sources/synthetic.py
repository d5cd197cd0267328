"""Source `synthetic`: the population of a documented generative model."""

from pathlib import Path

from cxr_mm.core.task import Task
from cxr_mm.data.sources.base import RawStudies, checked_options, raw_studies
from cxr_mm.data.tables import read_table


def read_synthetic(task: Task, _folder: Path, work: Path) -> RawStudies:
    """Generate the task's population below `work` and read its manifest.

    Raises:
        TaskError: an option of the task's source is unknown or out of range.
    """
    # Imported where it is needed: every prediction imports the sources, few draw phantoms.
    from cxr_mm.data.synthetic.population import SynthesisSpec
    from cxr_mm.data.synthetic.writer import synthesise

    spec = checked_options(SynthesisSpec, task)
    source = synthesise(work / "source", spec).resolve()
    frame = read_table(source / "manifest.csv")
    has_image = frame["image_path"].notna()
    frame.loc[has_image, "image_path"] = [
        str(source / path) for path in frame["image_path"][has_image]
    ]
    return raw_studies(frame, [])
