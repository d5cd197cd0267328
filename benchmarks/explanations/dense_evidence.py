"""Dense evidence: a map of a finding from labels of whole images, which the product does not have.

A ridge regression of the label on every cell of the encoder's feature maps, each less the mean of
normal training images at that place: so what is there in every radiograph says nothing. Trained
without the fold's patients, and without boxes.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from torch.nn import functional as F  # noqa: N812

from benchmarks.accuracy.input_gate import Run
from cxr_mm.data.split import load_split, resamples
from cxr_mm.imaging.tensors import image_batches
from cxr_mm.models.backbones import STAGES

STRIDE, PENALTY, SMOOTH = 16, 1.0, 8.0
"""Pixels of a cell; of the ridge, in variances of a feature; of the map, in pixels."""
Features = NDArray[np.float32]


def dense_evidence(run: Run, finding: int) -> dict[str, NDArray[np.float64]]:
    """Study id → map (S, S) of each study, in standard deviations over the training images.

    Args:
        run: a task in folds, each of whose studies has an image.
        finding: column of the labels; unlabelled studies are not trained on.
    """
    frame = run.manifest.frame
    features = dense_features(run)[frame["pixel_row"].to_numpy(np.int64)]
    labels = run.manifest.labels()[:, finding]
    maps: dict[str, NDArray[np.float64]] = {}
    for part in resamples(load_split(run.paths)):
        seen = np.concatenate([part.train, part.val])
        every = _evidence(features, labels, seen[np.isfinite(labels[seen])])
        spread = every[seen].std()
        for row in part.test:
            maps[str(frame["study_id"].iloc[row])] = every[row] / spread
    return maps


def dense_features(run: Run) -> Features:
    """Feature maps of the encoder's last stages (N, C, h, w) on one grid, mean over mirror images.

    Of the image in full resolution, whatever the encoder is given for a prediction.
    """
    backbone, encoder = run.encoder.backbone, run.encoder
    side, found = run.size // STRIDE, []
    with torch.inference_mode():
        for images in image_batches(run.pixels, np.arange(len(run.pixels)), 16):
            given = images * encoder.input_scale + encoder.input_shift
            call: Any = backbone.forward_intermediates
            _, maps = call(torch.cat([given, given.flip(-1)]), indices=STAGES)
            found.append(torch.cat([_on_grid(each, side) for each in maps], dim=1).numpy())
    return np.concatenate(found)


def _on_grid(features: torch.Tensor, side: int) -> torch.Tensor:
    plain, mirrored = features.chunk(2)
    mean = (plain + mirrored.flip(-1)) / 2
    if mean.shape[-1] > side:
        return F.adaptive_avg_pool2d(mean, side)
    return F.interpolate(mean, (side, side), mode="bilinear")


def _evidence(
    features: Features, labels: NDArray[np.floating], seen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Maps (N, S, S) of all studies, by what `seen` teaches."""
    mean = features[seen].mean(axis=(0, 2, 3), keepdims=True)
    scaled = (features - mean) / (features[seen].std(axis=(0, 2, 3), keepdims=True) + 1e-6)
    scaled -= scaled[seen[labels[seen] == 0]].mean(axis=0)
    cells = scaled[seen].transpose(0, 2, 3, 1).reshape(-1, scaled.shape[1])
    answers = np.repeat(labels[seen], scaled.shape[2] * scaled.shape[3])
    cells, answers = cells - cells.mean(axis=0), answers - answers.mean()
    inner = cells.T @ cells / len(cells) + PENALTY * np.eye(cells.shape[1])
    weights = np.linalg.solve(inner, cells.T @ answers / len(cells))
    coarse = np.tensordot(scaled, weights, axes=(1, 0))
    return np.stack([gaussian_filter(zoom(each, STRIDE, order=1), SMOOTH) for each in coarse])
