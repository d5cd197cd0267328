"""Game: the logit of one target for any coalition of the parts of one modality."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.core.errors import NoteError
from cxr_mm.core.progress import NO_PROGRESS, Progress
from cxr_mm.core.types import Modality
from cxr_mm.data.notes import MASK
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.subject import Subject
from cxr_mm.imaging.geometry import resize
from cxr_mm.imaging.tensors import normalise

Coalitions = NDArray[np.bool_]


class Game(ABC):
    """Players are the parts of one modality; all else is fixed at the study's own values.

    Args:
        subject: the study.
        target: whose logit is the value.
        watch: receives progress and may stop the run.

    Raises:
        InputError: the study lacks the modality, or the task the finding.
    """

    modality: Modality
    BATCH: int
    """Coalitions that go through the model together."""
    tree: NDArray[np.float64] | None = None
    """Which parts belong together, as `tree.linkage` has it; None where no order is given."""

    def __init__(self, subject: Subject, target: Target, watch: Progress = NO_PROGRESS) -> None:
        subject.require(self.modality)
        self.subject, self.watch = subject, watch
        self.column = subject.column(target)
        self.queries = 0
        self.expected = 0

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the players, in order."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the players are; of one subject, games of the same kind share their logits."""

    @abstractmethod
    def _logits(self, stored: Coalitions) -> NDArray[np.float64]:
        """Logits (K, F) of distinct coalitions (K, n), none of which is of all."""

    def values(self, stored: Coalitions) -> NDArray[np.float64]:
        """Values (K,) of coalitions (K, n): True where a part is present. None is evaluated twice.

        Raises:
            CancelledError: the run was cancelled.
        """
        known = self.subject.answers.setdefault(self.kind, {})
        # The whole is as the prediction has it, whatever precision the others are computed in.
        known[_key(np.ones(len(self.names), dtype=bool))] = self.subject.logits
        keys = [_key(row) for row in stored]
        new = list({key: k for k, key in enumerate(keys) if key not in known}.values())
        for start in range(0, len(new), self.BATCH):
            rows = new[start : start + self.BATCH]
            known |= {keys[k]: v for k, v in zip(rows, self._logits(stored[rows]), strict=True)}
            self.queries += len(rows)
            self.watch.step(self.queries, max(self.expected, self.queries))
        return np.array([known[key][self.column] for key in keys])

    @property
    def base(self) -> float:
        """Value of no one."""
        return float(self.values(np.zeros((1, len(self.names)), dtype=bool))[0])

    @property
    def output(self) -> float:
        """Value of all: the study's own logit."""
        return float(self.subject.logits[self.column])


def _key(coalition: NDArray[np.bool_]) -> bytes:
    return np.packbits(coalition).tobytes()


ROWS = 1 << 16
"""Clinical vectors that go through the fusion together."""


class ClinicalGame(Game):
    """Clinical features as players; that one is missing is a value like any other."""

    modality: Modality = "tabular"

    def __init__(self, subject: Subject, target: Target, watch: Progress = NO_PROGRESS) -> None:
        super().__init__(subject, target, watch)
        bundle = subject.bundle
        assert subject.batch.tabular is not None
        self.vector = subject.batch.tabular
        self.others = torch.from_numpy(bundle.clinical.apply(bundle.background))
        owners = bundle.clinical.owners
        self._names = bundle.task.clinical_names
        self._owner = torch.tensor([self._names.index(owner) for owner in owners])
        self.BATCH = max(1, ROWS // len(self.others))

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def kind(self) -> str:
        return "clinical"

    def _logits(self, stored: Coalitions) -> NDArray[np.float64]:
        columns = torch.from_numpy(stored)[:, self._owner]  # (K, T)
        rows = torch.where(columns[:, None], self.vector[None], self.others[None])
        logits = self.subject.of_clinical(rows.flatten(0, 1))
        means: NDArray[np.float64] = logits.reshape(*rows.shape[:2], -1).mean(axis=1)
        return means


Nested = int | tuple["Nested", "Nested"]


def balanced(parts: Sequence[Nested]) -> Nested:
    """Neighbours in pairs, pairs in pairs, until one is left; not empty."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return balanced(parts[:half]), balanced(parts[half:])


def bisected(positions: NDArray[np.float64]) -> Nested:
    """Parts at positions (n, 2) halved across the longer side of what they cover, recursively."""

    def halve(parts: NDArray[np.intp]) -> Nested:
        if len(parts) == 1:
            return int(parts[0])
        own = positions[parts]
        axis = int(np.ptp(own, axis=0).argmax())
        order = parts[np.lexsort((own[:, 1 - axis], own[:, axis]))]
        half = len(order) // 2
        return halve(order[:half]), halve(order[half:])

    return halve(np.arange(len(positions)))


def linkage(tree: Nested, leaves: int) -> NDArray[np.float64]:
    """Rows [left, right, height, size], children before parents, as scipy has hierarchies."""
    rows: list[list[float]] = []

    def visit(node: Nested) -> tuple[int, int, int]:
        if isinstance(node, int):
            return node, 0, 1
        (left, low, few), (right, high, many) = visit(node[0]), visit(node[1])
        height = max(low, high) + 1
        rows.append([left, right, height, few + many])
        return leaves + len(rows) - 1, height, few + many

    visit(tree)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


Regions = NDArray[np.int64]
BLUR = 0.08
"""Standard deviation of the blur as a share of the square's side: large forms stay, findings go."""


def grid(subject: Subject, cells: int) -> Regions:
    """Squares of equal size over the image, about `cells` along its longer side: (S, S), -1 beside
    the image."""
    rows, columns = subject.image_box
    height, width = rows.stop - rows.start, columns.stop - columns.start
    side = max(height, width) / cells
    down, across = (max(1, round(length / side)) for length in (height, width))
    row = np.minimum(np.arange(height) * down // height, down - 1)
    column = np.minimum(np.arange(width) * across // width, across - 1)
    return _placed(subject, row[:, None] * across + column[None, :])


def superpixels(subject: Subject, count: int) -> Regions:
    """About `count` regions of like grey (SLIC: Achanta et al. 2012), as `grid` has them."""
    from skimage.segmentation import slic

    rows, columns = subject.image_box
    assert subject.batch.image is not None
    pixels = subject.batch.image[0, 0, rows, columns].numpy()
    found = slic(pixels, n_segments=count, compactness=0.1, channel_axis=None, start_label=0)
    return _placed(subject, np.unique(found, return_inverse=True)[1].reshape(found.shape))


def _placed(subject: Subject, inside: NDArray[np.integer]) -> Regions:
    size = subject.bundle.size
    regions = np.full((size, size), -1, dtype=np.int64)
    regions[subject.image_box] = inside
    return regions


def background(subject: Subject) -> Tensor:
    """What replaces a region that is removed (1, 1, S, S): the bundle's baseline image, resized to
    this radiograph's box in the square; without one a strong blur of this radiograph."""
    image, radiograph = subject.batch.image, subject.bundle.baseline_image
    assert image is not None
    if radiograph is None:
        return blurred(image)
    rows, columns = subject.image_box
    inside = resize(radiograph, (rows.stop - rows.start, columns.stop - columns.start))
    square = np.zeros(radiograph.shape, dtype=np.uint8)
    square[subject.image_box] = inside
    return normalise(square[None])


def blurred(images: Tensor) -> Tensor:
    """Strong blur of images (B, 1, S, S)."""
    from torchvision.transforms.functional import gaussian_blur

    size = images.shape[-1]
    spread = BLUR * size
    kernel = 2 * min(round(3 * spread), (size - 1) // 2) + 1
    found: Tensor = gaussian_blur(images, [kernel, kernel], [spread, spread])
    return found


class ImageGame(Game):
    """Regions of the image as players.

    Args:
        subject, target, watch: as of `Game`.
        regions: (S, S) from 0 to n - 1; what is -1 is never removed.
    """

    modality: Modality = "image"
    BATCH = 32

    def __init__(
        self, subject: Subject, target: Target, regions: Regions, watch: Progress = NO_PROGRESS
    ) -> None:
        super().__init__(subject, target, watch)
        assert subject.batch.image is not None
        self.image, self.regions = subject.batch.image, regions
        self.fill = background(subject)
        self.count = int(regions.max()) + 1
        self._kind = f"image {hash(regions.tobytes())}"
        self._where = torch.from_numpy(np.where(regions < 0, self.count, regions))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"region {k}" for k in range(self.count))

    @property
    def kind(self) -> str:
        return self._kind

    @cached_property
    def tree(self) -> NDArray[np.float64]:  # type: ignore[override]
        """Regions by the positions of their centres."""
        centres = np.array([np.argwhere(self.regions == k).mean(0) for k in range(self.count)])
        return linkage(bisected(centres), self.count)

    def painted(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """One value a region (n,) → (S, S), 0 beside the image."""
        with_margin = np.append(values, 0.0).astype(np.float32)
        painted: NDArray[np.float32] = with_margin[self._where.numpy()]
        return painted

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean (n,) of a map (S, S) over each region."""
        inside = self.regions >= 0
        where = self.regions[inside]
        sums = np.bincount(where, weights=values[inside].astype(np.float64), minlength=self.count)
        return sums / np.bincount(where, minlength=self.count)

    def _logits(self, stored: Coalitions) -> NDArray[np.float64]:
        present = torch.from_numpy(np.pad(stored, ((0, 0), (0, 1)), constant_values=True))
        pixels = present[:, self._where.flatten()].reshape(len(stored), 1, *self._where.shape)
        images = torch.where(pixels, self.image, self.fill)
        return self.subject.of_images(images)


SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+|\n+")
WORD = re.compile(r"\S*\w\S*")
PHRASES = tuple(
    cue.split()
    for cue in (
        "no evidence of",
        "no sign of",
        "no signs of",
        "negative for",
        "free of",
        "absence of",
        "ruled out",
        "rule out",
        "denies",
        "denied",
        "without",
        "never",
        "not",
        "nor",
        "no",
    )
)
"""Longer ones first."""
BOUNDS = "and or but with in on at of for to from is are was were be has have had as then who which"
ENDS = frozenset(BOUNDS.split())
REACH = 3
"""Words behind a cue that belong to it at most."""


def sentences(note: str) -> list[list[str]]:
    """Units of each sentence that has any; what the task hides is left out.

    Joined with spaces, they are the note as the encoder reads it, but for lone punctuation.
    """
    found = [_units(sentence) for sentence in SENTENCE_ENDS.split(note)]
    return [units for units in found if units]


def _units(sentence: str) -> list[str]:
    stretches = [WORD.findall(stretch) for stretch in sentence.split(MASK)]
    return [unit for words in stretches for unit in _joined(words)]


def _joined(words: list[str]) -> list[str]:
    units: list[str] = []
    position = 0
    while position < len(words):
        length = _negated(words[position:])
        units.append(" ".join(words[position : position + length]))
        position += length
    return units


def _negated(words: list[str]) -> int:
    """How many words from the first on are one unit."""
    plain = [word.lower().strip(".,;:!?()") for word in words]
    for template in PHRASES:
        if plain[: len(template)] == template:
            return len(template) + _reach(words[len(template) :], plain[len(template) :])
    return 1


def _reach(words: list[str], plain: list[str]) -> int:
    for count, (word, raw) in enumerate(zip(words[:REACH], plain, strict=False)):
        if raw in ENDS:
            return count
        if word != word.rstrip(".,;:!?"):
            return count + 1
    return min(REACH, len(words))


class NoteGame(Game):
    """Words as players, a negated phrase as one, sentence by sentence.

    Raises:
        NoteError: there is no word in the note.
    """

    modality: Modality = "note"
    BATCH = 64

    def __init__(self, subject: Subject, target: Target, watch: Progress = NO_PROGRESS) -> None:
        super().__init__(subject, target, watch)
        found = sentences(subject.note)
        self._names = tuple(unit for sentence in found for unit in sentence)
        if not self._names:
            raise NoteError("there is no word in it to explain", field="note")
        self.tree = linkage(balanced(_branches(found)), len(self._names))

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def kind(self) -> str:
        return "note"

    def _logits(self, stored: Coalitions) -> NDArray[np.float64]:
        notes = [
            " ".join(unit for unit, present in zip(self._names, row, strict=True) if present)
            for row in stored
        ]
        return self.subject.of_notes(notes)


def _branches(found: Sequence[Sequence[str]]) -> list[Nested]:
    branches: list[Nested] = []
    first = 0
    for sentence in found:
        branches.append(balanced(range(first, first + len(sentence))))
        first += len(sentence)
    return branches
