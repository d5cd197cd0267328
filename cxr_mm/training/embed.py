"""Stage `embed`: radiographs and notes → embeddings, one row a study, rows as in the manifest.

Where the image encoder was trained on the very rows, their embeddings are over-confident, and a
fusion learns to trust the image too much. With `train_image.cross_fit` each training row is
therefore embedded by an encoder that has not seen it, and brought into the final encoder's space by
ridge regression fitted on the rows that both have seen.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tqdm import tqdm

from cxr_mm.core.config import EmbedParams, Params
from cxr_mm.core.files import atomic_directory, atomic_write, sha256_file, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task
from cxr_mm.data.embeddings import EMBEDDINGS_FILE, PARTS_FILE
from cxr_mm.data.manifest import ABSENT, Manifest, load_manifest
from cxr_mm.data.notes import mask_note
from cxr_mm.data.pixel_cache import image_batches, open_pixels
from cxr_mm.models.fusion import Part
from cxr_mm.models.image_encoder import ImageEncoder, load_image_encoder, read_spec
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.models.precision import MEASURED_ON, WantedPrecision, choose_precision

KEPT = 12  # newest arrays
BATCH = 16  # larger ones leave the processor's cache and take longer an image


def image_embeddings(
    encoder: ImageEncoder, paths: TaskPaths, wanted: WantedPrecision, batch_size: int = BATCH
) -> NDArray[np.float32]:
    """Embeddings (images, dim) of the task's pixel cache, in its order."""
    key = content_key("image", _digest(encoder), sha256_file(paths.pixels), wanted)
    if is_kept(paths, key):
        return kept(paths, key)
    return keep(paths, key, _make(encoder, paths, wanted, batch_size))


def content_key(*parts: str) -> str:
    """Name of an array by what it was made from."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def is_kept(paths: TaskPaths, key: str) -> bool:
    """Whether the array was made before."""
    return _file(paths, key).is_file()


def kept(paths: TaskPaths, key: str) -> NDArray[np.float32]:
    """The array made before."""
    rows: NDArray[np.float32] = np.load(_file(paths, key))
    return rows


def keep(paths: TaskPaths, key: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep an array, and of all only the newest."""
    file = _file(paths, key)
    with atomic_write(file) as aside:
        np.save(aside, rows)
    newest = sorted(file.parent.glob("*.npy"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in newest[KEPT:]:
        old.unlink(missing_ok=True)
    return rows


def _file(paths: TaskPaths, key: str) -> Path:
    return paths.root / ".cache" / "embeddings" / f"{key}.npy"


def _digest(encoder: ImageEncoder) -> str:
    """Digest of what makes an embedding: the backbone, not the head."""
    spec = encoder.spec
    digest = hashlib.sha256(f"{spec.backbone} {spec.pool} {spec.mirror}".encode())
    for name, tensor in encoder.state_dict().items():
        if not name.startswith(("head.", "norm.")):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _make(
    encoder: ImageEncoder, paths: TaskPaths, wanted: WantedPrecision, batch_size: int
) -> NDArray[np.float32]:
    pixels = open_pixels(paths.pixels)
    every = np.arange(len(pixels))
    embedded = np.zeros((len(pixels), encoder.dim), dtype=np.float32)
    if not len(pixels):
        return embedded
    encoder = encoder.eval()
    sample = next(image_batches(pixels, every, MEASURED_ON))
    precision = choose_precision(encoder, sample, wanted=wanted)
    encoder.to(memory_format=precision.memory_format)  # type: ignore[call-overload]
    start = 0
    with tqdm(total=len(pixels), desc="embed images", unit="image", disable=None) as bar:
        for images in image_batches(pixels, every, batch_size):
            with precision.autocast():
                rows = encoder(precision.arrange(images)).float().numpy()
            embedded[start : start + len(rows)] = rows
            start += len(rows)
            bar.update(len(rows))
    return embedded


RIDGE = 1e-2


def embed(task: Task, params: Params, paths: TaskPaths) -> None:
    """Embed every study of the manifest; leaves embeddings.safetensors (image, note; float32)
    and parts.json.

    Raises:
        StageError: an earlier stage has not run.
        WeightsError: the note encoder cannot be had.
    """
    manifest = load_manifest(paths, task)
    found: dict[str, NDArray[np.float32]] = {}
    parts: dict[str, tuple[Part, ...]] = {}
    if task.has_image:
        found["image"] = _images(manifest, params.embed, paths)
        lengths = read_spec(paths.image_encoder).parts
        parts["image"] = tuple(Part(length=length) for length in lengths)
    if task.note is not None:
        found["note"], parts["note"] = _notes(manifest, params.embed, paths)
    with atomic_directory(paths.embeddings) as aside:
        save_file(found, aside / EMBEDDINGS_FILE)
        write_json(
            aside / PARTS_FILE,
            {modality: [part.model_dump() for part in own] for modality, own in parts.items()},
        )


def _images(manifest: Manifest, params: EmbedParams, paths: TaskPaths) -> NDArray[np.float32]:
    rows = manifest.frame["pixel_row"].to_numpy(np.int64)
    images = _pixel_embeddings(paths.image_encoder, params, paths)
    embedded = np.zeros((len(rows), images.shape[1]), dtype=np.float32)
    embedded[rows != ABSENT] = images[rows[rows != ABSENT]]
    table = paths.image_encoder / "folds.parquet"
    if not table.exists():
        return embedded
    folds = pd.read_parquet(table).set_index("study_id")["fold"]
    fold = manifest.frame["study_id"].map(folds).fillna(-1).to_numpy(np.int64)
    out_of_fold = embedded.copy()
    for number in range(int(fold.max()) + 1):
        own = _pixel_embeddings(paths.image_encoder / f"fold_{number}", params, paths)
        unseen = (fold == number) & (rows != ABSENT)
        seen = (fold >= 0) & (fold != number) & (rows != ABSENT)
        out_of_fold[unseen] = align(own[rows[seen]], embedded[seen], own[rows[unseen]])
    return out_of_fold


def align(
    source: NDArray[np.float32], target: NDArray[np.float32], rows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Bring `rows` from one encoder's space into another's.

    Ridge regression, its penalty relative to the source's mean variance.

    Args:
        source, target: (N, D) the same studies in both spaces.
        rows: (M, D) further studies in the source space.
    """
    centre, goal = source.mean(0), target.mean(0)
    x = (source - centre).astype(np.float64)
    y = (target - goal).astype(np.float64)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram) + 1e-9
    weights = np.linalg.solve(gram, x.T @ y)
    aligned: NDArray[np.float32] = ((rows - centre) @ weights + goal).astype(np.float32)
    return aligned


def _pixel_embeddings(folder: Path, params: EmbedParams, paths: TaskPaths) -> NDArray[np.float32]:
    encoder = load_image_encoder(folder)
    return image_embeddings(encoder, paths, params.precision, params.batch_size)


def _notes(
    manifest: Manifest, params: EmbedParams, paths: TaskPaths
) -> tuple[NDArray[np.float32], tuple[Part, ...]]:
    task = manifest.task
    assert task.note is not None
    spec = task.note
    there = manifest.frame["note"].notna().to_numpy(bool)
    notes = [mask_note(str(n), spec) for n in manifest.frame.loc[there, "note"]]
    encoder = NoteEncoder.open(params.note_encoder, params.note_tokens, params.note_words)
    said = (params.note_encoder, str(params.note_tokens), str(params.note_words))
    key = content_key("note", *said, there.tobytes().hex(), *notes)
    if is_kept(paths, key):
        return kept(paths, key), encoder.parts
    rows = np.zeros((len(there), encoder.dim), dtype=np.float32)
    rows[there] = encoder.embed(notes, params.batch_size)
    return keep(paths, key, rows), encoder.parts
