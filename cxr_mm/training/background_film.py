"""Background film, chosen: of many mixtures of training films the one that the model answers most
like the average training film."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.contracts.manifest import ABSENT, Manifest
from cxr_mm.data.cache import open_pixels
from cxr_mm.data.transform import normalise
from cxr_mm.models.background import MIXED, mixtures, without_margin
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.calibration import subset_mask
from cxr_mm.models.classifier import Batch
from cxr_mm.paths import TaskPaths
from cxr_mm.training.studies import Index

FILMS, CANDIDATES = 100, 100
BATCH = 16
"""Films embedded together."""


def background_film(
    bundle: Bundle, manifest: Manifest, rows: Index, embeddings: Tensor, paths: TaskPaths, seed: int
) -> NDArray[np.uint8] | None:
    """The film that stands for one of which nothing is known.

    Args:
        bundle: the model; its task has an image.
        manifest: all studies.
        rows: those that may be learnt from.
        embeddings: (N, D) of the films of all studies.
        paths: of the task.
        seed: of what is drawn.

    Returns:
        uint8 (S, S), full of film to the edge; None where there are too few films.
    """
    position = manifest.frame["pixel_row"].to_numpy(np.int64)
    rows = rows[position[rows] != ABSENT]
    if len(rows) < MIXED:
        return None
    drawn = np.random.default_rng(seed).permutation(rows)[:FILMS]
    pixels = open_pixels(paths.pixels)
    films = np.stack([without_margin(np.asarray(pixels[position[row]])) for row in drawn])
    made = mixtures(films, CANDIDATES, seed)
    usual = _logits(bundle, embeddings[torch.from_numpy(rows)])
    found = torch.cat(
        [
            _logits(bundle, _embedded(bundle, made[k : k + BATCH]))
            for k in range(0, len(made), BATCH)
        ]
    )
    spread = usual.std(0, correction=0) + 1e-6
    distance = ((found - usual.mean(0)) / spread).square().sum(1)
    chosen: NDArray[np.uint8] = made[int(distance.argmin())]
    return chosen


def _embedded(bundle: Bundle, films: NDArray[np.uint8]) -> Tensor:
    mask = subset_mask(("image",)).expand(len(films), -1)
    return bundle.embeddings(Batch(mask=mask, image=normalise(films)))["image"]


@torch.inference_mode()
def _logits(bundle: Bundle, embeddings: Tensor) -> Tensor:
    """Logits (B, F) from the film alone."""
    shown = {
        m: embeddings if m == "image" else torch.zeros(len(embeddings), width)
        for m, width in bundle.fusion.spec.dims.items()
    }
    mask = subset_mask(("image",)).expand(len(embeddings), -1)
    return bundle.logits(shown, mask)
