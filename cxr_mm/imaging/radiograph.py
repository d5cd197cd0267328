"""A PNG, JPEG or DICOM file → one radiograph for the model, and a copy for the viewer.

The format is detected by the first bytes, never by the file name.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cxr_mm.core.errors import RadiographError
from cxr_mm.core.files import shortened
from cxr_mm.imaging.burnt_in_text import model_square
from cxr_mm.imaging.dicom import Header, is_dicom, read_dicom, too_large
from cxr_mm.imaging.geometry import copy_to_draw
from cxr_mm.imaging.image_header import (
    JPEG_START,
    MAX_BYTES,
    MAX_PIXELS,
    PNG_SIGNATURE,
    declared_size,
    is_deep_colour,
)
from cxr_mm.imaging.quality import image_quality
from cxr_mm.imaging.voi import (
    COLOURED,
    Unwindowed,
    Viewable,
    is_coloured,
    luminance,
    robust_white,
    spanning,
    viewable,
)

SMALLEST_SIDE = 16
"""Pixels of the shorter side below which an image is an error."""
SMALL_SIDE = 128
"""Pixels of the shorter side below which there is a warning."""
BLANK_CONTRAST = 0.05
"""Spread between the 5th and 95th percentile below which an image is almost blank."""
SWAPPED = 0.3
"""Brightness of the upper corners above the middle from which black and white may be swapped;
0 of 2,190 images of three public sets exceed it, and most of them do when inverted."""
FEW_LEVELS = 24
"""Grey levels up to which an image has lost what a radiograph shows."""
SPARSELY = 8
"""Step between pixels that show more levels than that in nearly every image, so that the others
need not be counted."""
JPEG_END, MISSING_GREY = b"\xff\xd9", 128
LATERAL = ("LL", "RL", "LAT", "LATERAL", "L", "LLD", "RLD")
UNREADABLE = (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on a damaged PNG or JPEG (a damaged chunk is a SyntaxError to it)."""


@dataclass(frozen=True)
class Radiograph:
    """One image.

    Args:
        pixels: float32 (H, W) in [0, 1], MONOCHROME2 (air dark).
        view: view position as DICOM has it (PA, AP, LL, …), or None.
        header: other fields of a DICOM header that identify no one: `age` (years), `sex`,
            `dicom_modality`, `body_part`; empty for PNG and JPEG.
        quality: see `image_quality`.
        warnings: for a person who reads the prediction.
        fitted: whether the pixels are the square that a model sees instead.
        shape: height and width of the image before it was fitted, where that is known.
    """

    pixels: NDArray[np.float32]
    view: str | None = None
    header: Header = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    fitted: bool = False
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class DecodedImage:
    """One image for the model, and what was made of it besides.

    Args:
        radiograph: for the model.
        viewable: copy for the viewer; None where no one views it.
        drawn: `copy_to_draw` of an image that was fitted; None of any other.
    """

    radiograph: Radiograph
    viewable: Viewable | None = None
    drawn: NDArray[np.float32] | None = None


def read_radiograph(source: Path | str | bytes, name: str = "") -> Radiograph:
    """Read and decode one image; safe to call from several threads.

    Args:
        source: a file, a URL (text), or its bytes.
        name: how errors call it; the path where it is empty.

    Raises:
        RadiographError: no such file, neither PNG, JPEG nor DICOM, damaged, or too large.
        InputError: as `read_url`.
    """
    return _read(source, name)[0]


def read_image(source: Path | bytes, name: str = "") -> DecodedImage:
    """Read an image as `read_radiograph` does, with a copy for the viewer."""
    radiograph, values = _read(source, name)
    return DecodedImage(radiograph, viewable(values, radiograph.pixels))


def read_fitted(source: Path | bytes, name: str, size: int, *, mask_text: bool) -> DecodedImage:
    """Read an image as `read_radiograph` does, of which only the square that one model sees and a
    copy to draw on are kept, which are small, for where they go to another process.

    Args:
        source, name: as `read_radiograph`.
        size, mask_text: as `model_square`.
    """
    image = read_radiograph(source, name)
    height, width = image.pixels.shape
    square = model_square(image.pixels, size, mask_text=mask_text).astype(np.float32)
    fitted = replace(image, pixels=square / np.float32(255), fitted=True, shape=(height, width))
    return DecodedImage(fitted, drawn=copy_to_draw(image.pixels))


def _read(source: Path | str | bytes, name: str) -> tuple[Radiograph, Unwindowed]:
    if isinstance(source, str):
        from cxr_mm.imaging.urls import read_url  # pyarrow, which no file needs

        data = read_url(source)
    else:
        data = source if isinstance(source, bytes) else read_bytes(source, name)
    name = name or ("image" if isinstance(source, bytes) else str(source))
    header: Header = {}
    if is_dicom(data):
        pixels, values, header, warned = read_dicom(data, name)
    elif data.startswith((PNG_SIGNATURE, JPEG_START)):
        pixels, values, warned = _read_picture(data, name)
    else:
        raise _not_an_image(data, name)
    if min(pixels.shape) < SMALLEST_SIDE:
        raise RadiographError(
            f"{pixels.shape[0]} × {pixels.shape[1]} pixels are too few to see anything",
            field=name,
            remedy="Give the image itself, not a thumbnail",
        )
    view = header.pop("view", None)
    quality = image_quality(pixels)
    warned = [*warned, *_unusual(pixels, quality, view)]
    stated = None if view is None else str(view)
    return Radiograph(pixels, stated, header, quality, tuple(warned)), values


def read_bytes(path: Path, name: str = "") -> bytes:
    """The bytes of an image file.

    Raises:
        RadiographError: the file is missing, no file, not readable or too large.
    """
    name = name or shortened(path)
    try:
        if not path.is_file():
            what = "a folder, not a file" if path.is_dir() else "no such file"
            raise RadiographError(what, field=name, remedy="Check the path")
        if path.stat().st_size > MAX_BYTES:
            raise too_large(f"more than {MAX_BYTES // 1024**2} MiB", name)
        return path.read_bytes()
    except OSError as error:
        raise RadiographError(
            f"cannot be read ({error.strerror})", field=name, remedy="Check its permissions"
        ) from error


_Picture = tuple[NDArray[np.float32], Unwindowed, list[str]]


def _read_picture(data: bytes, name: str) -> _Picture:
    """PNG or JPEG → pixels in [0, 1], values before the window, and warnings."""
    size = declared_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise too_large(f"{size[0]} × {size[1]} pixels", name)
    try:
        if is_deep_colour(data):
            return _deep_colour(data)
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise too_large(f"{image.height} × {image.width} pixels", name)
            return _grey(ImageOps.exif_transpose(_loaded(image, data)))
    except UNREADABLE as error:
        raise RadiographError(
            "the image is damaged or cut short",
            field=name,
            remedy="Copy or export the file again",
        ) from error


def _loaded(image: Image.Image, data: bytes) -> Image.Image:
    """Decode an image; a JPEG that lacks nothing but its end mark counts as whole."""
    try:
        image.load()
        return image
    except OSError:
        if not data.startswith(JPEG_START) or data.endswith(JPEG_END):
            raise
    with Image.open(io.BytesIO(data + JPEG_END), formats=["JPEG"]) as ended:
        ended.load()
        # libjpeg fills what is missing with mid-grey, and a progressive one blurs it.
        last = np.asarray(ended.convert("L"))[-8:, -8:]
        if "progressive" in ended.info or np.all(last == MISSING_GREY):
            raise OSError("the image ends before its last rows")
        return ended.copy()


def _deep_colour(data: bytes) -> _Picture:
    """PNG of 16 bits a channel, of which Pillow reads the upper eight alone."""
    import cv2  # by no other file

    colour = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if colour is None or colour.ndim != 3:
        raise ValueError("no colour image")
    if colour.shape[2] == 4:
        colour = (colour[..., :3] * (colour[..., 3:] / np.float32(65535))).astype(np.uint16)
    white = robust_white(colour)
    grey = luminance(colour[..., ::-1], white)
    warned = [COLOURED] if is_coloured(colour, white) else []
    return grey, _whole(grey * np.float32(white), white), warned


def _grey(image: Image.Image) -> _Picture:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        white = robust_white(values)
        return np.clip(values / np.float32(white), 0, 1), _whole(values, white), []
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    if image.mode in ("1", "L"):
        values = np.asarray(image.convert("L"), np.float32)
        return values / np.float32(255), _whole(values, 255), []
    colour = np.asarray(image.convert("RGB"))
    grey = luminance(colour)
    return grey, _whole(grey * np.float32(255), 255), [COLOURED] if is_coloured(colour) else []


def _whole(values: NDArray[np.float32], white: int) -> Unwindowed:
    return Unwindowed(values, *spanning(0, white))


def _not_an_image(data: bytes, name: str) -> RadiographError:
    if not data:
        return RadiographError("the file is empty", field=name, remedy="Copy it again")
    return RadiographError(
        "neither a PNG, a JPEG nor a DICOM file, whatever it is called",
        field=name,
        remedy="Export the image as one of these (DICOM with its 128-byte preamble)",
    )


def _unusual(
    pixels: NDArray[np.float32], quality: dict[str, float], view: str | float | None
) -> list[str]:
    result = []
    if view in LATERAL:
        result.append(f"View is {view} (lateral); models here are for frontal images")
    if min(pixels.shape) < SMALL_SIDE:
        result.append(f"The image is small: {pixels.shape[0]} × {pixels.shape[1]} pixels")
    if (levels := _grey_levels(pixels[::SPARSELY, ::SPARSELY])) <= FEW_LEVELS:
        levels = _grey_levels(pixels)
    if levels <= FEW_LEVELS:
        result.append(f"The image has only {levels} grey levels")
    if quality["contrast"] < BLANK_CONTRAST:
        result.append("The image is almost blank")
    if quality["inversion"] > SWAPPED:
        result.append("Black and white may be swapped")
    return result


def _grey_levels(pixels: NDArray[np.float32]) -> int:
    """Different levels of an image of 8 bits."""
    return int(np.count_nonzero(np.bincount(np.rint(pixels * 255).astype(np.uint8).ravel())))
