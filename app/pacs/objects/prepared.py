"""Prepared objects: built once by their library, and filled in with other values afterwards.

highdicom copies and checks each content item several times, and pydicom looks at every element
again as it writes: tens of milliseconds for a report that differs from the one before in a few
numbers and identifiers. So an object is built from its content alone, a frozen dataclass, some of
whose fields vary. The library builds it once for each combination of the other fields, with a mark
in place of each varying value; where a mark comes out is where later values are put. What is not
declared to vary makes another object, so that nothing can be left over from an earlier one.
"""

import dataclasses
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr, write_data_element
from pydicom.multival import MultiValue
from pydicom.valuerep import DS, EXPLICIT_VR_LENGTH_32

VARIES = "varies"
MOST_PREPARED = 64
"""Objects of one kind that are kept: a node has a few models, and warnings come in few numbers."""
PREAMBLE = bytes(128) + b"DICM"
META_GROUP, META_LENGTH = 0x0002, 0x00020000
UNDEFINED = 0xFFFFFFFF
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
TEXT_MARK = "9000010100"
"""Start of marks that any value representation of text allows: a time in the year 9000."""
INTEGER_MARK = 30_000
"""First of the marks for numbers of pixels."""
Elements = Mapping[int, bytes]
"""Tag → element in explicit VR little endian."""
Content = TypeVar("Content")
Leaf = str | int | float | NDArray[Any]
T = TypeVar("T")
Varying = Annotated[T, VARIES]
"""Type of a field whose values differ from object to object; None is another object."""


def elements_of(dataset: Dataset) -> dict[int, bytes]:
    """Encode each element of a data set in UTF-8 and explicit VR little endian."""
    return {int(element.tag): _encoded(element) for element in dataset}


def file_of(elements: Elements) -> bytes:
    """The file (PS3.10) of encoded elements, those of its meta information included."""
    meta = [elements[tag] for tag in sorted(elements) if tag >> 16 == META_GROUP]
    data = [elements[tag] for tag in sorted(elements) if tag >> 16 != META_GROUP]
    length = struct.pack("<I", sum(map(len, meta)))
    return b"".join([PREAMBLE, encoded_value(META_LENGTH, "UL", length), *meta, *data])


class Prepared(Generic[Content]):
    """Objects of one kind.

    Args:
        build: makes one of its content, and of nothing else, by a library; it may put varying
            values in the object, but compute nothing from them.
    """

    def __init__(self, build: Callable[[Content], Dataset]) -> None:
        self._build = build
        self._templates: dict[Any, _Template] = {}

    def elements(self, content: Content) -> dict[int, bytes]:
        """Every element of the object, encoded; its file meta information is among them."""
        values: list[Leaf] = []
        shape = _shape(content, values)
        if shape not in self._templates:
            if len(self._templates) >= MOST_PREPARED:
                self._templates.clear()
            marks = _Marks()
            self._templates[shape] = _Template(self._build(_marked(content, marks)), marks)
        return self._templates[shape].filled(values)


def _shape(value: Any, values: list[Leaf], *, varies: bool = False) -> Any:
    """All of a content but what varies, which is added to `values` in the order of fields.

    Not the content itself, since codes of another meaning are equal to pydicom.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(getattr(value, name), own) for name, own in _fields(type(value))]
        return tuple(_shape(part, values, varies=varies or own) for part, own in parts)
    if isinstance(value, tuple):
        return tuple(_shape(part, values, varies=varies) for part in value)
    if not varies or value is None:
        return value
    values.append(value)
    return type(value)


def _marked(value: Any, marks: "_Marks", *, varies: bool = False) -> Any:
    """The content with a mark in place of each value of `_shape`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(getattr(value, name), own) for name, own in _fields(type(value))]
        return type(value)(*(_marked(part, marks, varies=varies or own) for part, own in parts))
    if isinstance(value, tuple):
        changed = [_marked(part, marks, varies=varies) for part in value]
        return type(value)._make(changed) if hasattr(value, "_make") else tuple(changed)
    return value if not varies or value is None else marks.next(value)


@cache
def _fields(kind: type) -> tuple[tuple[str, bool], ...]:
    """Name of each field of a dataclass, and whether it varies."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        (field.name, VARIES in getattr(hints[field.name], "__metadata__", ()))
        for field in dataclasses.fields(kind)
    )


class _Marks:
    """Marks handed out for leaves, and which leaf each is for."""

    def __init__(self) -> None:
        self._leaves: dict[str | float, int] = {}
        self._arrays: set[int] = set()

    def next(self, leaf: Leaf) -> Leaf:
        """The mark of the next leaf, of its type and within what libraries accept."""
        number = len(self._leaves)
        if isinstance(leaf, str):
            text = f"{TEXT_MARK}{number // 60:02}{number % 60:02}"
            self._leaves[text] = number
            return type(leaf)(text)
        if isinstance(leaf, int):
            self._leaves[float(INTEGER_MARK + number)] = number
            return INTEGER_MARK + number
        fraction = 0.5 + (2 * number + 1) / 2**14  # exact in 32 bits, and as decimal string
        self._leaves[fraction] = number
        if isinstance(leaf, float):
            return fraction
        self._arrays.add(number)
        return np.array([[fraction, fraction], [fraction, 1.0], [fraction, fraction]])

    def found(self, element: DataElement) -> tuple[int, ...]:
        """The leaves that an element holds; empty for none."""
        value = element.value
        parts = list(value) if isinstance(value, (list, MultiValue)) else [value]
        leaves = [self._leaf(part) for part in parts]
        if leaves and leaves[0] in self._arrays:
            leaves = leaves[:1]
        found = tuple(leaf for leaf in leaves if leaf is not None)
        if len(found) not in (0, len(leaves)) or (not found and TEXT_MARK in str(value)):
            raise ValueError(f"{element.keyword} is computed from what varies")
        return found

    def _leaf(self, part: Any) -> int | None:
        if isinstance(part, str):
            return self._leaves.get(part)
        return self._leaves.get(float(part)) if isinstance(part, (int, float)) else None


@dataclass(frozen=True)
class _Blank:
    """An element to be filled in, with the leaves that it gets."""

    tag: int
    vr: str
    leaves: tuple[int, ...]

    def filled(self, values: list[Leaf]) -> bytes:
        return encoded_value(
            self.tag, self.vr, _value(self.vr, [values[leaf] for leaf in self.leaves])
        )


class _Template:
    """An object with marks, in pieces."""

    def __init__(self, built: Dataset, marks: _Marks) -> None:
        correct_ambiguous_vr(built, True)
        self._pieces = {
            int(element.tag): _joined(_pieces(element, marks))
            for dataset in (built.file_meta, built)
            for element in dataset
            if element.tag != META_LENGTH
        }

    def filled(self, values: list[Leaf]) -> dict[int, bytes]:
        return {
            tag: b"".join(p if isinstance(p, bytes) else p.filled(values) for p in pieces)
            for tag, pieces in self._pieces.items()
        }


def _pieces(element: DataElement, marks: _Marks) -> Iterator[bytes | _Blank]:
    """An element as what stays and what is filled in; sequences are of undefined length."""
    if element.VR == "SQ":
        yield _header(int(element.tag), "SQ", UNDEFINED)
        for item in element.value:
            yield ITEM
            for inner in item:
                yield from _pieces(inner, marks)
            yield ITEM_END
        yield SEQUENCE_END
    elif leaves := marks.found(element):
        yield _Blank(int(element.tag), element.VR, leaves)
    else:
        yield _encoded(element)


def _joined(pieces: Iterable[bytes | _Blank]) -> list[bytes | _Blank]:
    """The pieces with neighbours that stay as one."""
    found: list[bytes | _Blank] = []
    for stays, run in groupby(pieces, lambda piece: isinstance(piece, bytes)):
        neighbours: list[Any] = list(run)
        found += [b"".join(neighbours)] if stays else neighbours
    return found


def _encoded(element: DataElement) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_data_element(stream, element, ["utf8"])
    return bytes(stream.getvalue())


def encoded_value(tag: int, vr: str, value: bytes | memoryview) -> bytes:
    """Encode an element whose value is encoded already, but not padded."""
    padding = (b"\0" if vr in ("UI", "OB") else b" ") * (len(value) % 2)
    return b"".join((_header(tag, vr, len(value) + len(padding)), value, padding))


def _header(tag: int, vr: str, length: int) -> bytes:
    """Tag, VR and length (PS3.5 7.1.2)."""
    form = "<HH2sHI" if vr in EXPLICIT_VR_LENGTH_32 else "<HH2sH"
    more = (0, length) if vr in EXPLICIT_VR_LENGTH_32 else (length,)
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr.encode(), *more)


def _value(vr: str, values: list[Any]) -> bytes:
    if (kind := NUMBERS.get(vr)) is not None:
        return np.asarray(values, kind).tobytes()
    if vr == "DS":
        values = [DS(value, auto_format=True) for value in values]
    return "\\".join(str(value) for value in values).encode()


NUMBERS = {"FL": "<f4", "FD": "<f8", "SL": "<i4", "US": "<u2"}
"""Binary value representations that may vary."""
