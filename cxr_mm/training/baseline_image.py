"""Choice of the baseline image: of many mixtures of training images, the one whose logits are
closest to those of the average training image."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.core.paths import TaskPaths
from cxr_mm.data.manifest import ABSENT, Manifest
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.imaging.tensor import normalise
from cxr_mm.models.background import MIXED, mixtures, without_margin
from cxr_mm.models.bundle import Batch, Bundle
from cxr_mm.models.calibration import subset_mask
from cxr_mm.training.fusion_fit import Index

IMAGES, CANDIDATES = 100, 100
BATCH = 16
"""Images embedded together."""


def baseline_image(
    bundle: Bundle, manifest: Manifest, rows: Index, embeddings: Tensor, paths: TaskPaths, seed: int
) -> NDArray[np.uint8] | None:
    """Choose the image that replaces removed regions and stands for an uninformative study.

    Args:
        bundle: the model; its task has an image.
        manifest: all studies.
        rows: rows of the training studies.
        embeddings: (N, D) of the images of all studies.
        paths: of the task.
        seed: of the random choices.

    Returns:
        uint8 (S, S) without black margins; None where there are too few images.
    """
    position = manifest.frame["pixel_row"].to_numpy(np.int64)
    rows = rows[position[rows] != ABSENT]
    if len(rows) < MIXED:
        return None
    sample = np.random.default_rng(seed).permutation(rows)[:IMAGES]
    pixels = open_pixels(paths.pixels)
    images = np.stack([without_margin(np.asarray(pixels[position[row]])) for row in sample])
    candidates = mixtures(images, CANDIDATES, seed)
    usual = _logits(bundle, embeddings[torch.from_numpy(rows)])
    logits = torch.cat(
        [
            _logits(bundle, _embed(bundle, candidates[k : k + BATCH]))
            for k in range(0, len(candidates), BATCH)
        ]
    )
    spread = usual.std(0, correction=0) + 1e-6
    distance = ((logits - usual.mean(0)) / spread).square().sum(1)
    chosen: NDArray[np.uint8] = candidates[int(distance.argmin())]
    return chosen


def _embed(bundle: Bundle, images: NDArray[np.uint8]) -> Tensor:
    mask = subset_mask(("image",)).expand(len(images), -1)
    return bundle.embeddings(Batch(mask=mask, image=normalise(images)))["image"]


@torch.inference_mode()
def _logits(bundle: Bundle, embeddings: Tensor) -> Tensor:
    """Logits (B, F) from the image alone."""
    inputs = {
        m: embeddings if m == "image" else torch.zeros(len(embeddings), width)
        for m, width in bundle.fusion.spec.dims.items()
    }
    mask = subset_mask(("image",)).expand(len(embeddings), -1)
    return bundle.logits(inputs, mask)
