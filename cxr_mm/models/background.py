"""Background: what stands for a patient of whom nothing is known; kept in the bundle.

Clinical features: each is drawn on its own from the training studies (Janzing et al., AISTATS 2020:
interventional expectations), so that no row is any patient's. Square: a mixture of training images
that keeps their texture and is no one's. A blurred or grey image would not do: a network has never
seen one, and answers it with logits far beyond those of any real image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.task import ClinicalFeature
from cxr_mm.imaging.geometry import resize

ROWS = 100
MIXED = 4
"""Images in a mixture."""
Square = NDArray[np.uint8]


def mixtures(images: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.uint8]:
    """Images of no one: the mean image and what four images have beyond it, at half its size.

    The mean of images has no texture; this has that of one (variances add up).

    Args:
        images: uint8 (N, S, S), full of image to the edge; four or more.
        count: how many to make.
        seed: of the draw.

    Returns:
        uint8 (count, S, S).
    """
    rng = np.random.default_rng(seed)
    mean = images.mean(axis=0, dtype=np.float32)
    made = np.empty((count, *images.shape[1:]), dtype=np.uint8)
    for k in range(count):
        drawn = images[np.sort(rng.choice(len(images), MIXED, replace=False))].astype(np.float32)
        beyond = (drawn - mean).sum(axis=0) / MIXED**0.5
        made[k] = np.clip(np.rint(mean + beyond), 0, 255).astype(np.uint8)
    return made


def without_margin(square: Square) -> Square:
    """The image (S, S) without what is black beside it, stretched to the square again."""
    there = square > 0
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    if not len(rows):
        return square
    inside = square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return resize(inside, square.shape)


def draw_background(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Up to 100 rows, each column shuffled apart from the others.

    Args:
        frame: checked clinical values of the training studies, one row a study.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    count = min(ROWS, len(frame))
    drawn = {
        name: column.iloc[rng.permutation(len(frame))[:count]].reset_index(drop=True)
        for name, column in frame.items()
    }
    return pd.DataFrame(drawn, index=range(count))


def background_to_json(background: pd.DataFrame) -> dict[str, list[Any]]:
    """Feature → its values, None where not known."""
    return {
        str(name): [None if pd.isna(value) else value for value in column.tolist()]
        for name, column in background.items()
    }


def background_from_json(
    features: Sequence[ClinicalFeature], values: Mapping[str, list[Any]]
) -> pd.DataFrame:
    """What `background_to_json` wrote, in the task's order.

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
