"""Decoding: uploaded images are read in processes apart, within limits of time, memory and size.

A file that hangs, outgrows or ends its decoder is a fault of that file alone. What comes back is
JSON and plain numbers (see `image_wire`).
"""

import contextlib
import json
import math
import os
import pkgutil
import queue
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from app.upload_cache import UploadCache
from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.dicom import too_large
from cxr_mm.imaging.image_header import MAX_PIXELS
from cxr_mm.imaging.radiograph import DecodedImage, Radiograph
from cxr_mm.imaging.voi import Viewable

_LENGTH = struct.Struct("<I")


def sent(image: DecodedImage) -> Iterator[bytes | memoryview]:
    """Length, JSON, and the arrays that it announces."""
    yield _announced(_told(image))
    small = image.viewable
    for array in (image.radiograph.pixels, small.values, small.seen):
        yield np.ascontiguousarray(array).data


def refused(error: RadiographError) -> bytes:
    """What is sent where there is no image."""
    told = {"message": error.message, "field": error.field, "remedy": error.remedy}
    return _announced({"error": told})


def _announced(told: dict[str, Any]) -> bytes:
    text = json.dumps(told).encode()
    return _LENGTH.pack(len(text)) + text


def _told(image: DecodedImage) -> dict[str, Any]:
    """All of an image but its arrays."""
    radiograph, small = image.radiograph, image.viewable
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


def received(pipe: int, deadline: float) -> DecodedImage:
    """What `sent` sent.

    Args:
        pipe: file descriptor to read from.
        deadline: of `time.monotonic()`.

    Raises:
        RadiographError: what `refused` sent.
        TimeoutError, EOFError: past the deadline, or the other end is closed.
        LookupError, TypeError, ValueError: it is no image.
    """
    (length,) = _LENGTH.unpack(_array(pipe, deadline, (_LENGTH.size,), np.uint8).tobytes())
    told = json.loads(_array(pipe, deadline, (length,), np.uint8).tobytes())
    if "error" in told:
        raise RadiographError(**told["error"])
    pixels = _array(pipe, deadline, told["shape"], np.float32)
    values = _array(pipe, deadline, told["small"], np.float32)
    seen = _array(pipe, deadline, told["small"], np.uint8)
    warned = tuple(told["radiograph"].pop("warnings"))
    return DecodedImage(
        Radiograph(pixels, warnings=warned, **told["radiograph"]),
        Viewable(values, seen, **told["window"]),
    )


def _array(pipe: int, deadline: float, shape: Any, kind: DTypeLike) -> NDArray[Any]:
    """An array filled from the pipe.

    Raises:
        TimeoutError, EOFError: past the deadline, or the other end is closed.
        ValueError: no image has that many pixels.
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


READER = "cxr_mm.imaging.radiograph:read_image"
MIB = 1024**2
OWN_MEMORY = Path("/proc/self/statm")
"""Pages that a process has, where the system tells."""


@dataclass(frozen=True)
class Limits:
    """What uploads may take.

    Args:
        seconds: for reading one, the start of a process included.
        memory: bytes beyond those of the idle process; not held where there is no `/proc`.
        file: bytes of a file.
        workers: processes that read.
        waiting: uploads that may wait for one of them.
    """

    seconds: float = 20.0
    memory: int = 2048 * MIB
    file: int = 64 * MIB
    workers: int = 2
    waiting: int = 16


class Decoder:
    """Reads images in processes of its own, started when they are first needed.

    Args:
        limits: what an upload may take.
        reader: `module:function` that the processes call; takes and raises what `read_image` does.
    """

    def __init__(self, limits: Limits = Limits(), reader: str = READER) -> None:
        self.limits = limits
        self._workers = [_Worker(limits, reader) for _ in range(limits.workers)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()  # the last used is warm
        for worker in self._workers:
            self._idle.put(worker)
        self._kept = UploadCache()
        self._places = threading.BoundedSemaphore(limits.workers + limits.waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, path: Path, name: str) -> DecodedImage:
        """Read one image, or give back the one just read for this visitor; safe for threads.

        Args:
            path: the file.
            name: how errors call it.

        Raises:
            RadiographError: what `read_image` raises; the image is beyond a limit, or its decoder
                ended; too many wait; or the decoder is closed.
        """
        if path.is_file() and path.stat().st_size > self.limits.file:
            raise too_large(f"more than {self.limits.file // MIB} MiB", name)
        return self._kept.read(path, name, self._decoded)

    def _decoded(self, path: Path, name: str) -> DecodedImage:
        if not self._places.acquire(blocking=False):
            raise RadiographError(
                "too many images wait to be read", field=name, remedy="Try again in a minute"
            )
        worker = self._idle.get()
        try:
            return worker.read(path, name)
        finally:
            self._idle.put(worker)
            self._places.release()

    def close(self) -> None:
        """End the processes; a read under way fails."""
        self._kept.clear()
        for worker in self._workers:
            worker.close()
        for worker in [self._idle.get() for _ in self._workers]:
            worker.end()
            self._idle.put(worker)


class _Worker:
    """A process that reads images and the pipes to it; one image at a time."""

    def __init__(self, limits: Limits, reader: str) -> None:
        self._limits, self._reader = limits, reader
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._starting = threading.Lock()

    def read(self, path: Path, name: str) -> DecodedImage:
        deadline = time.monotonic() + self._limits.seconds
        requests, answers = self._alive(name)
        try:
            os.write(requests, json.dumps([str(path), name]).encode() + b"\n")
            return received(answers, deadline)
        except RadiographError:
            raise
        except TimeoutError:
            message = f"takes more than {self._limits.seconds:g} seconds to decode"
        except (OSError, EOFError, LookupError, TypeError, ValueError):
            message = "ended the process that decoded it"
        except BaseException:
            self.end()  # The rest of its answer is no answer to the next.
            raise
        self.end()
        raise _undecodable(message, name)

    def close(self) -> None:
        """Kill the process, whoever waits for it, and start no other."""
        with self._starting:
            self._closed = True
            self._kill()

    def end(self) -> None:
        """Kill the process and close the pipes to it; only for whom it works for."""
        self._kill()
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and those that it started itself

    def _alive(self, name: str) -> tuple[int, int]:
        """Pipes to and from the process, started anew where it has died."""
        with self._starting:
            if self._closed:
                raise RadiographError(
                    "no more images are read", field=name, remedy="Start the server again"
                )
            if self._process is not None and self._process.poll() is not None:
                self.end()
            if self._process is None:
                self._process = self._started()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            return self._process.stdin.fileno(), self._process.stdout.fileno()

    def _started(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cxr_mm.imaging.decoder",
                self._reader,
                str(self._limits.memory),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders quote headers
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
            bufsize=0,
        )


def _undecodable(message: str, name: str) -> RadiographError:
    return RadiographError(
        message, field=name, remedy="Export the image again, uncompressed or as PNG"
    )


def _serve(reader: str, memory: int) -> None:
    """Read images until the other end hangs up."""
    read = pkgutil.resolve_name(reader)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a decoder prints is no answer
    _confine(memory)
    for line in sys.stdin.buffer:
        path, name = json.loads(line)
        for part in _answer(read, Path(path), name):
            answers.write(part)
        answers.flush()


def _confine(memory: int) -> None:
    """Nothing written to files, no core dump with a patient in it, `memory` bytes on top."""
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    if OWN_MEMORY.exists():
        own = int(OWN_MEMORY.read_text().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = own + memory
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _answer(
    read: Callable[[Path, str], DecodedImage], path: Path, name: str
) -> Iterator[bytes | memoryview]:
    """What is sent of an image, or why there is none."""
    try:
        yield from sent(read(path, name))
    except RadiographError as error:
        yield refused(error)
    except MemoryError:
        yield refused(_undecodable("takes too much memory to decode", name))


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
