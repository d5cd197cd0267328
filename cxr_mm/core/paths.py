"""The paths of every stage's outputs; dvc.yaml repeats them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cxr_mm.core.errors import BundleError

DATA_ROOT_VARIABLE = "CXR_MM_DATA"
DEFAULT_DATA_ROOT = Path("data/raw")
MONITORING_REPORTS = Path("reports/monitoring")
"""Reports of monitoring, a folder for each task, below the project's folder."""
BUNDLE_INDEX = "bundle.json"
"""File of a bundle's folder that has its digest."""
DIGEST_SHOWN = 12
"""Characters of a digest that a person sees, and in the name of a version's folder."""


def data_root() -> Path:
    """Folder of the sources: the environment variable CXR_MM_DATA, or `data/raw`."""
    return Path(os.environ.get(DATA_ROOT_VARIABLE) or DEFAULT_DATA_ROOT).expanduser()


def bundle_digest(bundle: Path) -> str:
    """Digest in the index of a bundle.

    Raises:
        BundleError: no bundle there, or a damaged one.
    """
    path = bundle / BUNDLE_INDEX
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["digest"])
    except FileNotFoundError as error:
        raise BundleError(
            "no such bundle", field=str(bundle), remedy="Run the stage fuse first"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            "not a bundle's description", field=str(path), remedy="Run the stage fuse again"
        ) from error


@dataclass(frozen=True)
class TaskPaths:
    """Paths of a task's outputs below `root`, the project's folder."""

    task: str
    root: Path = Path()

    @property
    def data(self) -> Path:
        return self.root / "data" / self.task

    @property
    def models(self) -> Path:
        return self.root / "models" / self.task

    @property
    def reports(self) -> Path:
        return self.root / "reports" / self.task

    @property
    def resolved(self) -> Path:
        """`resolve`: the task and each section of its parameters, one JSON file each."""
        return self.data / "resolved"

    @property
    def ingest(self) -> Path:
        """`ingest`: manifest.parquet, pixels.npy, report.json (and source/ for synthetic data)."""
        return self.data / "ingest"

    @property
    def manifest(self) -> Path:
        return self.ingest / "manifest.parquet"

    @property
    def pixels(self) -> Path:
        return self.ingest / "pixels.npy"

    @property
    def split(self) -> Path:
        """`split`: split.parquet and audit.json."""
        return self.data / "split"

    @property
    def embeddings(self) -> Path:
        """`embed`: embeddings.safetensors, rows as in the manifest."""
        return self.data / "embeddings"

    @property
    def image_encoder(self) -> Path:
        """`train_image`: the encoder's weights and description."""
        return self.models / "image_encoder"

    @property
    def checkpoints(self) -> Path:
        """State from which an interrupted training resumes; not an output of any stage."""
        return self.models / "checkpoints"

    @property
    def bundle(self) -> Path:
        """`fuse`: everything a prediction needs."""
        return self.models / "bundle"

    @property
    def heldout(self) -> Path:
        """`fuse`: predictions on held-out studies, per subset of modalities."""
        return self.models / "heldout.parquet"

    @property
    def divisions(self) -> Path:
        """`fuse`: the same for further divisions into folds; empty for a single one."""
        return self.models / "divisions.parquet"

    @property
    def reference(self) -> Path:
        """`reference`: what monitoring compares against."""
        return self.models / "reference"

    @property
    def faithfulness(self) -> Path:
        """`explain`: how faithful each method is."""
        return self.reports / "faithfulness.json"

    @property
    def input_gate(self) -> Path:
        """What the bundle's input gate rejects of other sources, once it has been measured."""
        return self.reports / "input_gate.json"

    @property
    def explanations(self) -> Path:
        return self.reports / "explain"


def reports_of(bundle: Path, task: str) -> list[Path]:
    """Folders that may have the reports of a bundle.

    One is beside it, where a version has them; the other that of the project which has the bundle
    as `models/TASK/bundle`.
    """
    above = bundle.absolute().parents
    return [above[0] / "reports", TaskPaths(task, above[min(2, len(above) - 1)]).reports]
