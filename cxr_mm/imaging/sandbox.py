"""Decoding in a process apart, for encodings whose only decoder may end the process it runs in.

gdcm 3 aborts on some damaged JPEG frames (a C++ exception crosses libjpeg); an app or a stage must
outlive that. One child is kept per process and started again when it has died.
"""

import atexit
import io
import struct
import subprocess
import sys
import threading
from typing import IO, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import pixel_array

SECONDS = 60.0
"""After which a frame counts as impossible to decode."""
_LENGTH = struct.Struct("<Q")


class _Child:
    """A decoding process and the pipes to it; one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes) -> bytes:
        with self._lock:
            process = self._alive()
            assert process.stdin is not None
            assert process.stdout is not None
            deadline = threading.Timer(SECONDS, process.kill)
            deadline.start()
            try:
                _send(process.stdin, data)
                return _receive(process.stdout)
            except (BrokenPipeError, EOFError):
                self.close()
                return b""
            finally:
                deadline.cancel()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _alive(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cxr_mm.imaging.sandbox"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


_child = _Child()
atexit.register(_child.close)


def decode_sandboxed(data: bytes) -> NDArray[Any] | None:
    """First frame of a DICOM file as stored, or None where it cannot be decoded in a minute.

    Args:
        data: the whole file, with a transfer syntax that pydicom hands to gdcm.
    """
    answer = _child.decode(data)
    return np.load(io.BytesIO(answer), allow_pickle=False) if answer else None


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    data = stream.read(_LENGTH.size)
    if len(data) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(data)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the parent hangs up; nothing for what pydicom cannot decode."""
    while True:
        try:
            data = _receive(requests)
        except EOFError:
            return
        answer = io.BytesIO()
        try:
            np.save(answer, pixel_array(pydicom.dcmread(io.BytesIO(data)), index=0))
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            answer = io.BytesIO()
        _send(answers, answer.getvalue())


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
