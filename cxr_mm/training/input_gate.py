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
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.imaging.augment import Level, augment
from cxr_mm.imaging.corruptions import random_corruption
from cxr_mm.imaging.ood_images import OOD_COPIES, synthetic_pictures
from cxr_mm.imaging.tensors import image_batches
from cxr_mm.models.image_encoder import ImageEncoder, load_image_encoder
from cxr_mm.models.input_gate import IMAGE, InputGate, InputGateSpec, Limits
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
    for kind, squares in _copies(np.asarray(pixels[pixel_rows[chosen]]), params.seed):
        owner = np.full(len(squares), -1) if kind == PICTURE else chosen
        number = np.full(len(squares), KINDS.index(kind))
        parts.append((image_embeddings(encoder, squares), number, owner))
    embeddings, kinds, owners = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Copies(embeddings, kinds, owners)


def _copies(squares: Squares, seed: int) -> Iterator[tuple[str, Squares]]:
    """Yield each kind with its copies (n, S, S), in the order of `KINDS`.

    A varied image is still valid: placed, exposed, cropped or stored otherwise. Such copies keep
    the gate from rejecting images of other hospitals.
    """
    yield IMAGE, _varied(squares, "light", seed)
    yield IMAGE, _varied(squares, "strong", seed)
    random = np.random.default_rng([seed, KINDS.index(IMAGE)])
    yield IMAGE, np.stack([random_corruption(square, random) for square in squares])
    for kind, alter in OOD_COPIES.items():
        random = np.random.default_rng([seed, KINDS.index(kind)])
        yield kind, np.stack([alter(square, random) for square in squares])
    count = max(4, len(squares) // 2)
    yield PICTURE, synthetic_pictures(count, squares.shape[1], np.random.default_rng([seed, 99]))


def _varied(squares: Squares, level: Level, seed: int) -> Squares:
    generator = torch.Generator().manual_seed(seed)
    batches = image_batches(squares, np.arange(len(squares)), BATCH)
    varied = torch.cat([augment(images, level, generator)[:, 0] for images in batches])
    bytes_: Squares = ((varied + 1) * 127.5).round().to(torch.uint8).numpy()
    return bytes_


FEWEST, MOST = 50, 2000
"""Fewest images that a gate is fitted on, and most that are used."""
FOLDS = 5
REFUSE_RATE, WARN_RATE = 0.005, 0.02
"""Shares of true images that the gate may reject, and may at least warn of."""
COPIES_REFUSED, COPIES_WARNED = 0.01, 0.05
"""The same of their varied copies, which stand for the images of other hospitals."""
MISSED = 0.01
"""Share of the OOD copies of each kind that the head may miss where images leave it the room."""
TOWARDS_PICTURES = 0.2
"""Part of the way from images to synthetic pictures at which the head rejects: real pictures are
less unlike images than synthetic ones."""
NAMED = 10
"""Most training images that the warning names."""
COMPONENTS = 64
"""Most principal components; never more than a quarter of the images or of the dimensions."""
PENALTY = 5e-6
"""Of the squared weights, on the mean loss, for standard scores at unit length."""
TENTH, RARE = 0.1, 0.02
"""Shares of images between which the slope of a score's tail is measured."""
PICTURES_FROM = 0.5
"""Quantile of the synthetic pictures' distances from which they are taken to begin."""
EVEN_ODDS = 0.0
"""Least limit of the ood_score for rejecting, however low the training scores."""

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
    gate = _fit(embeddings, copies, seed)
    own, copied = _unseen_scores(gate, embeddings, images, copies, seed)
    is_valid = (copies.kind == KINDS.index(IMAGE)) & images.limiting[copies.owner]
    limiting = np.concatenate([own[images.limiting], copied[is_valid]])
    offsets = _offsets(limiting, copied, copies.kind)
    own, copied = _two_scores(own, offsets), _two_scores(copied, offsets)
    pictures = copied[copies.kind == KINDS.index(PICTURE), 1]
    refuse, warn = _both_limits(own[images.limiting], copied[is_valid], pictures)
    above = (refuse.ood_score, refuse.distance)
    rejected = np.any(own > above, axis=1)
    found = {
        "refuse": refuse,
        "warn": warn,
        "limits_from": int(images.limiting.sum()),
        "rejected": int(np.sum(rejected & images.limiting)),
        "copies": int(is_valid.sum()),
        "copies_rejected": int(np.any(copied[is_valid] > above, axis=1).sum()),
    }
    bias = gate.bias - np.concatenate([[0.0], offsets]).astype(np.float32)
    gate = replace(gate, spec=gate.spec.model_copy(update=found), bias=bias)
    return gate, np.flatnonzero(rejected)


Scores = NDArray[np.float64]


def _unseen_scores(
    gate: InputGate, embeddings: Rows, images: GateImages, copies: Copies, seed: int
) -> tuple[Scores, Scores]:
    """Score images (N, kinds) and copies (M, kinds) by gates that have not seen the patient.

    Columns are the log odds of each kind against `image`, then the distance. Synthetic pictures
    have no patient: `gate`, fitted on everything, scores them.
    """
    fold = _folds(images.groups, seed)
    fold_of_copy = np.where(copies.owner < 0, -1, fold[copies.owner])
    own, copied = np.zeros((len(embeddings), len(KINDS))), _scores(gate, copies.embeddings)
    for number in range(FOLDS):
        inside, also = fold == number, fold_of_copy == number
        others = np.flatnonzero(~inside)
        unseeing = _fit(embeddings[others], copies.of(others), seed)
        own[inside] = _scores(unseeing, embeddings[inside])
        copied[also] = _scores(unseeing, copies.embeddings[also])
    return own, copied


def _scores(gate: InputGate, embeddings: Rows) -> Scores:
    logits = gate.logits(embeddings)
    return np.column_stack([logits[:, 1:] - logits[:, :1], gate.distance(embeddings)])


def _two_scores(scores: Scores, offsets: Scores) -> Scores:
    """The ood_score of a head whose log odds are so much lower, and the distance: (N, 2)."""
    ood = np.logaddexp.reduce(scores[:, :-1] - offsets, axis=1)
    return np.column_stack([ood, scores[:, -1]])


def _offsets(valid: Scores, copied: Scores, kind: Index) -> Scores:
    """Log odds of each kind at which its rejection begins.

    Images of other hospitals are between those of this one and the OOD copies, so rejection begins
    as far towards the copies as misses no more than `MISSED` of them; where both overlap, at even
    odds.

    Args:
        valid: scores of images and of their varied copies.
        copied: scores of all copies, of these kinds (M,).
    """
    offsets = np.zeros(len(KINDS) - 1)
    for column, name in enumerate(KINDS[1:]):
        of_kind = copied[kind == column + 1, column]
        if len(of_kind):
            upper = min(float(np.quantile(valid[:, column], 1 - REFUSE_RATE)), EVEN_ODDS)
            room = max(0.0, float(np.quantile(of_kind, MISSED)) - upper)
            offsets[column] = upper + room * (TOWARDS_PICTURES if name == PICTURE else 1)
    return offsets


def _both_limits(own: Scores, valid: Scores, pictures: Scores) -> tuple[Limits, Limits]:
    """Limits for rejecting and for warning.

    Args:
        own, valid: both scores of images, and of their varied copies.
        pictures: distances of synthetic pictures.
    """
    refuse = _limits(own, REFUSE_RATE, EVEN_ODDS)
    further = _with_room(refuse, valid, COPIES_REFUSED).distance
    refuse = _between(refuse.model_copy(update={"distance": further}), pictures)
    warn = _with_room(_limits(own, WARN_RATE, -math.inf), valid, COPIES_WARNED)
    lower = min(warn.ood_score, refuse.ood_score), min(warn.distance, refuse.distance)
    return refuse, Limits(ood_score=lower[0], distance=lower[1])


def _with_room(limits: Limits, valid: Scores, rate: float) -> Limits:
    """Raise limits until no more than a share `rate` of varied copies is above either."""
    if not len(valid):
        return limits
    ood, distance = np.quantile(valid, 1 - rate, axis=0)
    return Limits(
        ood_score=max(limits.ood_score, float(ood)), distance=max(limits.distance, float(distance))
    )


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
    near = float(np.quantile(pictures, PICTURES_FROM))
    further = max(limits.distance, (limits.distance + near) / 2)
    return limits.model_copy(update={"distance": further})


def _fit(images: Rows, copies: Copies, seed: int) -> InputGate:
    """Fit standard scores, components and head, without limits."""
    valid = np.concatenate([images, copies.embeddings[copies.kind == KINDS.index(IMAGE)]])
    mean, scale = valid.mean(0), valid.std(0)
    # A floor, so that a dimension that hardly varies does not become noise at full volume.
    scale = np.maximum(scale, 0.1 * scale.mean() + 1e-6)
    most = min(COMPONENTS, len(valid) // 4, len(mean) // 4)
    pca = PCA(most, svd_solver="randomized", random_state=seed).fit((valid - mean) / scale)
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
