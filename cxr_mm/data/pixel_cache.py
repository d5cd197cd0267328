"""Pixel cache: every radiograph decoded once and fitted into its square, in one .npy file."""

import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_mm import __version__
from cxr_mm.core.errors import RadiographError, StageError
from cxr_mm.core.files import atomic_write
from cxr_mm.core.processes import end_with_parent
from cxr_mm.core.progress import ProgressBar
from cxr_mm.core.shards.store import Place
from cxr_mm.core.shards.work import Run, Work, keeping_results, run_here, shards_of
from cxr_mm.data.manifest import ABSENT
from cxr_mm.imaging.burnt_in_text import has_text, model_square
from cxr_mm.imaging.radiograph import read_bytes, read_radiograph
from cxr_mm.imaging.urls import read_url

SECONDS_PER_IMAGE, SECONDS_PER_BYTE = 5e-3, 2.5e-8
"""Rough cost of decoding, measured on one core."""
WORTH_A_PROCESS = 10.0
"""Seconds of decoding below which starting a process costs more than it saves."""
CHUNK = 8
"""Images that a process decodes at a time."""
IMAGES = 32
"""Images of a shard."""


@dataclass(frozen=True)
class CacheRow:
    """Result of decoding one radiograph.

    Args:
        pixel_row: row in the cache, or -1.
        reason: why it could not be read; None if it was read, or if there is no path.
        quality: see `image_quality`.
        text: whether a word is burnt in.
        warnings: of the image reader.
        file_sha256: digest of the file, hexadecimal; empty without an image.
        phash: perceptual hash of the image, 64 bits in hexadecimal (DCT; Zauner 2010).
    """

    pixel_row: int = ABSENT
    reason: str | None = None
    quality: dict[str, float] = field(default_factory=dict)
    text: bool = False
    warnings: tuple[str, ...] = ()
    file_sha256: str = ""
    phash: str = ""


def build_cache(
    paths: Sequence[Place | None],
    out: Path,
    size: int,
    workers: int = 1,
    *,
    mask_text: bool = False,
    run: Run = run_here,
    parts: Path | None = None,
) -> list[CacheRow]:
    """Decode each distinct path once and write the cache; memory use does not grow with it.

    Args:
        paths: one per study, path or URL, None where it has no radiograph; equal ones share a row.
        out: the .npy file, uint8 (N, size, size), rows in order of first appearance. Written
            atomically.
        size: side of the square in pixels.
        workers: processes that decode for one worker of `run`.
        mask_text: as of `model_square`.
        run: where images are decoded.
        parts: folder in which a long run keeps what it has decoded, to go on after it was killed.

    Returns:
        One row per entry of `paths`.

    Raises:
        StageError: a decoding process was killed.
        InputError: as `read_url`; an object store that is away is no fault of an image.
    """
    distinct = list(dict.fromkeys(path for path in paths if path is not None))
    decode = partial(_decode, size=size, mask_text=mask_text)
    load = partial(_load, distinct, decode, workers)
    numbers = shards_of(len(distinct), IMAGES)
    identity = [__version__, size, mask_text, *([str(path), *_stamp(path)] for path in distinct)]
    rows: list[CacheRow] = []
    with (
        keeping_results(load, parts or out.parent, len(distinct) if parts else 0, identity) as kept,
        atomic_write(out) as temporary,
        temporary.open("wb") as stream,
        ProgressBar(total=len(distinct), desc="radiographs", unit="image") as bar,
    ):
        _write_header(stream, len(distinct), size)
        count = 0
        for result in run(kept, numbers) if numbers else ():
            stream.write(result["squares"])
            for fields in json.loads(result["rows"]):
                pixel_row = ABSENT if fields["reason"] else count
                count += pixel_row != ABSENT
                fields |= {"pixel_row": pixel_row, "warnings": tuple(fields["warnings"])}
                rows.append(CacheRow(**fields))
            bar.update(len(rows) - bar.n)
        stream.seek(0)
        _write_header(stream, count, size)
    found = dict(zip(distinct, rows, strict=True))
    return [CacheRow() if path is None else found[path] for path in paths]


def _stamp(path: Place) -> tuple[int, int]:
    """Size and time of change of a file; objects of a store are taken as never changing."""
    try:
        state = Path(path).stat()
        return state.st_size, state.st_mtime_ns
    except OSError:
        return 0, 0  # reported as the reason of its row


Pixels: TypeAlias = "np.memmap[tuple[int, ...], np.dtype[np.uint8]]"


def open_pixels(path: Path) -> Pixels:
    """The cache, memory-mapped and read-only: uint8 (N, S, S).

    Raises:
        StageError: it is missing or not a pixel cache.
    """
    try:
        pixels: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise StageError(
            "no readable pixel cache", field=str(path), remedy="Run the stage `ingest` first"
        ) from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise StageError(
            f"not a pixel cache ({pixels.dtype}, {pixels.ndim} dimensions)",
            field=str(path),
            remedy="Run the stage `ingest` again",
        )
    return pixels


def read_rows(path: Path, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Squares (B, S, S) of some rows of the cache, read and not mapped.

    A mapped page counts as memory of the process, and the kernel may map two megabytes around it.

    Raises:
        StageError: it is missing or not a pixel cache.
    """
    pixels = open_pixels(path)
    squares = np.empty((len(rows), *pixels.shape[1:]), np.uint8)
    with path.open("rb", buffering=0) as stream:
        for square, row in zip(squares, rows.tolist(), strict=True):
            stream.seek(pixels.offset + row * square.nbytes)
            stream.readinto(square.data)
    return squares


def _write_header(stream: BinaryIO, rows: int, size: int) -> None:
    """NumPy pads this header so that the number of rows can be corrected in place."""
    shape = (rows, size, size)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


_Decoded = tuple[NDArray[np.uint8] | None, CacheRow]
Decode = Callable[[Place], _Decoded]


def _load(paths: Sequence[Place], decode: Decode, workers: int) -> Work:
    return partial(_work, paths, decode, workers)


def _work(
    paths: Sequence[Place], decode: Decode, workers: int, numbers: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Decode shards of images; squares of those that can be read, and rows of all, as JSON."""
    own = [paths[number * IMAGES : (number + 1) * IMAGES] for number in numbers]
    decoded = _decoded([path for shard in own for path in shard], decode, workers)
    for number, shard in zip(numbers, own, strict=True):
        pairs = list(islice(decoded, len(shard)))
        squares = [square.tobytes() for square, _ in pairs if square is not None]
        rows = json.dumps([asdict(row) for _, row in pairs])
        yield {"shard": number, "squares": b"".join(squares), "rows": rows}


def _decoded(paths: Sequence[Place], decode: Decode, workers: int) -> Iterator[_Decoded]:
    """Squares and rows in the order of `paths`."""
    workers = min(workers, int(_estimate(paths) / WORTH_A_PROCESS))
    if workers < 2:
        yield from map(decode, paths)
        return
    with _pool(workers) as pool:
        yield from pool.map(decode, paths, chunksize=CHUNK)


def _estimate(paths: Sequence[Place]) -> float:
    """Seconds that decoding will take on one core, roughly."""
    sizes = sum(_stamp(path)[0] for path in paths)
    return len(paths) * SECONDS_PER_IMAGE + sizes * SECONDS_PER_BYTE


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise StageError(
            "a process that decodes radiographs was killed",
            field="ingest",
            remedy="Set ingest.workers to 1 to see which image it is, or free some memory",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and live no longer than it."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _decode(path: Place, size: int, *, mask_text: bool) -> _Decoded:
    try:
        data = read_url(path) if isinstance(path, str) else read_bytes(path)
        image = read_radiograph(data, str(path))
    except RadiographError as error:
        return None, CacheRow(reason=error.message)
    row = CacheRow(
        quality=image.quality,
        text=has_text(image.pixels),
        warnings=image.warnings,
        file_sha256=hashlib.sha256(data).hexdigest(),
        phash=_phash(image.pixels),
    )
    return model_square(image.pixels, size, mask_text=mask_text), row


def _phash(pixels: NDArray[np.float32]) -> str:
    return str(imagehash.phash(Image.fromarray(np.rint(pixels * 255).astype(np.uint8))))
