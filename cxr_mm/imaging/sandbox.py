"""A sandboxed process for decoders that may hang, outgrow the memory or abort on a damaged file.

`Worker` starts the process and sends it requests; requests and answers are one `Message` each:
the length of a JSON text, the JSON text, and the arrays that it announces. No pickle: a process
that a damaged file has taken over can send numbers only. The pool that reads uploads (`decoder`)
and the decoding of single DICOM frames (`dicom`) both use it.
"""

import contextlib
import json
import math
import os
import pkgutil
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.allocator import keep_freed_memory
from cxr_mm.core.errors import RadiographError, UndecodedError
from cxr_mm.imaging.image_header import MAX_BYTES

MIB = 1024**2
SANDBOXED = "CXR_MM_SANDBOXED"
"""Environment variable that is set in a sandboxed process."""
OWN_MEMORY = Path("/proc/self/statm")
"""Number of memory pages of the process, where the system has /proc."""
PIPE_BYTES = MIB
"""Of the pipes, where the system lets them be set: an image then takes fewer switches between the
processes."""
REMEDY = "export the image again, uncompressed or as PNG"
_LENGTH = struct.Struct("<Q")
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class ProcessLimits:
    """Limits for one request.

    Args:
        seconds: for the answer, the start of the process included.
        memory: bytes beyond those of the idle process; not enforced where there is no `/proc`.
    """

    seconds: float = 20.0
    memory: int = 2048 * MIB


@dataclass(frozen=True)
class Message:
    """A request or an answer.

    Args:
        fields: JSON values; a request has the `name` by which errors call the file.
        arrays: of numbers, any shape.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    arrays: tuple[NDArray[Any], ...] = ()


def serialize(message: Message, stream: IO[bytes]) -> None:
    """Write a message."""
    arrays = [np.ascontiguousarray(array) for array in message.arrays]
    header = {"fields": message.fields, "arrays": [(a.shape, a.dtype.str) for a in arrays]}
    text = json.dumps(header).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for array in arrays:
        stream.write(array.data)
    stream.flush()


def deserialize(stream: IO[bytes]) -> Message:
    """Read a message.

    Raises:
        EOFError: the other end is closed.
        LookupError, TypeError, ValueError: it is no message, or larger than any image.
    """
    (length,) = _LENGTH.unpack(_array(stream, (_LENGTH.size,), "u1").tobytes())
    header = json.loads(_array(stream, (length,), "u1").tobytes())
    arrays = tuple(_array(stream, shape, kind) for shape, kind in header["arrays"])
    return Message(header["fields"], arrays)


def _array(stream: IO[bytes], shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    dtype = np.dtype(kind)
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(shape, kind)
    array = np.empty(shape, dtype)
    buffer = array.reshape(-1).view(np.uint8)
    if stream.readinto(buffer.data) < buffer.size:  # type: ignore[attr-defined]
        raise EOFError
    return array


def is_sandboxed() -> bool:
    """Whether this process is itself a sandboxed one."""
    return SANDBOXED in os.environ


class Worker:
    """A sandboxed process, started when it is first needed; safe for threads, one call at a time.

    Args:
        target: `module:function` that the process calls, from `Message` to `Message`.
        limits: for each call.
    """

    def __init__(self, target: str, limits: ProcessLimits) -> None:
        self._target, self._limits = target, limits
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._calling, self._starting = threading.Lock(), threading.Lock()

    def call(self, request: Message, parse: Callable[[Message], Parsed]) -> Parsed:
        """Parse the answer to a request.

        Raises:
            UndecodedError: it takes too long, or the process has ended or answers nonsense.
            RadiographError: what the target raises, or the worker is closed.
        """
        name = str(request.fields["name"])
        with self._calling:
            process = self._running(name)
            try:
                answer = self._exchanged(process, request)
                error = answer.fields.get("error")
                result = RadiographError(**error) if error else parse(answer)
            except TimeoutError:
                message = f"takes more than {self._limits.seconds:g} seconds to decode"
            except (OSError, EOFError, LookupError, TypeError, ValueError):
                message = "ended the process that decoded it"
            except BaseException:
                self._end()  # the rest of its answer must not reach the next call
                raise
            else:
                if isinstance(result, RadiographError):
                    raise result
                return result
            self._end()
        raise UndecodedError(message, field=name, remedy=f"Try again, or {REMEDY}")

    def close(self) -> None:
        """Kill the process, also during a call, which then fails, and start no other."""
        with self._starting:
            self._closed = True
            self._kill()
        with self._calling:
            self._end()

    def _exchanged(self, process: "subprocess.Popen[bytes]", request: Message) -> Message:
        """Send a request and receive the answer; past the time limit the process is killed."""
        assert process.stdin is not None
        assert process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._kill()

        timer = threading.Timer(self._limits.seconds, expire)
        timer.start()
        try:
            serialize(request, process.stdin)
            return deserialize(process.stdout)
        finally:
            timer.cancel()
            timer.join()
            if expired.is_set():
                raise TimeoutError

    def _running(self, name: str) -> "subprocess.Popen[bytes]":
        """The process, started again where it has died."""
        with self._starting:
            if self._closed:
                raise RadiographError(
                    "no more images are read", field=name, remedy="Start the server again"
                )
            if self._process is not None and self._process.poll() is not None:
                self._end()
            if self._process is None:
                self._process = self._started()
            return self._process

    def _started(self) -> "subprocess.Popen[bytes]":
        # One thread for each core would take 20 MiB each of the memory that is allowed.
        libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
        threads = dict.fromkeys(libraries, "1")
        return subprocess.Popen(
            [sys.executable, "-m", __name__, self._target, str(self._limits.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders quote headers
            env={**os.environ, **threads, SANDBOXED: "1"},
            start_new_session=True,
            pipesize=PIPE_BYTES,
        )

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and its own children

    def _end(self) -> None:
        """Kill the process, wait for its end and close the pipes to it."""
        self._kill()
        if self._process is not None:
            with self._process as process, contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()  # what is still buffered is of no use to anyone
            self._process = None


def _serve(target: str, memory: int) -> None:
    """Answer requests until the other end is closed."""
    function = pkgutil.resolve_name(target)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a decoder prints is no answer
    _confine(memory)
    keep_freed_memory()
    with contextlib.suppress(EOFError):
        while True:
            serialize(_served(function, deserialize(sys.stdin.buffer)), answers)


def _served(function: Callable[[Message], Message], request: Message) -> Message:
    try:
        return function(request)
    except RadiographError as error:
        return _refusal(error)
    except MemoryError:
        name, message = request.fields["name"], "takes too much memory to decode"
        return _refusal(RadiographError(message, field=name, remedy=REMEDY.capitalize()))


def _refusal(error: RadiographError) -> Message:
    fields = {"message": error.message, "field": error.field, "remedy": error.remedy}
    return Message({"error": fields})


def _confine(memory: int) -> None:
    """Forbid writing to files and core dumps, which hold pixels, and more than `memory` bytes."""
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    if OWN_MEMORY.exists():
        own = int(OWN_MEMORY.read_text().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = own + memory
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
