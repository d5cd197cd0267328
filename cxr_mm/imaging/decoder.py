"""A pool of sandboxed processes that read uploaded images, within limits of time, memory and size.

A file that hangs, outgrows or ends its decoder is a fault of that file alone.
"""

import pkgutil
import queue
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.dicom import too_large
from cxr_mm.imaging.radiograph import DecodedImage, Radiograph
from cxr_mm.imaging.sandbox import MIB, Message, ProcessLimits, Worker
from cxr_mm.imaging.voi import Viewable

READER = "cxr_mm.imaging.radiograph:read_image"
FITTING_READER = "cxr_mm.imaging.radiograph:read_fitted"


@dataclass(frozen=True)
class Limits(ProcessLimits):
    """Limits for uploads; those for one of them are the `ProcessLimits`.

    Args:
        file: bytes of a file.
        workers: processes that read.
        waiting: uploads that may wait for one of them.
    """

    file: int = 64 * MIB
    workers: int = 2
    waiting: int = 16


class Decoder:
    """Reads images in sandboxed processes.

    Args:
        limits: for uploads.
        reader: `module:function` that the processes call; takes and raises what `read_image` does.
    """

    def __init__(self, limits: Limits = Limits(), reader: str = READER) -> None:
        self.limits, self._reader = limits, reader
        self._workers = [Worker(f"{__name__}:decode", limits) for _ in range(limits.workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last used is warm
        for worker in self._workers:
            self._idle.put(worker)
        self._slots = threading.BoundedSemaphore(limits.workers + limits.waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, path: Path, name: str, **options: int) -> DecodedImage:
        """Read one image; safe for threads.

        Args:
            path: the file.
            name: how errors call it.
            options: further arguments of the reader.

        Raises:
            RadiographError: what `read_image` raises; the image exceeds a limit, or its decoder
                ended; too many wait; or the decoder is closed.
        """
        if path.is_file() and path.stat().st_size > self.limits.file:
            raise too_large(f"more than {self.limits.file // MIB} MiB", name)
        if not self._slots.acquire(blocking=False):
            raise RadiographError(
                "too many images wait to be read", field=name, remedy="Try again in a minute"
            )
        worker = self._idle.get()
        try:
            fields = {"reader": self._reader, "path": str(path), "name": name, "options": options}
            return worker.call(Message(fields), from_message)
        finally:
            self._idle.put(worker)
            self._slots.release()

    def close(self) -> None:
        """End the processes; a read under way fails."""
        for worker in self._workers:
            worker.close()


def decode(request: Message) -> Message:
    """Read the image that a request names; called in the sandboxed process."""
    fields = request.fields
    read = pkgutil.resolve_name(fields["reader"])
    return to_message(read(Path(fields["path"]), fields["name"], **fields["options"]))


def to_message(image: DecodedImage) -> Message:
    """An image as a message."""
    radiograph, small = image.radiograph, image.viewable
    fields = {
        "view": radiograph.view,
        "header": radiograph.header,
        "quality": radiograph.quality,
        "warnings": radiograph.warnings,
        "fitted": radiograph.fitted,
        "shape": radiograph.shape,
    }
    if image.drawn is not None:
        return Message({"radiograph": fields}, (radiograph.pixels, image.drawn))
    if small is None:
        return Message({"radiograph": fields}, (radiograph.pixels,))
    window = {"centre": small.centre, "width": small.width, "inverted": small.inverted}
    arrays = (radiograph.pixels, small.values, small.seen)
    return Message({"radiograph": fields, "window": window}, arrays)


def from_message(message: Message) -> DecodedImage:
    """The image of `to_message`.

    Raises:
        LookupError, TypeError, ValueError: it is no image.
    """
    pixels, *small = message.arrays
    if pixels.dtype != np.float32 or pixels.ndim != 2:
        raise TypeError(pixels.dtype)
    fields = dict(message.fields["radiograph"])
    for name in ("warnings", "shape"):  # JSON has no tuples
        fields[name] = None if fields[name] is None else tuple(fields[name])
    radiograph = Radiograph(pixels, **fields)
    if not small:
        return DecodedImage(radiograph)
    if "window" not in message.fields:
        (drawn,) = small
        return DecodedImage(radiograph, drawn=drawn)
    values, seen = small
    return DecodedImage(radiograph, Viewable(values, seen, **message.fields["window"]))
