"""Background rows and baseline image: a patient of whom nothing is known, stored in the bundle.

Clinical features are drawn independently from the training studies (interventional expectations:
Janzing et al., AISTATS 2020), so that no row belongs to a patient. The baseline image is a mixture
of training images that has their texture. A blurred or grey image would not do: it is out of
distribution, and its logits are far beyond those of any real image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.task import ClinicalFeature
from cxr_mm.imaging.geometry import Square, image_area, resize

ROWS = 100
MIXED = 4
"""Images in a mixture."""


def mixtures(images: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.uint8]:
    """Mix images: the mean image plus half the summed deviations of four images from it.

    The mean of images has no texture; a mixture has that of one image, since variances add up.

    Args:
        images: uint8 (N, S, S) without black margins; four or more.
        count: number of mixtures.
        seed: of the draws.

    Returns:
        uint8 (count, S, S).
    """
    rng = np.random.default_rng(seed)
    mean = images.mean(axis=0, dtype=np.float32)
    mixed = np.empty((count, *images.shape[1:]), dtype=np.uint8)
    for k in range(count):
        some = images[np.sort(rng.choice(len(images), MIXED, replace=False))].astype(np.float32)
        deviation = (some - mean).sum(axis=0) / MIXED**0.5
        mixed[k] = np.clip(np.rint(mean + deviation), 0, 255).astype(np.uint8)
    return mixed


def without_margin(square: Square) -> Square:
    """Crop the black margins of an image (S, S) and stretch the rest to the square."""
    return resize(square[image_area(square)], square.shape)


def draw_background(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Draw up to 100 rows, each column independently of the others.

    Args:
        frame: checked clinical values of the training studies, one row a study.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    count = min(ROWS, len(frame))
    columns = {
        name: column.iloc[rng.permutation(len(frame))[:count]].reset_index(drop=True)
        for name, column in frame.items()
    }
    return pd.DataFrame(columns, index=range(count))


def background_to_json(background: pd.DataFrame) -> dict[str, list[Any]]:
    """Feature → its values, None where unknown."""
    return {
        str(name): [None if pd.isna(value) else value for value in column.tolist()]
        for name, column in background.items()
    }


def background_from_json(
    features: Sequence[ClinicalFeature], values: Mapping[str, list[Any]]
) -> pd.DataFrame:
    """Read what `background_to_json` wrote, in the task's order.

    Raises:
        KeyError: a feature of the task is not in it.
    """
    columns = {
        feature.name: pd.Series(
            values[feature.name], dtype="float64" if feature.type == "number" else "object"
        )
        for feature in features
    }
    return pd.DataFrame(columns)
