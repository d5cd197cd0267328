"""Film wire: a film, or why there is none, through a pipe: a length, JSON, plain numbers.

No pickle: a decoder led astray can hand in a wrong film and nothing else.
"""

import json
import math
import os
import select
import struct
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cxr_mm.data.dimensions import MAX_PIXELS
from cxr_mm.data.radiograph import Film, Radiograph
from cxr_mm.data.window import Viewable
from cxr_mm.errors import RadiographError

_LENGTH = struct.Struct("<I")


def sent(film: Film) -> Iterator[bytes | memoryview]:
    """Length, JSON, and the arrays that it announces."""
    yield _announced(_told(film))
    small = film.viewable
    for array in (film.radiograph.pixels, small.values, small.seen):
        yield np.ascontiguousarray(array).data


def refused(error: RadiographError) -> bytes:
    """What is sent where there is no film."""
    told = {"message": error.message, "field": error.field, "remedy": error.remedy}
    return _announced({"error": told})


def _announced(told: dict[str, Any]) -> bytes:
    text = json.dumps(told).encode()
    return _LENGTH.pack(len(text)) + text


def _told(film: Film) -> dict[str, Any]:
    """All of a film but its arrays."""
    radiograph, small = film.radiograph, film.viewable
    return {
        "radiograph": {
            "view": radiograph.view,
            "header": radiograph.header,
            "quality": radiograph.quality,
            "warnings": radiograph.warnings,
        },
        "window": {"centre": small.centre, "width": small.width, "inverted": small.inverted},
        "shape": radiograph.pixels.shape,
        "small": small.values.shape,
    }


def received(pipe: int, deadline: float) -> Film:
    """What `sent` sent.

    Args:
        pipe: file descriptor to read from.
        deadline: of `time.monotonic()`.

    Raises:
        RadiographError: what `refused` sent.
        TimeoutError, EOFError: past the deadline, or the other end is closed.
        LookupError, TypeError, ValueError: it is no film.
    """
    (length,) = _LENGTH.unpack(_array(pipe, deadline, (_LENGTH.size,), np.uint8).tobytes())
    told = json.loads(_array(pipe, deadline, (length,), np.uint8).tobytes())
    if "error" in told:
        raise RadiographError(**told["error"])
    pixels = _array(pipe, deadline, told["shape"], np.float32)
    values = _array(pipe, deadline, told["small"], np.float32)
    seen = _array(pipe, deadline, told["small"], np.uint8)
    warned = tuple(told["radiograph"].pop("warnings"))
    return Film(
        Radiograph(pixels, warnings=warned, **told["radiograph"]),
        Viewable(values, seen, **told["window"]),
    )


def _array(pipe: int, deadline: float, shape: Any, kind: DTypeLike) -> NDArray[Any]:
    """An array filled from the pipe.

    Raises:
        TimeoutError, EOFError: past the deadline, or the other end is closed.
        ValueError: no film has that many pixels.
    """
    if math.prod(shape) > MAX_PIXELS:
        raise ValueError(shape)
    array = np.empty(shape, kind)
    left = array.reshape(-1).view(np.uint8).data
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while left:
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        count = os.readv(pipe, [left])
        if not count:
            raise EOFError
        left = left[count:]
    return array
