"""multipart/related (RFC 2387) in pieces: each part goes to a file of bounded size."""

import secrets
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

TYPE = "application/dicom"
MOST_PARTS = 1000
ENDING = ".part"


class BadMultipartError(Exception):
    """A body that is no multipart/related of DICOM objects, and why."""


@dataclass(frozen=True)
class Part:
    """One part of a body.

    Args:
        path: its file; None where it was larger than allowed.
        kind: its content type, lower case without parameters.
    """

    path: Path | None
    kind: str


class PartFiles:
    """Writes the parts of a body to files, which are removed when the context ends.

    Args:
        content_type: of the body.
        folder: where files are written.
        part_bytes: of one part, beyond which it is dropped.

    Raises:
        BadMultipartError: the content type is another one, or names no boundary.
    """

    def __init__(self, content_type: str, folder: Path, part_bytes: int) -> None:
        self._folder, self._most = folder, part_bytes
        self._parts: list[Part] = []
        self._open: BinaryIO | None = None
        self._path: Path | None = None
        self._size, self._is_complete = 0, False
        self._name, self._value, self._kind = b"", b"", ""
        self._parser = MultipartParser(_boundary(content_type), self._callbacks())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._open.close()
        for path in [self._path, *(part.path for part in self._parts)]:
            if path is not None:
                path.unlink(missing_ok=True)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises:
            BadMultipartError: it cannot be understood, or has too many parts.
            OSError: the disk cannot be written.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise BadMultipartError("the parts cannot be told apart") from None

    def parts(self) -> list[Part]:
        """Every part, once the body has ended.

        Raises:
            BadMultipartError: it broke off.
        """
        if not self._is_complete:
            raise BadMultipartError("it broke off before its end")
        return list(self._parts)

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._write,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self._parts) >= MOST_PARTS:
            raise BadMultipartError(f"it has more than {MOST_PARTS} parts")
        self._path = self._folder / f"{secrets.token_hex(16)}{ENDING}"
        self._open, self._size, self._kind = self._path.open("wb"), 0, ""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-type":
            self._kind = _parsed(self._value.decode("latin-1")).get_content_type()
        self._name = self._value = b""

    def _write(self, data: bytes, start: int, end: int) -> None:
        assert self._open is not None
        self._size += end - start
        if self._size <= self._most:
            self._open.write(data[start:end])

    def _end_part(self) -> None:
        assert self._open is not None
        assert self._path is not None
        self._open.close()
        is_small = self._size <= self._most
        if not is_small:
            self._path.unlink()
        self._parts.append(Part(self._path if is_small else None, self._kind))
        self._open = self._path = None

    def _end(self) -> None:
        self._is_complete = True


def _boundary(content_type: str) -> bytes:
    message = _parsed(content_type)
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str):
        raise BadMultipartError("the content type is not multipart/related with a boundary")
    kind = message.get_param("type", TYPE)
    if not isinstance(kind, str) or kind.lower() != TYPE:
        raise BadMultipartError(f"the type of the parts is not {TYPE}")
    if not boundary or len(boundary) > 70 or not boundary.isascii():
        raise BadMultipartError("the boundary is invalid")
    return boundary.encode()


def _parsed(content_type: str) -> Message:
    message = Message()
    message["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")
    return message


def body_of(data: bytes, boundary: str) -> bytes:
    """A body of one part that is a DICOM object."""
    head = f"--{boundary}\r\nContent-Type: {TYPE}\r\n\r\n".encode()
    return head + data + f"\r\n--{boundary}--\r\n".encode()
