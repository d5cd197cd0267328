"""Fit of the input gate: a head against out-of-distribution (OOD) copies of the training images,
and limits from scores by gates fitted without the patient.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from cxr_mm.core.config import FuseParams, Params
from cxr_mm.core.paths import TaskPaths
from cxr_mm.data.manifest import ABSENT, Manifest
from cxr_mm.data.pixel_cache import image_batches, open_pixels
from cxr_mm.imaging.augment import augment
from cxr_mm.imaging.ood_images import OOD_COPIES, synthetic_pictures
from cxr_mm.models.image_encoder import ImageEncoder, load_image_encoder
from cxr_mm.models.input_gate import IMAGE, InputGate, InputGateSpec, Limits, ood_score
from cxr_mm.models.optim import minimise
from cxr_mm.training.embed import BATCH, Squares, image_embeddings
from cxr_mm.training.fusion_fit import Index, Studies, single_threaded

PICTURE = "picture"
KINDS = (IMAGE, *OOD_COPIES, PICTURE)
"""Classes of the head."""
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Copies:
    """Embeddings of OOD copies and of synthetic pictures.

    Args:
        embeddings: (M, D).
        kind: (M,) position in `KINDS`; `image` for copies that are still valid images.
        owner: (M,) position of the copied image, -1 for a synthetic picture.
    """

    embeddings: Rows
    kind: Index
    owner: Index

    def of(self, images: Index) -> "Copies":
        """Select the copies of some images, renumbered by position, and all synthetic pictures."""
        position = np.full(max(self.owner.max(initial=-1), images.max(initial=-1)) + 2, -2)
        position[images] = np.arange(len(images))
        position[-1] = -1
        owner = position[self.owner]
        chosen = owner > -2
        return Copies(self.embeddings[chosen], self.kind[chosen], owner[chosen])


def ood_copies(
    encoder: ImageEncoder, pixels: Squares, pixel_rows: Index, params: FuseParams
) -> Copies:
    """Embed OOD copies of some images, and synthetic pictures.

    Args:
        encoder: of the bundle.
        pixels: (M, S, S) pixel cache of the task.
        pixel_rows: (N,) images to choose from; `Copies.owner` is a position in it.
        params: number of images, and the seed.
    """
    random = np.random.default_rng(params.seed)
    chosen = random.permutation(len(pixel_rows))[: params.gate_images]
    parts: list[tuple[Rows, Index, Index]] = []
    for kind, squares in _ood_copies(np.asarray(pixels[pixel_rows[chosen]]), params.seed):
        owner = np.full(len(squares), -1) if kind == PICTURE else chosen
        number = np.full(len(squares), KINDS.index(kind))
        parts.append((image_embeddings(encoder, squares), number, owner))
    embeddings, kinds, owners = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Copies(embeddings, kinds, owners)


def _ood_copies(squares: Squares, seed: int) -> Iterator[tuple[str, Squares]]:
    """Yield each kind with its copies (n, S, S), in the order of `KINDS`.

    A varied image is still valid: other exposure, slightly turned or shifted, mirrored. Such copies
    keep the gate from rejecting images of other hospitals.
    """
    yield IMAGE, _varied(squares, seed)
    for kind, alter in OOD_COPIES.items():
        random = np.random.default_rng([seed, KINDS.index(kind)])
        yield kind, np.stack([alter(square, random) for square in squares])
    count = max(4, len(squares) // 2)
    yield PICTURE, synthetic_pictures(count, squares.shape[1], np.random.default_rng([seed, 99]))


def _varied(squares: Squares, seed: int) -> Squares:
    generator = torch.Generator().manual_seed(seed)
    batches = image_batches(squares, np.arange(len(squares)), BATCH)
    varied = torch.cat([augment(images, "light", generator)[:, 0] for images in batches])
    bytes_: Squares = ((varied + 1) * 127.5).round().to(torch.uint8).numpy()
    return bytes_


FEWEST, MOST = 50, 2000
"""Fewest images that a gate is fitted on, and most that are used."""
FOLDS = 5
REFUSE_RATE, WARN_RATE = 0.005, 0.02
"""Shares of true images that the gate may reject, and may at least warn of."""
NAMED = 10
"""Most training images that the warning names."""
COMPONENTS = 64
"""Most principal components; never more than a quarter of the images or of the dimensions."""
PENALTY = 5e-5
"""Of the squared weights, on the mean loss, for standard scores at unit length."""
TENTH, RARE = 0.1, 0.02
"""Shares of images between which the slope of a score's tail is measured."""
QUARTER = 0.25
"""Quantile of the synthetic pictures' distances from which they are taken to begin."""
EVEN_ODDS, SOME_ODDS = 0.0, math.log(1 / 3)
"""Least limits of the ood_score for rejecting and for warning, however low the training scores."""

_log = logging.getLogger(__name__)


def input_gate(
    manifest: Manifest, studies: Studies, train: Index, val: Index, params: Params, paths: TaskPaths
) -> InputGate | None:
    """Fit the input gate of a bundle.

    Args:
        manifest, studies: all of them, in the same order.
        train, val: rows of the training studies.
        params, paths: of the task.

    Returns:
        None where the task has no image, `gate_images` is 0, or there are too few images.
    """
    if not (manifest.task.has_image and params.fuse.gate_images):
        return None
    images = gate_images(manifest, studies.groups, train, val, params)
    if len(images.pixel_rows) < FEWEST or len(set(images.groups)) < FOLDS:
        _log.warning("no input gate: %d images are too few", len(images.pixel_rows))
        return None
    encoder = load_image_encoder(paths.image_encoder)
    copies = ood_copies(encoder, open_pixels(paths.pixels), images.pixel_rows, params.fuse)
    embeddings = studies.embeddings["image"].numpy()[images.rows]
    gate, rejected = fit_input_gate(embeddings, images, copies, params.fuse.seed)
    _warn_of(manifest, images.pixel_rows[rejected])
    return gate


def _warn_of(manifest: Manifest, pixel_rows: Index) -> None:
    """Name the training images that a person should look at."""
    frame = manifest.frame
    names = frame.loc[frame["pixel_row"].isin(pixel_rows), "study_id"].astype(str).tolist()
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        listed = ", ".join(names[:NAMED])
        _log.warning(
            "training images that look upside down or out of distribution: %s%s. Look at them; "
            "turn, replace or remove those that are wrong, then run ingest again; "
            "good ones may stay",
            listed,
            more,
        )


@dataclass(frozen=True)
class GateImages:
    """Distinct images that a gate is fitted on.

    Args:
        rows: (N,) rows of the manifest.
        pixel_rows: (N,) rows of the pixel cache.
        groups: (N,) group of each image; a group stays within one fold.
        limiting: (N,) whether an image may set limits. A trained encoder knows its training images
            better than new ones, so only images of the validation part may.
    """

    rows: Index
    pixel_rows: Index
    groups: NDArray[np.object_]
    limiting: NDArray[np.bool_]

    def of(self, images: Index) -> "GateImages":
        """Select some of them, by position."""
        return GateImages(
            self.rows[images], self.pixel_rows[images], self.groups[images], self.limiting[images]
        )


def gate_images(
    manifest: Manifest, groups: NDArray[np.object_], train: Index, val: Index, params: Params
) -> GateImages:
    """Select distinct images of these rows, at most `MOST`, those that may set limits first."""
    rows = np.concatenate([val, train])
    frozen = params.train_image.trainable == "frozen"
    limiting = (np.arange(len(rows)) < len(val)) | frozen | (not len(val))
    pixel_rows = manifest.frame["pixel_row"].to_numpy(np.int64)[rows]
    distinct, first = np.unique(pixel_rows, return_index=True)
    first = first[distinct != ABSENT]
    shuffled = np.random.default_rng(params.fuse.seed).permutation(len(first))
    preferred = shuffled[np.argsort(~limiting[first[shuffled]], kind="stable")]
    chosen = first[np.sort(preferred[:MOST])]
    return GateImages(rows, pixel_rows, groups[rows], limiting).of(chosen)


@single_threaded()
def fit_input_gate(
    embeddings: Rows, images: GateImages, copies: Copies, seed: int
) -> tuple[InputGate, Index]:
    """Fit a gate, with limits from images scored by gates that have not seen the patient.

    Args:
        embeddings: (N, D) of the unchanged images.
        images: their rows, groups and roles.
        copies: OOD copies of some of them.
        seed: of folds and principal components.

    Returns:
        The gate, and positions of the images that one fitted without the patient would reject.
    """
    fold = _folds(images.groups, seed)
    scores = np.zeros((len(embeddings), 2))
    for number in range(FOLDS):
        inside = fold == number
        others = np.flatnonzero(~inside)
        gate = _fit(embeddings[others], copies.of(others), seed)
        scores[inside, 0] = ood_score(gate.logits(embeddings[inside]))
        scores[inside, 1] = gate.distance(embeddings[inside])
    limiting = scores[images.limiting]
    refuse = _limits(limiting, REFUSE_RATE, EVEN_ODDS)
    warn = _limits(limiting, WARN_RATE, SOME_ODDS)
    gate = _fit(embeddings, copies, seed)
    pictures = gate.distance(copies.embeddings[copies.kind == KINDS.index(PICTURE)])
    refuse = _between(refuse, pictures)
    rejected = np.any(scores > (refuse.ood_score, refuse.distance), axis=1)
    limits = {
        "refuse": refuse,
        "warn": warn,
        "limits_from": len(limiting),
        "rejected": int(np.sum(rejected & images.limiting)),
    }
    return replace(gate, spec=gate.spec.model_copy(update=limits)), np.flatnonzero(rejected)


def _folds(groups: NDArray[np.object_], seed: int) -> Index:
    """Fold (N,) of each image; whole groups are assigned at random."""
    _, codes = np.unique(groups.astype(str), return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(codes.max() + 1) % FOLDS
    fold: Index = dealt[codes]
    return fold


def _limits(scores: NDArray[np.float64], rate: float, floor: float) -> Limits:
    """Limits that a share `rate` of true images exceeds, over both scores together.

    Some training images are upside down or no radiographs at all, so a small rate is not taken
    from the highest scores. Instead the tail is modelled as exponential from the highest tenth on
    (peaks over threshold: Coles, An Introduction to Statistical Modeling of Extreme Values, 2001).

    Args:
        scores: (N, 2) ood_score and distance.
        rate: split evenly between the two.
        floor: least limit of the ood_score.
    """
    share = rate / 2
    known = np.quantile(scores, 1 - max(share, RARE), axis=0)
    slope = (np.quantile(scores, 1 - RARE, axis=0) - np.quantile(scores, 1 - TENTH, axis=0)) / (
        math.log(TENTH / RARE)
    )
    odd, distance = known + slope * max(0.0, math.log(RARE / share))
    return Limits(ood_score=max(float(odd), floor), distance=float(distance))


def _between(limits: Limits, pictures: NDArray[np.float64]) -> Limits:
    """Move the limit of the distance half-way to the synthetic pictures, where they are far beyond.

    Valid images of another hospital are further away than any of the training images.
    """
    near = float(np.quantile(pictures, QUARTER))
    further = max(limits.distance, (limits.distance + near) / 2)
    return limits.model_copy(update={"distance": further})


def _fit(images: Rows, copies: Copies, seed: int) -> InputGate:
    """Fit standard scores, components and head, without limits."""
    mean, scale = images.mean(0), images.std(0)
    # A floor, so that a dimension that hardly varies does not become noise at full volume.
    scale = np.maximum(scale, 0.1 * scale.mean() + 1e-6)
    most = min(COMPONENTS, len(images) // 4, len(mean) // 4)
    pca = PCA(most, svd_solver="randomized", random_state=seed).fit((images - mean) / scale)
    every = np.concatenate([images, copies.embeddings])
    kind = np.concatenate([np.zeros(len(images), np.int64), copies.kind])
    standard = (every - mean) / scale / np.float32(np.sqrt(len(mean)))
    weight, bias = _fit_head(torch.from_numpy(standard), torch.from_numpy(kind))
    none = Limits(ood_score=math.inf, distance=math.inf)
    spec = InputGateSpec(kinds=KINDS, refuse=none, warn=none, images=len(images), limits_from=0)
    components = pca.components_.astype(np.float32)
    return InputGate(spec, mean, scale, components, weight.numpy(), bias.numpy())


def _fit_head(standard: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax regression, each kind of the same weight in all, by L-BFGS."""
    count = torch.bincount(kind, minlength=len(KINDS)).clamp(min=1)
    weight = torch.zeros(len(KINDS), standard.shape[1], requires_grad=True)
    bias = torch.zeros(len(KINDS), requires_grad=True)

    def loss() -> Tensor:
        error = F.cross_entropy(standard @ weight.T + bias, kind, weight=1 / count)
        return error + PENALTY * weight.square().sum() / 2

    minimise([weight, bias], loss)
    return weight.detach(), bias.detach()
