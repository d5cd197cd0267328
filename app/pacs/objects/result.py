"""What the objects tell of one radiograph: the answer, its model, the region and the picture."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.pacs.objects.uids import derived_uid
from cxr_mm.core.errors import InputError
from cxr_mm.core.prediction import Answer
from cxr_mm.core.task import Task
from cxr_mm.imaging.geometry import shrink

FEWEST_CORNERS, MOST_CORNERS = 3, 1000
"""An explicit VR FL holds 8191 points at most; a viewer needs far fewer."""
LONGEST, TOLERANCE = 512, 0.4
"""Longer side of the mask that is outlined, and how far the outline may depart in its pixels."""


@dataclass(frozen=True)
class Region:
    """The region of the image with the strongest influence on one finding.

    Args:
        finding: name of the finding.
        method: title of the method that found it; its faithfulness must have passed.
        corners: (column, row) of each corner in pixels of the source as stored, without the first
            again at the end; (0, 0) is the upper left corner of the first pixel, and
            (columns, rows) the lower right corner of the last.
    """

    finding: str
    method: str
    corners: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.corners) < FEWEST_CORNERS:
            raise InputError(
                f"an outline has at least {FEWEST_CORNERS} corners, not {len(self.corners)}",
                field="corners",
                remedy="Give no region where there is none",
            )

    @classmethod
    def of_mask(
        cls,
        finding: str,
        method: str,
        mask: NDArray[np.bool_],
        shape: tuple[int, int] | None = None,
    ) -> Self | None:
        """Outline the largest connected part of a mask over the source.

        Args:
            finding, method: of the region.
            mask: (H, W), the source in any size.
            shape: rows and columns of the source as stored; None for those of the mask.

        The outline runs half-way between pixels in and out of the mask, simplified; holes are part
        of the region. None if the mask is empty.
        """
        from skimage.measure import approximate_polygon, find_contours  # slow to import

        small = shrink(mask.astype(np.float32), LONGEST)
        lines = find_contours(np.pad(small, 1), 0.5)
        if not lines:
            return None
        outline, tolerance = max(lines, key=_area), TOLERANCE
        while len(corners := approximate_polygon(outline, tolerance)) > MOST_CORNERS:
            tolerance *= 2
        # Centres of pixels are at a half in DICOM; the padding moved them by one.
        scale = np.asarray(shape or mask.shape) / small.shape
        places = (corners[:-1] - 0.5) * scale
        return cls(finding, method, tuple((float(x), float(y)) for y, x in places))

    @property
    def closed(self) -> NDArray[np.float64]:
        """The corners, the first again at the end: (N + 1, 2)."""
        return np.asarray([*self.corners, self.corners[0]], dtype=np.float64)


def _area(line: NDArray[np.float64]) -> float:
    x, y = line[:, 0], line[:, 1]
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)


@dataclass(frozen=True)
class Result:
    """What is told of one radiograph.

    Args:
        answer: what the model said.
        task: of the model; findings without a code get a private one.
        digest: of the model (sha256, hexadecimal).
        region: None if no faithful method found one.
        picture: float32 (H, W) in [0, 1], the image as read; None without a picture.
        map_image: uint8 (H, W, 3), the picture as seen with the map over it and a colour bar beside
            it, as `cxr_mm.explain.overlay` draws them; None without a picture.
        map_title: what the map shows and how faithful it is; empty without a map.
        warnings: besides those of the prediction.
        configuration: digest of whatever else decides the content of the objects, as the rules.
        predecessor: SOP instance UID of the report that this one replaces; empty for none.
    """

    answer: Answer
    task: Task
    digest: str
    region: Region | None = None
    picture: NDArray[np.float32] | None = None
    map_image: NDArray[np.uint8] | None = None
    map_title: str = ""
    warnings: tuple[str, ...] = ()
    configuration: str = ""
    predecessor: str = ""

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Every warning once, the prediction's first."""
        return tuple(dict.fromkeys((*self.answer.prediction.warnings, *self.warnings)))

    def tracking_uid(self, image: str, finding: str) -> str:
        """What a finding of an image (SOP instance UID) is tracked by in every object."""
        return derived_uid(image, self.digest, self.configuration, "tracking", finding)
