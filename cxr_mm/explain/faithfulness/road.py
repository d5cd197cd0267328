"""Noisy linear imputation (ROAD: Rong et al. 2022), a second way to remove regions of an image."""

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, neighbors_weights
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch.nn import functional as F  # noqa: N812

from cxr_mm.explain.games import Coalitions, ImageGame

SHRUNK = 4
"""Imputed images are smooth, so the linear system is solved for every fourth pixel."""
NOISE = 0.01


class RoadGame(ImageGame):
    """`ImageGame` whose removed regions are interpolated from what is left around them.

    The shape of a removed region then tells a network nothing, as an edge against a baseline image
    may. Not defined for the coalition of no one.
    """

    @property
    def kind(self) -> str:
        return f"{super().kind}, imputed"

    def _logits(self, stored: Coalitions) -> NDArray[np.float64]:
        present = torch.from_numpy(np.pad(stored, ((0, 0), (0, 1)), constant_values=True))
        masks = present[:, self._where.flatten()].reshape(len(stored), *self._where.shape)
        images = torch.stack([imputed(self.image[0], mask) for mask in masks])
        return self.subject.of_images(images)


def imputed(image: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Image (1, S, S) with the pixels that are not known (S, S) imputed, plus noise of 0.01."""
    whole = (F.max_pool2d(1 - known[None].float(), SHRUNK)[0] == 0).numpy()
    small = F.avg_pool2d(image, SHRUNK).numpy()
    # The library's own call hands tensors to numpy in a way that numpy 2 warns of.
    weights, right = NoisyLinearImputer.setup_sparse_system(whole, small, neighbors_weights)
    noise = NOISE * np.random.default_rng(0).standard_normal(len(right))
    small[0, ~whole] = np.ravel(spsolve(csc_matrix(weights), right)) + noise
    large = F.interpolate(torch.from_numpy(small)[None], image.shape[1:], mode="bilinear")[0]
    return torch.where(known, image, large)
