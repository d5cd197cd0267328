"""Stage `embed`: radiographs and notes → embeddings, one row a study, rows as in the manifest."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mm.core.config import EmbedParams, Params
from cxr_mm.core.files import atomic_directory, save_tensors, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.progress import ProgressBar
from cxr_mm.core.task import Task
from cxr_mm.data.embeddings import COPIES_FILE, EMBEDDINGS_FILE, PARTS_FILE
from cxr_mm.data.manifest import ABSENT, Manifest, load_manifest
from cxr_mm.data.notes import language_of, mask_note
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.imaging.corruptions import random_corruption
from cxr_mm.imaging.tensors import image_batches
from cxr_mm.models.fusion import Part
from cxr_mm.models.image_encoder import ImageEncoder, load_image_encoder
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.models.precision import SERVED

_log = logging.getLogger(__name__)
Squares = NDArray[np.uint8]
BATCH = 16
"""Images or notes together; larger batches leave the processor's cache and take longer an image."""


@torch.inference_mode()
def image_embeddings(encoder: ImageEncoder, pixels: Squares) -> NDArray[np.float32]:
    """Squares (N, S, S) → embeddings (N, D), in the precision and memory order of serving."""
    embedded = np.zeros((len(pixels), encoder.dim), dtype=np.float32)
    encoder = encoder.eval()
    encoder.to(memory_format=SERVED.memory_format)  # type: ignore[call-overload]
    start = 0
    with ProgressBar(total=len(pixels), desc="embed images", unit="image") as bar:
        for images in image_batches(pixels, np.arange(len(pixels)), BATCH):
            rows = encoder(SERVED.arrange(images)).numpy()
            embedded[start : start + len(rows)] = rows
            start += len(rows)
            bar.update(len(rows))
    return embedded


def embed(task: Task, params: Params, paths: TaskPaths) -> None:
    """Embed every study of the manifest; leaves embeddings.safetensors (image, note; float32),
    parts.json and, with `embed.copies`, copies.safetensors.

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
        embeddings["image"] = _images(manifest, encoder, pixels)
        copies = [
            _images(manifest, encoder, _corrupted(pixels, params.embed.seed, number))
            for number in range(params.embed.copies)
        ]
        parts["image"] = tuple(Part(length=length) for length in encoder.spec.parts)
    if task.note is not None:
        embeddings["note"], parts["note"] = _notes(manifest, params.embed)
    with atomic_directory(paths.embeddings) as folder:
        save_tensors(folder / EMBEDDINGS_FILE, embeddings)
        if copies:
            save_tensors(folder / COPIES_FILE, {"image": np.stack(copies)})
        write_json(
            folder / PARTS_FILE,
            {modality: [part.model_dump() for part in own] for modality, own in parts.items()},
        )


def _corrupted(pixels: Squares, seed: int, number: int) -> Squares:
    """Corrupt each image (N, S, S) in its own way; the whole copy is held in memory."""
    random = np.random.default_rng([seed, number])
    return np.stack([random_corruption(np.asarray(square), random) for square in pixels])


def _images(manifest: Manifest, encoder: ImageEncoder, pixels: Squares) -> NDArray[np.float32]:
    """Image embeddings (N, D), zero where a study has no image."""
    rows = manifest.frame["pixel_row"].to_numpy(np.int64)
    embedded = np.zeros((len(rows), encoder.dim), dtype=np.float32)
    embedded[rows != ABSENT] = image_embeddings(encoder, pixels)[rows[rows != ABSENT]]
    return embedded


def _notes(manifest: Manifest, params: EmbedParams) -> tuple[NDArray[np.float32], tuple[Part, ...]]:
    """Note embeddings (N, E), zero where a study has no note, and the parts they are made of."""
    spec = manifest.task.note
    assert spec is not None
    present = manifest.frame["note"].notna().to_numpy(bool)
    notes = [mask_note(str(note), spec) for note in manifest.frame.loc[present, "note"]]
    _log.info(language_of(params.note_encoder))
    encoder = NoteEncoder.open(params.note_encoder, params.note_words)
    rows = np.zeros((len(present), encoder.dim), dtype=np.float32)
    rows[present] = encoder.embed(notes, BATCH)
    return rows, encoder.parts
