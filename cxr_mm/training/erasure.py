"""Concept erasure: take out of image embeddings what a linear model could read of a shortcut."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from cxr_mm.core.errors import StageError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.data.manifest import Manifest, load_quality
from cxr_mm.imaging.quality import QUALITY_NAMES
from cxr_mm.models.fusion import Erasure

SMALLEST_LEVEL = 20
"""Studies below which sites or views count as one."""
NEGLIGIBLE = 1e-6
"""Singular value, of the largest, and standard deviation that count as 0."""
Rows = NDArray[np.float64]


def read_concepts(manifest: Manifest, names: Iterable[str], paths: TaskPaths) -> Rows | None:
    """Read what is to be erased.

    Args:
        manifest: N studies of a task with images.
        names: `quality`, `view` or `site`.
        paths: of the task.

    Returns:
        (N, C): image statistics, and 1 or 0 for each level of view and site; NaN where not known.
        None where nothing is to be erased.

    Raises:
        StageError: the task has no image, or no study has the view or site.
    """
    found = [_concept(manifest, name, paths) for name in names]
    return np.concatenate(found, axis=1) if found else None


def _concept(manifest: Manifest, name: str, paths: TaskPaths) -> Rows:
    if not manifest.task.has_image:
        raise StageError("the task has no image", field="fuse.erase", remedy="Leave it empty")
    if name == "quality":
        return load_quality(paths)[list(QUALITY_NAMES)].to_numpy(np.float64)
    levels = manifest.frame[name]
    if levels.nunique() < 2:
        raise StageError(
            f"the studies do not differ in {name}", field="fuse.erase", remedy=f"Remove {name}"
        )
    counts = levels.map(levels.value_counts())
    levels = levels.where(levels.isna() | (counts >= SMALLEST_LEVEL), "other")
    dummies = pd.get_dummies(levels, dtype=np.float64).where(levels.notna(), np.nan)
    return dummies.to_numpy(np.float64)


def fit_erasure(embeddings: NDArray[np.float32], concepts: Rows, strength: float) -> Erasure:
    """Fit LEACE (Belrose et al., NeurIPS 2023, theorem 4.3).

    After it the embeddings are uncorrelated with every concept, which is so exactly where no linear
    model can tell it, and no affine map that reaches this changes them less. There are more
    dimensions than studies, so the least change is by the covariance of standard scores, shrunk
    (Ledoit and Wolf, J Multivariate Anal 2004; 88:365).

    Args:
        embeddings: (N, D) of the training studies.
        concepts: (N, C); studies where one is NaN are left out.
        strength: 1 takes all of it out, less takes that share of the way.

    Raises:
        StageError: the concepts do not vary among the studies.
    """
    known = np.isfinite(concepts).all(axis=1)
    x, z = embeddings[known].astype(np.float64), concepts[known]
    varied = z.std(axis=0) > NEGLIGIBLE if len(z) else np.zeros(z.shape[1], dtype=bool)
    if not varied.any():
        raise StageError(
            "what is to be erased does not vary among the training studies that have it",
            field="fuse.erase",
            remedy="Leave it out",
        )
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.maximum(scale, NEGLIGIBLE * max(scale.max(), 1.0))
    z = (z[:, varied] - z[:, varied].mean(axis=0)) / z[:, varied].std(axis=0)
    read, write = leace_directions((x - centre) / scale, z)
    erasure = Erasure(x.shape[1], len(read))
    erasure.centre.copy_(torch.from_numpy(centre))
    erasure.read.copy_(torch.from_numpy(read / scale))
    erasure.write.copy_(torch.from_numpy(strength * scale[:, None] * write))
    return erasure


def leace_directions(x: Rows, z: Rows) -> tuple[Rows, Rows]:
    """Standard scores (N, D) and (N, C) → read (K, D) and write (D, K): x - write @ read @ x.

    All is done within the span of the rows, since the covariance of x and z is in it.
    """
    _, singular, span = np.linalg.svd(x / np.sqrt(len(x)), full_matrices=False)
    inside = singular > NEGLIGIBLE * singular[0]
    variance, span = singular[inside] ** 2, span[inside]
    shrunk = float(ledoit_wolf_shrinkage(x, assume_centered=True))
    root = np.sqrt((1 - shrunk) * variance + shrunk * variance.sum() / x.shape[1])
    covariance = span @ (x.T @ z) / len(x)
    basis, size, _ = np.linalg.svd(covariance / root[:, None], full_matrices=False)
    basis = basis[:, size > NEGLIGIBLE * size[0]]
    return (basis / root[:, None]).T @ span, span.T @ (basis * root[:, None])
