"""Hostile objects: a small radiograph whose data set is cut short, lies or is a bomb.

Elements are written by hand, since no library writes what a hostile peer sends.
"""

import functools
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)
from pynetdicom import _config
from pynetdicom.dsutils import encode

from benchmarks.system.pacs_hostile import mutated
from benchmarks.system.pacs_peers import associated

SYNTAXES = (
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)
EACH, AT_ONCE = 100, 2
"""Objects by one association, and associations at once."""
HEAD = 1200
"""Bytes at the start of a data set among which one is changed: pixels are noise anyway."""
INFLATED, RARE = 512, 1000
"""Mebibytes that a deflated bomb grows to, and of how many objects one is such."""
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
"""Value representations whose length has four bytes (PS3.5 7.1.2)."""
SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS = (
    0x00280002,
    0x00280004,
    0x00280008,
    0x00280010,
    0x00280011,
)
ALLOCATED, STORED, HIGH, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
CENTRE, WIDTH, INTERCEPT, SLOPE = 0x00281050, 0x00281051, 0x00281052, 0x00281053
DESCRIPTOR, DATA, VOI_LUTS, MODALITY_LUTS = 0x00283002, 0x00283006, 0x00283010, 0x00283000
PALETTES, ENTRIES = (0x00281101, 0x00281102, 0x00281103), (0x00281201, 0x00281202, 0x00281203)
PIXELS = 0x7FE00010
PATHS = (b"../../../../etc/passwd", b"/etc/passwd", b"..", b"1.2/../../3", b"1.2.", b"C:\\1.2")
NUMBERS = (b"1e999", b"-1e308", b"nan", b"inf", b"0", b"-1", b"", b"1\\2\\3", b"abc", b"9" * 60)


@dataclass(frozen=True)
class Element:
    """One element of a data set as it is sent.

    Args:
        length: that it states; None states that of the value.
    """

    vr: bytes
    value: bytes
    length: int | None = None


Elements = dict[int, Element]
"""Tag → element."""


@dataclass(frozen=True)
class Hostile:
    """An object as it is sent: UID and transfer syntax of the request, and the data set."""

    uid: str
    syntax: str
    data: bytes


def written(elements: Elements) -> bytes:
    """Elements in Explicit VR Little Endian, lies included."""
    found = []
    for tag, element in sorted(elements.items()):
        length = len(element.value) if element.length is None else element.length
        form, more = ("<HI", (0,)) if element.vr in LONG else ("<H", ())
        size = struct.pack(form, *more, length if more else length & 0xFFFF)
        found.append(struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, element.vr) + size)
        found.append(element.value)
    return b"".join(found)


def elements_of(image: Dataset) -> Elements:
    """Elements of an image without sequences."""
    data, at, found = encode(image, False, True), 0, Elements()
    assert data is not None
    while at < len(data):
        group, number, vr = struct.unpack_from("<HH2s", data, at)
        form, start = ("<I", at + 12) if vr in LONG else ("<H", at + 8)
        (length,) = struct.unpack_from(form, data, start - struct.calcsize(form))
        at = start + length
        found[group << 16 | number] = Element(vr, data[start:at])
    return found


def _us(*values: int) -> Element:
    return Element(b"US", struct.pack(f"<{len(values)}H", *values))


def _text(vr: bytes, value: bytes) -> Element:
    return Element(vr, value + b" " * (len(value) % 2))


def _item(elements: Elements) -> Element:
    """A sequence of one item."""
    data = written(elements)
    return Element(b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data)


def _frame(data: bytes) -> Element:
    """Compressed pixels of one frame."""
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(d)) + d for d in (b"", data))
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return Element(b"OB", items + end, 0xFFFFFFFF)


# What is changed. Each takes the elements of a proper object and gives hostile ones.


def _long_lengths(base: Elements, draw: random.Random) -> Elements:
    tag = draw.choice(list(base))
    vr, length = draw.choice(LONG), draw.choice((0xFFFFFFFE, 0xFFFFFFFF, 0x7FFFFFFF))
    return base | {tag: Element(vr, base[tag].value, length)}


def _wrong_vr(base: Elements, draw: random.Random) -> Elements:
    tags = draw.sample(list(base), draw.randint(1, 3))
    kinds = (b"SQ", b"UN", b"OB", b"DS", b"IS", b"FD", b"AT", b"US", b"UI", b"PN", b"??", b"\0\0")
    return base | {tag: Element(draw.choice(kinds), base[tag].value) for tag in tags}


def _sizes(base: Elements, draw: random.Random) -> Elements:
    sizes = (0, 1, 63, 65, 8191, 65535)
    return base | {ROWS: _us(draw.choice(sizes)), COLUMNS: _us(draw.choice((0, 65, 65535)))}


def _bits(base: Elements, draw: random.Random) -> Elements:
    tags = draw.sample((SAMPLES, ALLOCATED, STORED, HIGH, SIGNED), draw.randint(1, 3))
    return base | {tag: _us(draw.choice((0, 1, 3, 7, 17, 64, 65535))) for tag in tags}


def _frames(base: Elements, draw: random.Random) -> Elements:
    numbers = (b"0", b"-1", b"2", b"1000", b"2147483647", b"1e9", b"abc", b"", b"1\\2")
    return base | {FRAMES: _text(b"IS", draw.choice(numbers))}


def _windows(base: Elements, draw: random.Random) -> Elements:
    tags = (CENTRE, WIDTH, INTERCEPT, SLOPE)
    return base | {tag: _text(b"DS", draw.choice(NUMBERS)) for tag in tags}


def _tables(base: Elements, draw: random.Random) -> Elements:
    descriptor = _us(*(draw.choice((0, 1, 256, 65535)) for _ in range(draw.choice((2, 3)))))
    values = Element(b"OW", bytes(2 * draw.choice((0, 1, 100))))
    table = _item({DESCRIPTOR: descriptor, DATA: values})
    return base | {draw.choice((VOI_LUTS, MODALITY_LUTS)): table}


def _palettes(base: Elements, draw: random.Random) -> Elements:
    bits = draw.choice((8, 16, 17))
    descriptor = _us(draw.choice((0, 1, 256)), draw.choice((0, 65535)), bits)
    found = base | {PHOTOMETRIC: _text(b"CS", b"PALETTE COLOR")}
    found |= dict.fromkeys(PALETTES, descriptor)
    return found | {tag: Element(b"OW", bytes(2 * draw.choice((0, 1, 256)))) for tag in ENTRIES}


def _paths(base: Elements, draw: random.Random) -> Elements:
    return base | {tag: _text(b"UI", draw.choice(PATHS)) for tag in (SOP_CLASS, STUDY, SERIES)}


CHANGES: tuple[Callable[[Elements, random.Random], Elements], ...] = (
    _long_lengths,
    _wrong_vr,
    _sizes,
    _bits,
    _frames,
    _windows,
    _tables,
    _palettes,
    _paths,
)


def _cut_short(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _noisy(data: bytes, draw: random.Random) -> bytes:
    return mutated(data[:HEAD], draw) + data[HEAD:]


def _jpeg_bomb(base: Elements, draw: random.Random) -> bytes:
    """A frame whose own header, and mostly also that of the file, says that it is huge."""
    side = draw.choice((64, 7000, 65500))
    header = struct.pack(">BBHBHHBBBB", 0xFF, 0xC0, 11, 8, 65500, 65500, 1, 1, 0x11, 0)
    frame = b"\xff\xd8" + header + draw.randbytes(300) + b"\xff\xd9"
    return written(base | {ROWS: _us(side), COLUMNS: _us(side), PIXELS: _frame(frame)})


def _run_bomb(base: Elements, draw: random.Random) -> bytes:
    """Run lengths of which there are too many or too few, in as many segments as are said."""
    header = struct.pack(
        "<16I", draw.choice((0, 2, 15, 64)), 64, *[draw.choice((64, 1 << 31))] * 14
    )
    frame = header + bytes((0x81, 0)) * draw.choice((1, 5000))
    return written(base | {PIXELS: _frame(frame)})


@functools.cache
def _zeros(mebibytes: int) -> bytes:
    """Zeros deflated, without the end of the stream."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join(deflate.compress(bytes(1 << 20)) for _ in range(mebibytes)) + deflate.flush()


def _deflated_bomb(base: Elements) -> bytes:
    """A data set that grows a thousandfold and more when it is inflated."""
    head = {tag: element for tag, element in base.items() if tag != PIXELS}
    data = written(head | {PIXELS: Element(b"OW", b"", INFLATED << 20)})
    # Stored blocks that are not the last (RFC 1951 3.2.4), before those of the zeros.
    return struct.pack("<BHH", 0, len(data), len(data) ^ 0xFFFF) + data + _zeros(INFLATED)


def objects(image: Dataset, number: int, draw: random.Random) -> Iterator[Hostile]:
    """So many hostile objects, each under a UID of its own.

    Args:
        image: a proper object without sequences.
    """
    proper = elements_of(image)
    for index in range(number):
        uid = str(generate_uid(entropy_srcs=[f"hostile {index}", str(draw.random())]))
        value = uid.encode() + b"\0" * (len(uid) % 2)
        base = proper | {SOP_INSTANCE: Element(b"UI", value)}
        if index % RARE == RARE - 1:
            yield Hostile(uid, DeflatedExplicitVRLittleEndian, _deflated_bomb(base))
            continue
        yield _drawn(uid, base, draw)


def _drawn(uid: str, base: Elements, draw: random.Random) -> Hostile:
    plain = ExplicitVRLittleEndian
    match draw.randrange(len(CHANGES) + 5):
        case 0:
            return Hostile(uid, plain, _cut_short(written(base), draw))
        case 1:
            return Hostile(uid, plain, _noisy(written(base), draw))
        case 2:
            return Hostile(uid, JPEGBaseline8Bit, _jpeg_bomb(base, draw))
        case 3:
            return Hostile(uid, RLELossless, _run_bomb(base, draw))
        case 4:
            path = draw.choice(PATHS[:-1]).decode()  # a backslash would part two values
            return Hostile(path, plain, written(base | {SOP_INSTANCE: _text(b"UI", path.encode())}))
        case other:
            return Hostile(uid, plain, written(CHANGES[other - 5](base, draw)))


def send(port: int, folder: Path, hostile: Sequence[Hostile]) -> list[int | None]:
    """Send objects by a few associations at once.

    Args:
        port: of the node.
        folder: for the files that they are sent from.

    Returns:
        The status of each; None where the association ended instead, twice.
    """
    _config.STORE_SEND_CHUNKED_DATASET = True  # the file as it is, not decoded first
    parts = [hostile[start : start + EACH] for start in range(0, len(hostile), EACH)]
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(partial(_sent, port, folder), range(len(parts)), parts)
        return [status for each in found for status in each]


def _sent(port: int, folder: Path, number: int, hostile: Sequence[Hostile]) -> list[int | None]:
    association, found = associated(port, syntaxes=SYNTAXES), list[int | None]()
    path = folder / f"{number}.dcm"
    for each in hostile:
        path.write_bytes(_file(each))
        status = _status(association, path)
        if status is None:  # it has ended, as one that was idle for too long: peers send again
            association = associated(port, syntaxes=SYNTAXES)
            status = _status(association, path)
        found.append(status)
    association.release()
    path.unlink()
    return found


def _status(association: Any, path: Path) -> int | None:
    try:
        status: int | None = association.send_c_store(path).get("Status")
    except RuntimeError:
        return None
    return status


def _file(hostile: Hostile) -> bytes:
    """The file that an object is sent from (PS3.10 7.1)."""
    uids = {0x00020002: "1.2.840.10008.5.1.4.1.1.1.1", 0x00020003: hostile.uid}
    meta = {tag: _uid(uid) for tag, uid in (uids | {0x00020010: str(hostile.syntax)}).items()}
    length = Element(b"UL", struct.pack("<I", len(written(meta))))
    return bytes(128) + b"DICM" + written({0x00020000: length} | meta) + hostile.data


def _uid(text: str) -> Element:
    return Element(b"UI", text.encode() + b"\0" * (len(text) % 2))
