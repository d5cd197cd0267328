"""Embeddings of a whole pixel cache by one encoder, kept by content so that no film is read twice.

`train_image` with a frozen encoder and `embed` want the same array; whoever comes first makes it.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cxr_mm.data.cache import open_pixels
from cxr_mm.data.dataset import image_batches
from cxr_mm.files import sha256_file, written_aside
from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.precision import MEASURED_ON, WantedPrecision, choose_precision
from cxr_mm.paths import TaskPaths

KEPT = 12  # newest arrays
BATCH = 16  # larger ones leave the processor's cache and take longer a film


def film_embeddings(
    encoder: ImageEncoder, paths: TaskPaths, wanted: WantedPrecision, batch_size: int = BATCH
) -> NDArray[np.float32]:
    """Embeddings (films, dim) of the task's pixel cache, in its order."""
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
    with written_aside(file) as aside:
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
    with tqdm(total=len(pixels), desc="embed films", unit="film", disable=None) as bar:
        for images in image_batches(pixels, every, batch_size):
            with precision.autocast():
                rows = encoder(precision.arrange(images)).float().numpy()
            embedded[start : start + len(rows)] = rows
            start += len(rows)
            bar.update(len(rows))
    return embedded
