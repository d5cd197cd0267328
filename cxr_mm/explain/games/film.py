"""Film: regions of the film are kept, or those of a film of nobody stand in their place."""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import slic
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from cxr_mm.contracts.explanation import Target
from cxr_mm.contracts.modality import Modality
from cxr_mm.data.transform import normalise
from cxr_mm.explain.games.base import Game, Kept
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.tree import bisected, linkage
from cxr_mm.explain.watch import UNWATCHED, Watch
from cxr_mm.models.background import resized

Regions = NDArray[np.int64]
BLUR = 0.08
"""Standard deviation of the blur as a share of the square's side: large forms stay, findings go."""


def grid(subject: Subject, cells: int) -> Regions:
    """Squares of equal size over the film, about `cells` along its longer side: (S, S), -1 beside
    the film."""
    rows, columns = subject.film_box
    height, width = rows.stop - rows.start, columns.stop - columns.start
    side = max(height, width) / cells
    down, across = (max(1, round(length / side)) for length in (height, width))
    row = np.minimum(np.arange(height) * down // height, down - 1)
    column = np.minimum(np.arange(width) * across // width, across - 1)
    return _placed(subject, row[:, None] * across + column[None, :])


def superpixels(subject: Subject, count: int) -> Regions:
    """About `count` regions of like grey (SLIC: Achanta et al. 2012), as `grid` has them."""
    rows, columns = subject.film_box
    assert subject.batch.image is not None
    pixels = subject.batch.image[0, 0, rows, columns].numpy()
    found = slic(pixels, n_segments=count, compactness=0.1, channel_axis=None, start_label=0)
    return _placed(subject, np.unique(found, return_inverse=True)[1].reshape(found.shape))


def _placed(subject: Subject, inside: NDArray[np.integer]) -> Regions:
    size = subject.bundle.size
    regions = np.full((size, size), -1, dtype=np.int64)
    regions[subject.film_box] = inside
    return regions


def background(subject: Subject) -> Tensor:
    """What stands where a region is taken out (1, 1, S, S): the bundle's film of nobody, brought to
    this film's place and aspect; without one a strong blur of this film."""
    image, film = subject.batch.image, subject.bundle.background_film
    assert image is not None
    if film is None:
        return blurred(image)
    rows, columns = subject.film_box
    inside = resized(film, (rows.stop - rows.start, columns.stop - columns.start))
    square = np.zeros(film.shape, dtype=np.uint8)
    square[subject.film_box] = inside
    return normalise(square[None])


def blurred(images: Tensor) -> Tensor:
    """What stays of images (B, 1, S, S) where a region is taken out."""
    size = images.shape[-1]
    spread = BLUR * size
    kernel = 2 * min(round(3 * spread), (size - 1) // 2) + 1
    found: Tensor = gaussian_blur(images, [kernel, kernel], [spread, spread])
    return found


class FilmGame(Game):
    """Regions of the film as players.

    Args:
        subject, target, watch: as of `Game`.
        regions: (S, S) from 0 to n - 1; what is -1 is always kept.
    """

    modality: Modality = "image"
    BATCH = 32

    def __init__(
        self, subject: Subject, target: Target, regions: Regions, watch: Watch = UNWATCHED
    ) -> None:
        super().__init__(subject, target, watch)
        assert subject.batch.image is not None
        self.image, self.regions = subject.batch.image, regions
        self.fill = background(subject)
        self.count = int(regions.max()) + 1
        self._kind = f"film {hash(regions.tobytes())}"
        self._where = torch.from_numpy(np.where(regions < 0, self.count, regions))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"region {k}" for k in range(self.count))

    @property
    def kind(self) -> str:
        return self._kind

    @cached_property
    def tree(self) -> NDArray[np.float64]:  # type: ignore[override]
        """Regions by where they lie."""
        places = np.array([np.argwhere(self.regions == k).mean(0) for k in range(self.count)])
        return linkage(bisected(places), self.count)

    def painted(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """One value a region (n,) → (S, S), 0 beside the film."""
        with_margin = np.append(values, 0.0).astype(np.float32)
        painted: NDArray[np.float32] = with_margin[self._where.numpy()]
        return painted

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean (n,) of a map (S, S) over each region."""
        inside = self.regions >= 0
        where = self.regions[inside]
        sums = np.bincount(where, weights=values[inside].astype(np.float64), minlength=self.count)
        return sums / np.bincount(where, minlength=self.count)

    def _logits(self, kept: Kept) -> NDArray[np.float64]:
        shown = torch.from_numpy(np.pad(kept, ((0, 0), (0, 1)), constant_values=True))
        pixels = shown[:, self._where.flatten()].reshape(len(kept), 1, *self._where.shape)
        images = torch.where(pixels, self.image, self.fill)
        return self.subject.of_images(images)
