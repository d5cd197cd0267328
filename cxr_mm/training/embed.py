"""Stage `embed`: radiographs and notes → embeddings, one row a study, rows as in the manifest."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mm import __version__
from cxr_mm.core.config import EmbedParams, Params
from cxr_mm.core.files import atomic_directory, save_tensors, sha256_file, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.progress import ProgressBar
from cxr_mm.core.shards.work import (
    Run,
    Work,
    keeping_results,
    run_here,
    shard_size,
    shards_of,
)
from cxr_mm.core.task import Task
from cxr_mm.data.embeddings import COPIES_FILE, EMBEDDINGS_FILE, PARTS_FILE
from cxr_mm.data.manifest import ABSENT, Manifest, load_manifest
from cxr_mm.data.notes import language_of, mask_note
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.imaging.corruptions import random_corruption
from cxr_mm.imaging.tensors import image_batches
from cxr_mm.models.fusion import Part
from cxr_mm.models.image_encoder import ImageEncoder, load_image_encoder
from cxr_mm.models.note_encoder import NoteEncoder, plain_note, reading_order
from cxr_mm.models.precision import SERVED

_log = logging.getLogger(__name__)
Squares = NDArray[np.uint8]
BATCH = 16
"""Images or notes together; larger batches leave the processor's cache and take longer an image."""


def image_embeddings(encoder: ImageEncoder, pixels: Squares) -> NDArray[np.float32]:
    """Squares (N, S, S) → embeddings (N, D), in the precision and memory order of serving."""
    embedded = np.zeros((len(pixels), encoder.dim), dtype=np.float32)
    start = 0
    with ProgressBar(total=len(pixels), desc="embed images", unit="image") as bar:
        for rows in _image_batches(encoder, pixels, np.arange(len(pixels))):
            embedded[start : start + len(rows)] = rows
            start += len(rows)
            bar.update(len(rows))
    return embedded


@torch.inference_mode()
def _image_batches(
    encoder: ImageEncoder, pixels: Squares, rows: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """Embeddings (B, D) of rows of the pixel cache, batch by batch."""
    encoder = encoder.eval()
    encoder.to(memory_format=SERVED.memory_format)  # type: ignore[call-overload]
    for images in image_batches(pixels, rows, BATCH):
        yield encoder(SERVED.arrange(images)).numpy()


def embed(task: Task, params: Params, paths: TaskPaths, run: Run = run_here) -> None:
    """Embed every study of the manifest; leaves embeddings.safetensors (image, note; float32),
    parts.json and, with `embed.copies`, copies.safetensors.

    Args:
        run: where images and notes are embedded, all but the copies: each of them follows from the
            random numbers that the one before has left. The bytes are the same.

    Raises:
        StageError: an earlier stage has not run.
        WeightsError: the note encoder is not available.
    """
    manifest = load_manifest(paths, task)
    embeddings: dict[str, NDArray[np.float32]] = {}
    parts: dict[str, tuple[Part, ...]] = {}
    copies: list[NDArray[np.float32]] = []
    if task.has_image:
        encoder = load_image_encoder(paths.image_encoder)
        pixels = open_pixels(paths.pixels)
        embeddings["image"] = _images(manifest, _embedded_pixels(paths, encoder, len(pixels), run))
        copies = [
            _images(
                manifest, image_embeddings(encoder, _corrupted(pixels, params.embed.seed, number))
            )
            for number in range(params.embed.copies)
        ]
        parts["image"] = tuple(Part(length=length) for length in encoder.spec.parts)
    if task.note is not None:
        embeddings["note"], parts["note"] = _notes(manifest, params.embed, run)
    with atomic_directory(paths.embeddings) as folder:
        save_tensors(folder / EMBEDDINGS_FILE, embeddings)
        if copies:
            save_tensors(folder / COPIES_FILE, {"image": np.stack(copies)})
        write_json(
            folder / PARTS_FILE,
            {modality: [part.model_dump() for part in own] for modality, own in parts.items()},
        )


def _embedded_pixels(
    paths: TaskPaths, encoder: ImageEncoder, count: int, run: Run
) -> NDArray[np.float32]:
    """Embeddings (N, D) of the pixel cache."""
    size = shard_size(count, BATCH)
    load = partial(_load_images, paths.image_encoder, paths.pixels, size)
    state = paths.pixels.stat()
    weights = [sha256_file(path) for path in sorted(paths.image_encoder.glob("*"))]
    identity = (__version__, weights, state.st_size, state.st_mtime_ns)
    folder = paths.embeddings.with_name(".embed-parts")
    with keeping_results(load, folder, count, *identity) as kept:
        return _collected(run(kept, shards_of(count, size)), "embed images", count, encoder.dim)


def _collected(
    results: Iterator[dict[str, Any]], what: str, count: int, dim: int
) -> NDArray[np.float32]:
    """Join the rows of shards, (N, dim)."""
    embedded = np.zeros((count, dim), dtype=np.float32)
    start = 0
    with ProgressBar(total=count, desc=what, unit=what.split()[1].removesuffix("s")) as bar:
        for result in results:
            rows = np.frombuffer(result["rows"], np.float32).reshape(-1, dim)
            embedded[start : start + len(rows)] = rows
            start += len(rows)
            bar.update(len(rows))
    return embedded


def _load_images(encoder: Path, pixels: Path, size: int) -> Work:
    return partial(_embed_images, load_image_encoder(encoder), open_pixels(pixels), size)


def _embed_images(
    encoder: ImageEncoder, pixels: Squares, size: int, numbers: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for number in numbers:
        own = np.arange(number * size, min((number + 1) * size, len(pixels)))
        rows = np.concatenate(list(_image_batches(encoder, pixels, own)))
        yield {"shard": number, "rows": rows.tobytes()}


def _corrupted(pixels: Squares, seed: int, number: int) -> Squares:
    """Corrupt each image (N, S, S) in its own way; the whole copy is held in memory."""
    random = np.random.default_rng([seed, number])
    return np.stack([random_corruption(np.asarray(square), random) for square in pixels])


def _images(manifest: Manifest, embedded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Image embeddings (N, D) by study, zero where it has no image.

    Args:
        manifest: the studies.
        embedded: (P, D) by row of the pixel cache.
    """
    rows = manifest.frame["pixel_row"].to_numpy(np.int64)
    found = np.zeros((len(rows), embedded.shape[1]), dtype=np.float32)
    found[rows != ABSENT] = embedded[rows[rows != ABSENT]]
    return found


def _notes(
    manifest: Manifest, params: EmbedParams, run: Run
) -> tuple[NDArray[np.float32], tuple[Part, ...]]:
    """Note embeddings (N, E), zero where a study has no note, and the parts they are made of."""
    spec = manifest.task.note
    assert spec is not None
    present = manifest.frame["note"].notna().to_numpy(bool)
    notes = [mask_note(str(note), spec) for note in manifest.frame.loc[present, "note"]]
    _log.info(language_of(params.note_encoder))
    encoder = NoteEncoder.open(params.note_encoder, params.note_words)
    found = np.zeros((len(present), encoder.dim), dtype=np.float32)
    if notes:
        plain = [plain_note(note) for note in notes]
        masked = dict(zip(plain, notes, strict=True))
        ordered = sorted(masked, key=reading_order)  # a shard then has the batches of the whole
        size = shard_size(len(ordered), BATCH)
        load = partial(_load_notes, params, [masked[note] for note in ordered], size)
        results = run(load, shards_of(len(ordered), size))
        rows = _collected(results, "embed notes", len(ordered), encoder.dim)
        place = {note: row for row, note in enumerate(ordered)}
        found[present] = rows[[place[note] for note in plain]]
    return found, encoder.parts


def _load_notes(params: EmbedParams, notes: Sequence[str], size: int) -> Work:
    encoder = NoteEncoder.open(params.note_encoder, params.note_words)
    return partial(_embed_notes, encoder, notes, size)


def _embed_notes(
    encoder: NoteEncoder, notes: Sequence[str], size: int, numbers: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for number in numbers:
        rows = encoder.embed(notes[number * size : (number + 1) * size], BATCH)
        yield {"shard": number, "rows": rows.tobytes()}
