"""Projection: an embedding's leading principal components, scaled to unit spread.

Principal components fitted on few studies spread those very studies wider than new ones, which
would pass for drift. So they are fitted on a third of the reference's patients, whose scores are
then left out of the comparison.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from cxr_mm.errors import StageError

FIT_SHARE = 1 / 3
FEWEST = 20


@dataclass(frozen=True)
class Projection:
    """Mean (D,), components (K, D) and scale (K,) of one embedding."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    scale: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.components)

    def apply(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Embeddings (N, D) → scores (N, K).

        Raises:
            StageError: the embeddings have another width than those of the reference.
        """
        if embeddings.shape[1] != len(self.mean):
            raise StageError(
                f"the log holds embeddings of {embeddings.shape[1]} numbers, the reference of "
                f"{len(self.mean)}",
                field="embedding",
                remedy="Run the stage reference for the bundle that made the predictions",
            )
        scores = (embeddings - self.mean) @ self.components.T / self.scale
        return np.asarray(scores, np.float64)


def fit_projection(
    embeddings: NDArray[np.float32], patients: NDArray[np.int64], components: int, seed: int
) -> tuple[Projection, NDArray[np.bool_]]:
    """Fit on a third of the reference's patients.

    Args:
        embeddings: (N, D), one row per study that has one.
        patients: (N,) whose study it is.
        components: K at most; fewer where N or D do not allow it.
        seed: which patients, and of the randomised decomposition.

    Returns:
        The projection, and which rows (N,) it was fitted on: their scores are not comparable.

    Raises:
        StageError: too few studies or patients.
    """
    _, codes = np.unique(patients, return_inverse=True)
    place = np.random.default_rng(seed).permutation(codes.max() + 1)[codes] if len(codes) else codes
    fitted = place < np.ceil((codes.max(initial=-1) + 1) * FIT_SHARE)
    if (fewest := min(fitted.sum(), (~fitted).sum())) < FEWEST:
        raise StageError(
            f"{len(embeddings)} studies have an embedding; a third of their patients have {fewest} "
            f"of them, and at least {FEWEST} are needed",
            field="reference",
        )
    most = min(components, embeddings.shape[1], int(fitted.sum()) - 1)
    pca = PCA(most, svd_solver="randomized", random_state=seed).fit(embeddings[fitted])
    mean, axes = pca.mean_.astype(np.float32), pca.components_.astype(np.float32)
    spread = ((embeddings[~fitted] - mean) @ axes.T).std(axis=0)
    return Projection(mean, axes, np.where(spread > 0, spread, 1.0).astype(np.float32)), fitted
