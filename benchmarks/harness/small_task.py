"""Small task: synthetic studies and a bundle trained on them, below a folder of their own."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_mm.core.config import Params, for_task, load_params
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task, load_task
from cxr_mm.core.types import Modality
from cxr_mm.data.ingest import ingest
from cxr_mm.data.split import split
from cxr_mm.training.embed import embed
from cxr_mm.training.fuse import fuse
from cxr_mm.training.train_image import train_image


@dataclass(frozen=True)
class SmallTask:
    """A task whose stages up to `fuse` have run."""

    task: Task
    params: Params
    paths: TaskPaths

    @property
    def source(self) -> Path:
        """Folder of the images and of manifest.csv."""
        return self.paths.ingest / "source"


def make_small_task(
    folder: Path,
    *,
    size: int,
    backbone: str = "tf_efficientnet_lite0",
    studies: int = 120,
    image: int = 256,
    without: Collection[Modality] = (),
) -> SmallTask:
    """Make up studies and train a bundle on them; the image encoder stays frozen.

    Args:
        folder: empty; everything goes below it.
        size: side of the square that the encoder sees, in pixels.
        backbone: `small_cnn` or a packaged one.
        studies: how many.
        image: long side of an image in pixels.
        without: modalities that are left out of the task, `tabular` or `note`.
    """
    shipped = load_task("synthetic")
    options = {"studies": studies, "seed": 0, "size": image}
    weights = "none" if backbone == "small_cnn" else "packaged"
    overrides: dict[str, dict[str, Any]] = {
        "ingest": {"size": size, "workers": 1},
        "train_image": {"backbone": backbone, "weights": weights},
        "fuse": {"inner_folds": 2},
    }
    task = shipped.model_copy(
        update={
            "source": shipped.source.model_copy(update={"options": options}),
            "params": overrides,
            "clinical": () if "tabular" in without else shipped.clinical,
            "note": None if "note" in without else shipped.note,
        }
    )
    params, paths = for_task(load_params(), task), TaskPaths(task.name, folder)
    ingest(task, params, paths, folder)
    for stage in (split, train_image, embed, fuse):
        stage(task, params, paths)
    return SmallTask(task, params, paths)
