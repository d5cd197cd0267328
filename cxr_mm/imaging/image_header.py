"""Dimensions that an encoded image declares, read before it is decoded.

PNG (ISO/IEC 15948), JPEG (ITU-T T.81), JPEG-LS (T.87) and JPEG 2000 codestreams (T.800).
"""

import struct

MAX_BYTES = 512 * 1024**2
"""Largest file that is read."""
MAX_PIXELS = 50_000_000
"""Largest image that is decoded, rows × columns × frames."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"
JPEG_2000_START = b"\xff\x4f\xff\x51"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_END_OF_HEADERS = (0xD9, 0xDA)
_PRECISIONS = range(2, 17)
"""Bits per sample of the JPEG family; a decoder may end the process on any other."""


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns that the header of an image states.

    Args:
        data: PNG or JPEG file, or one JPEG, JPEG-LS or JPEG 2000 codestream.

    Returns:
        (rows, columns), or None for another format, or a header that is cut short or damaged.
    """
    if data.startswith(PNG_SIGNATURE):
        return _png(data)
    if data.startswith(JPEG_START):
        return _jpeg(data)
    at = data.find(JPEG_2000_START, 0, 4096)
    return _jpeg_2000(data, at) if at >= 0 else None


def is_deep_colour(data: bytes) -> bool:
    """Whether the data are a PNG of 16 bits in each of several channels."""
    several = (2, 4, 6)  # colour types: RGB, grey with alpha, RGB with alpha
    return data.startswith(PNG_SIGNATURE) and data[24:25] == b"\x10" and data[25] in several


def _png(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    columns, rows = struct.unpack_from(">II", data, 16)
    return rows, columns


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = len(JPEG_START)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAME_HEADERS:
            precision, rows, columns = struct.unpack_from(">BHH", data, at + 4)
            return (rows, columns) if precision in _PRECISIONS else None
        if marker in _END_OF_HEADERS:
            return None
        if marker == 0xFF:
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _jpeg_2000(data: bytes, at: int) -> tuple[int, int] | None:
    if len(data) < at + 24:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    return bottom - top, right - left
