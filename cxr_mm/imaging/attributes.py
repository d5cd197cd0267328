"""Attributes of a DICOM image: what is needed is completed or named, what is optional never fails.

An optional attribute that is empty or unreadable counts as absent, with a warning. Warnings name
attributes by keyword and never quote a value.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from cxr_mm.core.errors import RadiographError

REQUIRED = ("Rows", "Columns", "BitsAllocated")
LUT_DESCRIPTOR = 3
"""Values of LUTDescriptor: number of entries, first value that is mapped, bits of an entry."""


@dataclass(frozen=True)
class LookupTable:
    """A modality or VOI LUT (PS3.3 C.11.1.1.1): the values from `first` on map to `entries`."""

    first: int
    entries: NDArray[np.uint16]

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Map values of any shape; those beyond either end map to the entry there."""
        position = np.rint(values.astype(np.float64)) - self.first
        index = np.clip(position, 0, len(self.entries) - 1).astype(np.int64)
        return np.asarray(self.entries[index])


@dataclass
class Attributes:
    """The attributes of one image, and the warnings that reading them gave.

    Args:
        dataset: changed in place where `complete` fills in what is missing.
    """

    dataset: Dataset
    warnings: list[str] = field(default_factory=list)

    def complete(self, name: str) -> None:
        """Fill in what decoding needs and the file leaves out, where it follows from the rest.

        Raises:
            RadiographError: an attribute is missing without which the pixels mean nothing.
        """
        for keyword in REQUIRED:
            if self._whole(keyword) is None:
                raise RadiographError(
                    f"the DICOM file does not state {keyword}",
                    field=name,
                    remedy="Export the file again from its archive",
                )
        self._complete_syntax()
        self._complete_colour()
        self._complete_bits()

    def _complete_syntax(self) -> None:
        meta = self.dataset.file_meta
        if meta.get("TransferSyntaxUID"):
            return
        implicit, little = self.dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        self._assume("TransferSyntaxUID", meta.TransferSyntaxUID.name)

    def _complete_colour(self) -> None:
        if self._whole("SamplesPerPixel") is None:
            self.dataset.SamplesPerPixel = 1
        stated = code_string(self.dataset, "PhotometricInterpretation")
        if not stated:
            stated = "MONOCHROME2" if self.dataset.SamplesPerPixel == 1 else "RGB"
            self._assume(
                "PhotometricInterpretation", f"{stated}, so black and white may be swapped"
            )
        self.dataset.PhotometricInterpretation = stated

    def _complete_bits(self) -> None:
        allocated = int(self.dataset.BitsAllocated)
        stored, high = self._whole("BitsStored"), self._whole("HighBit")
        if stored is None or not 1 <= stored <= allocated:
            stored = allocated
            self._assume("BitsStored", str(stored))
        if high is None or not stored - 1 <= high < allocated:
            high = stored - 1
        sign = self._whole("PixelRepresentation")
        if sign not in (0, 1):
            sign = 0
            self._assume("PixelRepresentation", "unsigned")
        ds = self.dataset
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = stored, high, sign

    def _assume(self, keyword: str, value: str) -> None:
        self.warnings.append(f"The file does not state {keyword}; taken as {value}")

    def _ignore(self, keyword: str) -> None:
        warning = f"{keyword} is empty or not readable, and is ignored"
        if warning not in self.warnings:
            self.warnings.append(warning)

    def numbers(self, keyword: str) -> list[float]:
        """Finite numbers of an attribute; none where it is absent or unreadable."""
        if keyword not in self.dataset:
            return []
        try:
            values = np.atleast_1d(self.dataset[keyword].value)
            # A decimal comma is no DS of the standard, yet its meaning is plain.
            numbers = [float(str(value).strip().replace(",", ".")) for value in values]
        except (TypeError, ValueError, OverflowError):
            numbers = []
        if not numbers or not np.isfinite(numbers).all():
            self._ignore(keyword)
            return []
        return numbers

    def number(self, keyword: str, default: float) -> float:
        """The first number of an attribute, or the default."""
        return next(iter(self.numbers(keyword)), default)

    def _whole(self, keyword: str) -> int | None:
        value = self.dataset.get(keyword)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def tables(self, keyword: str, *, signed: bool) -> Iterator[LookupTable]:
        """Readable lookup tables of a sequence, in order.

        Args:
            keyword: of the sequence.
            signed: whether the values that it maps may be negative, whatever its own VR.
        """
        if keyword not in self.dataset:
            return
        for item in self.dataset.get(keyword) or ():
            table = self._table(item, signed)
            if table is not None:
                yield table
                continue
            self._ignore(keyword)

    def _table(self, item: Dataset, signed: bool) -> LookupTable | None:
        try:
            count, first, _ = (int(n) for n in item.LUTDescriptor[:LUT_DESCRIPTOR])
            data = item.LUTData
        except (AttributeError, TypeError, ValueError):
            return None
        count = count or 1 << 16
        if signed and first >= 1 << 15:  # written as US
            first -= 1 << 16
        _, little = self.dataset.original_encoding
        words = np.asarray(data, np.uint16) if isinstance(data, list) else data
        raw = (
            words
            if isinstance(words, bytes)
            else words.astype("<u2" if little else ">u2").tobytes()
        )
        # The width of an entry follows from the length: LUTDescriptor is often wrong about it.
        wide = len(raw) >= 2 * count
        if not wide and len(raw) < count:
            return None
        kind = ("<u2" if little else ">u2") if wide else "u1"
        return LookupTable(first, np.frombuffer(raw, kind, count).astype(np.uint16))


def code_string(dataset: Dataset, keyword: str) -> str:
    """A code string in capitals; empty where it is absent or not one value."""
    value = dataset.get(keyword)
    return value.strip().upper() if isinstance(value, str) else ""


def stored_values(frame: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Read the stored values out of a decoded frame (PS3.5 8.1.1).

    Bits outside BitsStored, such as overlays of old files, are dropped whatever the codec left of
    them; the rest is moved down from HighBit and its sign extended.

    Args:
        frame: (H, W) cells of BitsAllocated as they were decoded.
        dataset: whose attributes are complete.
    """
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    wide: NDArray[Any] = frame.astype(np.int64 if allocated > 16 else np.int32)
    cells = wide & ((1 << allocated) - 1)
    syntax = dataset.file_meta.TransferSyntaxUID
    by_codec = syntax.is_compressed and syntax != RLELossless
    if not by_codec or cells.max(initial=0) >> bits:  # else the codec has moved them down
        cells >>= int(dataset.HighBit) + 1 - bits
    return from_cells(cells, dataset)


def from_cells(cells: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Keep BitsStored of each cell, as two's complement where the image is signed."""
    bits = int(dataset.BitsStored)
    values = cells & ((1 << bits) - 1)
    if dataset.PixelRepresentation:
        half = 1 << (bits - 1)
        values = (values ^ half) - half
    return np.asarray(values)
