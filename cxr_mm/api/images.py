"""Images in memory: each becomes the bytes of a file, and is then read as every file is."""

import copy
import os
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cxr_mm.core.errors import InputError, RadiographError
from cxr_mm.core.shards.store import place_of
from cxr_mm.imaging.dicom import PREAMBLE, UNREADABLE
from cxr_mm.imaging.radiograph import Radiograph, read_radiograph

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Dataset
"""A path; the bytes of a PNG, JPEG or DICOM file; a PIL image; a pydicom dataset; or an array with
air dark: uint8 (H, W), (H, W, 3) or (H, W, 4), uint16 (H, W), or float (H, W) in [0, 1], which is
rounded to 8 bits. NumPy, torch and other arrays are taken."""
KINDS = "a path, the bytes of a file, a PIL image, an array or a pydicom Dataset"
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of PIL that a PNG holds as they are."""


def reader_of(image: Any) -> Callable[[], Radiograph]:
    """What reads an image when it is needed.

    Args:
        image: as `ImageInput` says.

    Raises:
        InputError: it is of no such type.
        RadiographError: when it is read: a fault of the file, or of the array's shape or values.
    """
    if isinstance(image, str | os.PathLike):
        return partial(read_radiograph, place_of(os.fspath(image)))
    if not _is_image(image):
        raise _no_image(image)
    return lambda: read_radiograph(file_of(image), "image")


def _is_image(image: object) -> bool:
    known = isinstance(image, bytes | bytearray | Image.Image | Dataset)
    return known or hasattr(image, "__array__")


def _no_image(image: object) -> InputError:
    return InputError(
        f"{type(image).__name__} is no type of image", field="image", remedy=f"Give {KINDS}"
    )


def file_of(image: Any) -> bytes:
    """The bytes of a PNG or DICOM file that holds an image in memory.

    Args:
        image: as `ImageInput` says, other than a path.

    Raises:
        InputError: it is of no such type.
        RadiographError: an array of another shape or type, or with values out of range; a dataset
            that cannot be written.
    """
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, Image.Image):
        return _png_of_picture(image)
    if isinstance(image, Dataset):
        return _dicom(image)
    if not _is_image(image):
        raise _no_image(image)
    return _png(Image.fromarray(_grey_levels(np.squeeze(np.asarray(image)))))


def _png_of_picture(picture: Image.Image) -> bytes:
    if picture.mode in ("F", "I"):  # no PNG holds 32 bits
        values = np.asarray(picture)
        return file_of(values.astype(np.uint16) if picture.mode == "I" else values)
    upright = ImageOps.exif_transpose(picture)
    return _png(upright if upright.mode in MODES else upright.convert("RGB"))


def _png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _grey_levels(values: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """An array as a PNG holds it; floats in [0, 1] become 8 bits."""
    if not values.size:
        raise RadiographError(
            "the array has no pixels", field="image", remedy="Give an array (H, W)"
        )
    colour = values.ndim == 3 and values.shape[-1] in (3, 4)
    if values.dtype == np.uint8 and (values.ndim == 2 or colour):
        return values
    if values.dtype == np.uint16 and values.ndim == 2:
        return values
    if values.ndim != 2 or values.dtype.kind != "f":
        raise RadiographError(
            f"an array of {values.dtype} {values.shape} is no radiograph",
            field="image",
            remedy="Give uint8 (H, W) or (H, W, 3), uint16 (H, W), or float (H, W) in [0, 1]",
        )
    if not (values.min() >= 0 and values.max() <= 1):
        raise RadiographError(
            "the array has values outside of 0 to 1, or NaN",
            field="image",
            remedy="Scale floats to [0, 1], air dark; whole numbers are given as uint8 or uint16",
        )
    eight_bits: NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return eight_bits


def _dicom(dataset: Dataset) -> bytes:
    """The bytes of a dataset's file; the dataset itself is not changed."""
    whole = copy.copy(dataset)
    whole.file_meta = copy.copy(getattr(dataset, "file_meta", FileMetaDataset()))
    whole.preamble = bytes(PREAMBLE)
    if "TransferSyntaxUID" not in whole.file_meta:
        whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    try:
        whole.save_as(stream)
    except UNREADABLE as error:
        # Not chained: these messages may quote the header, names included.
        raise RadiographError(
            f"the dataset cannot be written as a DICOM file ({type(error).__name__})",
            field="image",
            remedy="Give the path of the file that it was read from",
        ) from None
    return stream.getvalue()
