"""Altered copies of training films, embedded: what a film gate learns from; kept by content."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mm.data.altered import ALTERATIONS, made_up_pictures
from cxr_mm.data.augment import augment
from cxr_mm.data.cache import open_pixels
from cxr_mm.data.dataset import image_batches
from cxr_mm.models.film_gate import FILM
from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.precision import MEASURED_ON, WantedPrecision, choose_precision
from cxr_mm.params import FuseParams
from cxr_mm.paths import TaskPaths
from cxr_mm.training.film_embeddings import BATCH, content_key, is_kept, keep, kept
from cxr_mm.training.studies import Index

PICTURE = "picture"
KINDS = (FILM, *ALTERATIONS, PICTURE)
"""What the head of a gate tells apart."""
Rows = NDArray[np.float32]
Squares = NDArray[np.uint8]


@dataclass(frozen=True)
class Copies:
    """Embeddings of what is made of films.

    Args:
        embeddings: (M, D).
        kind: (M,) number in `KINDS`; `film` for those that are still films.
        owner: (M,) position of the film that a copy was made of, -1 for a made-up picture.
    """

    embeddings: Rows
    kind: Index
    owner: Index

    def of(self, films: Index) -> "Copies":
        """Those of some films, by position and renumbered, and all made-up pictures."""
        place = np.full(max(self.owner.max(initial=-1), films.max(initial=-1)) + 2, -2)
        place[films] = np.arange(len(films))
        place[-1] = -1
        owner = place[self.owner]
        there = owner > -2
        return Copies(self.embeddings[there], self.kind[there], owner[there])


def film_copies(
    encoder: ImageEncoder,
    paths: TaskPaths,
    pixel_rows: Index,
    params: FuseParams,
    wanted: WantedPrecision,
) -> Copies:
    """Embeddings of altered copies of some films, and of made-up pictures.

    Args:
        encoder: whose embeddings.
        paths: of the task, whose pixel cache is read.
        pixel_rows: (N,) films to choose from; `Copies.owner` is a position in it.
        params: how many films, and the seed.
        wanted: precision.
    """
    random = np.random.default_rng(params.seed)
    chosen = random.permutation(len(pixel_rows))[: params.gate_films]
    squares = np.asarray(open_pixels(paths.pixels)[pixel_rows[chosen]])
    made = list(_altered(squares, params.seed))
    key = content_key("copies", _digest(encoder, [pictures for _, pictures in made]), wanted)
    if is_kept(paths, key):
        embeddings = kept(paths, key)
    else:
        parts = [embed_squares(encoder, pictures, wanted) for _, pictures in made]
        embeddings = keep(paths, key, np.concatenate(parts))
    owners = [np.full(len(p), -1) if k == PICTURE else chosen for k, p in made]
    kinds = [np.full(len(pictures), KINDS.index(kind)) for kind, pictures in made]
    return Copies(embeddings, np.concatenate(kinds), np.concatenate(owners))


def _altered(squares: Squares, seed: int) -> Iterator[tuple[str, Squares]]:
    """Each kind with its copies (n, S, S), in the order of `KINDS`.

    A varied film is a film still: other exposure, a little turned or shifted, mirrored. Such copies
    keep the gate from refusing what comes from another hospital.
    """
    yield FILM, _varied(squares, seed)
    for kind, alter in ALTERATIONS.items():
        random = np.random.default_rng([seed, KINDS.index(kind)])
        yield kind, np.stack([alter(square, random) for square in squares])
    count = max(4, len(squares) // 2)
    yield PICTURE, made_up_pictures(count, squares.shape[1], np.random.default_rng([seed, 99]))


def _varied(squares: Squares, seed: int) -> Squares:
    generator = torch.Generator().manual_seed(seed)
    batches = image_batches(squares, np.arange(len(squares)), BATCH)
    varied = torch.cat([augment(images, "light", generator)[:, 0] for images in batches])
    bytes_: Squares = ((varied + 1) * 127.5).round().to(torch.uint8).numpy()
    return bytes_


def _digest(encoder: ImageEncoder, pictures: list[Squares]) -> str:
    digest = hashlib.sha256(encoder.spec.model_dump_json().encode())
    for tensor in encoder.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    for squares in pictures:
        digest.update(squares.tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def embed_squares(encoder: ImageEncoder, squares: Squares, wanted: WantedPrecision) -> Rows:
    """Embeddings (N, D) of squares (N, S, S)."""
    encoder = encoder.eval()
    rows = np.arange(len(squares))
    sample = next(image_batches(squares, rows, MEASURED_ON))
    precision = choose_precision(encoder, sample, wanted=wanted)
    encoder.to(memory_format=precision.memory_format)  # type: ignore[call-overload]
    parts = []
    for images in image_batches(squares, rows, BATCH):
        with precision.autocast():
            parts.append(encoder(precision.arrange(images)).float().numpy())
    return np.concatenate(parts)
