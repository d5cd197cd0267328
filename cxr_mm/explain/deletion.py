"""Deletion (Petsiuk et al. 2018, RISE): does the logit fall faster when the areas that an
attribution ranks first are taken out than when areas are taken out at random?

Areas are squares of a coarse grid; what is taken out is replaced by a strongly blurred film, which
is closer to what the network knows than black or grey.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.contracts.explanation import Target
from cxr_mm.contracts.study import Study
from cxr_mm.explain.grad_cam import finding_index
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.classifier import Batch

GRID = 14
STEPS = 5
RANDOM_ORDERS = 3


def deletion_advantage(
    bundle: Bundle, study: Study, target: Target, values: NDArray[np.float32], seed: int
) -> float:
    """Mean logit over the deletion in random order less that in the attribution's order.

    Args:
        bundle: the model.
        study: with an image.
        target: finding whose logit is followed.
        values: attribution (S, S) over the square that the model saw.
        seed: of the random orders.

    Returns:
        Logits; above 0 the attribution finds what matters, 0 is chance.
    """
    rng = np.random.default_rng(seed)
    column = finding_index(bundle, target)
    grid = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(values)[None, None], GRID)
    jitter = rng.random(GRID * GRID) * 1e-9  # ties fall at random
    ranked = np.argsort(-(grid.numpy().ravel() + jitter))
    orders = [ranked, *(rng.permutation(GRID * GRID) for _ in range(RANDOM_ORDERS))]
    batch = bundle.prepare([study])
    assert batch.image is not None
    images = torch.cat([_deleted(batch.image, order) for order in orders])
    mask = batch.mask.expand(len(images), -1)
    with torch.inference_mode():
        embeddings = {m: e.expand(len(images), -1) for m, e in bundle.embeddings(batch).items()}
        embeddings |= bundle.embeddings(Batch(mask=mask, image=images))
        logits = bundle.logits(embeddings, mask)[:, column]
    areas = logits.reshape(len(orders), STEPS).double().mean(dim=1)
    return float(areas[1:].mean() - areas[0])


def _deleted(image: Tensor, order: NDArray[np.int64]) -> Tensor:
    """The image (1, 1, S, S) with ever more cells taken out, (STEPS, 1, S, S)."""
    size = image.shape[-1]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    ranks = torch.from_numpy(rank).reshape(1, 1, GRID, GRID).float()
    ranks = torch.nn.functional.interpolate(ranks, size=size, mode="nearest")
    gone = torch.arange(1, STEPS + 1).reshape(-1, 1, 1, 1) * len(order) / (STEPS + 1)
    kernel = 2 * (size // 8) + 1
    blurred = torch.nn.functional.avg_pool2d(
        image, kernel, stride=1, padding=kernel // 2, count_include_pad=False
    )
    return torch.where(ranks < gone, blurred, image)
