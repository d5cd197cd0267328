"""Read the embeddings that the stage `embed` wrote."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths

EMBEDDINGS_FILE, PARTS_FILE = "embeddings.safetensors", "parts.json"
COPIES_FILE = "copies.safetensors"


def load_embeddings(paths: TaskPaths) -> dict[str, NDArray[np.float32]]:
    """Embeddings by modality (`image`, `note`), (N, D), rows as in the manifest.

    Raises:
        StageError: `embed` has not run.
    """
    try:
        return dict(load_file(paths.embeddings / EMBEDDINGS_FILE))
    except FileNotFoundError as error:
        raise _none(paths) from error


def load_copies(paths: TaskPaths) -> NDArray[np.float32] | None:
    """Embeddings (K, N, D) of corrupted copies of the images; None where there are none."""
    file = paths.embeddings / COPIES_FILE
    return load_file(file)["image"] if file.exists() else None


def load_parts(paths: TaskPaths) -> dict[str, list[dict[str, Any]]]:
    """The parts of each modality's embedding, in order, each with its `length`.

    Raises:
        StageError: `embed` has not run.
    """
    try:
        parts: dict[str, list[dict[str, Any]]] = read_json(paths.embeddings / PARTS_FILE)
    except FileNotFoundError as error:
        raise _none(paths) from error
    return parts


def _none(paths: TaskPaths) -> StageError:
    return StageError(
        "there are no embeddings", field=paths.task, remedy=f"Run dvc repro embed@{paths.task}"
    )
