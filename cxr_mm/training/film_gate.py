"""Film gate, fitted: a head against altered copies of the training films, and limits learnt on
scores by gates fitted without the patient.
"""

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from cxr_mm.contracts.manifest import ABSENT, Manifest
from cxr_mm.models.film_gate import FilmGate, FilmGateSpec, Limits, oddness
from cxr_mm.models.image_encoder import load_image_encoder
from cxr_mm.params import FuseParams, Params
from cxr_mm.paths import TaskPaths
from cxr_mm.training.film_copies import KINDS, PICTURE, Copies, Rows, film_copies
from cxr_mm.training.film_embeddings import film_embeddings
from cxr_mm.training.studies import Index
from cxr_mm.training.threads import one_thread

FEWEST, MOST = 50, 2000
"""Films below which no gate is fitted, and of which no more are used."""
FOLDS = 5
NAMED = 10
"""Most training films that are named as odd."""
COMPONENTS = 64
"""At most, and at most a quarter of films and of dimensions."""
PENALTY = 5e-5
"""L2, on the mean loss, for standard scores at unit length."""
STEPS = 100
TENTH, RARE = 0.1, 0.02
"""Shares of films between which the tail of a score is measured."""
QUARTER = 0.25
"""Share of made-up pictures that may be nearer than where they are taken to begin."""
EVEN_ODDS, SOME_ODDS = 0.0, math.log(1 / 3)
"""Oddness from which a film is refused or warned of at the earliest, however clear others are."""

_log = logging.getLogger(__name__)


def film_gate(
    manifest: Manifest,
    groups: NDArray[np.object_],
    train: Index,
    val: Index,
    params: Params,
    paths: TaskPaths,
) -> FilmGate | None:
    """The gate of a bundle.

    Args:
        manifest: all studies.
        groups: (N,) what must stay together.
        train, val: rows that may be learnt from.
        params: of the task.
        paths: of the task.

    Returns:
        None where the task has no image, a gate is not wanted, or there are too few films.
    """
    if not (manifest.task.has_image and params.fuse.gate_films):
        return None
    films = gate_films(manifest, groups, train, val, params)
    if len(films.pixel_rows) < FEWEST or len(set(films.groups)) < FOLDS:
        _log.warning("no film gate: %d films are too few for it", len(films.pixel_rows))
        return None
    encoder, wanted = load_image_encoder(paths.image_encoder), params.embed.precision
    every = film_embeddings(encoder, paths, wanted, params.embed.batch_size)
    copies = film_copies(encoder, paths, films.pixel_rows, params.fuse, wanted)
    gate, refused = fit_film_gate(every[films.pixel_rows], films, copies, params.fuse)
    _tell(manifest, films.pixel_rows[refused])
    return gate


def _tell(manifest: Manifest, pixel_rows: Index) -> None:
    """Name the training films that a person should look at."""
    frame = manifest.frame
    names = frame.loc[frame["pixel_row"].isin(pixel_rows), "study_id"].astype(str).tolist()
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        listed = ", ".join(names[:NAMED])
        _log.warning("training films that look upside down or foreign: %s%s", listed, more)


@dataclass(frozen=True)
class GateFilms:
    """Distinct films that a gate may learn from.

    Args:
        pixel_rows: (N,) rows of the pixel cache.
        groups: (N,) what must stay together.
        limiting: (N,) which of them may set limits. An encoder that learnt from films knows them
            better than new ones; where it did, only films of the validation part may.
    """

    pixel_rows: Index
    groups: NDArray[np.object_]
    limiting: NDArray[np.bool_]

    def of(self, films: Index) -> "GateFilms":
        """Some of them, by position."""
        return GateFilms(self.pixel_rows[films], self.groups[films], self.limiting[films])


def gate_films(
    manifest: Manifest, groups: NDArray[np.object_], train: Index, val: Index, params: Params
) -> GateFilms:
    """Films of these rows, at most `MOST`, those that may set limits before others."""
    rows = np.concatenate([val, train])
    frozen = params.train_image.trainable == "frozen"
    limiting = (np.arange(len(rows)) < len(val)) | frozen | (not len(val))
    pixel_rows = manifest.frame["pixel_row"].to_numpy(np.int64)[rows]
    found, first = np.unique(pixel_rows, return_index=True)
    first = first[found != ABSENT]
    shuffled = np.random.default_rng(params.fuse.seed).permutation(len(first))
    preferred = shuffled[np.argsort(~limiting[first[shuffled]], kind="stable")]
    chosen = first[np.sort(preferred[:MOST])]
    return GateFilms(pixel_rows, groups[rows], limiting).of(chosen)


@one_thread()
def fit_film_gate(
    embeddings: Rows, films: GateFilms, copies: Copies, params: FuseParams
) -> tuple[FilmGate, Index]:
    """Fit a gate, its limits learnt on films scored by gates that have not seen the patient.

    Args:
        embeddings: (N, D) of the films as they are.
        films: what they are.
        copies: what was made of some of them.
        params: wanted rates of refusals and warnings among films.

    Returns:
        The gate, and positions of the films that one fitted without the patient would refuse.
    """
    fold = _folds(films.groups, params.seed)
    scores = np.zeros((len(embeddings), 2))
    for number in range(FOLDS):
        inside = fold == number
        others = np.flatnonzero(~inside)
        gate = _fit(embeddings[others], copies.of(others), params.seed)
        scores[inside, 0] = oddness(gate.logits(embeddings[inside]))
        scores[inside, 1] = gate.distance(embeddings[inside])
    limiting = scores[films.limiting]
    refuse = _limits(limiting, params.gate_refuse, EVEN_ODDS)
    warn = _limits(limiting, params.gate_warn, SOME_ODDS)
    gate = _fit(embeddings, copies, params.seed)
    pictures = gate.distance(copies.embeddings[copies.kind == KINDS.index(PICTURE)])
    refuse = _between(refuse, pictures)
    said = {"refuse": refuse, "warn": warn, "limits_from": len(limiting)}
    refused = (scores > (refuse.oddness, refuse.distance)).any(axis=1)
    return replace(gate, spec=gate.spec.model_copy(update=said)), np.flatnonzero(refused)


def _folds(groups: NDArray[np.object_], seed: int) -> Index:
    """Fold (N,) of each film, groups kept whole and dealt out at random."""
    _, codes = np.unique(groups.astype(str), return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(codes.max() + 1) % FOLDS
    fold: Index = dealt[codes]
    return fold


def _limits(scores: NDArray[np.float64], rate: float, floor: float) -> Limits:
    """Limits that together a share `rate` of true films is above.

    Among training films there are some that are upside down or no films at all. So a small rate is
    not read off the highest scores; their tail is taken for exponential from the highest tenth on
    (peaks over threshold: Coles, An Introduction to Statistical Modeling of Extreme Values, 2001).

    Args:
        scores: (N, 2) oddness and distance.
        rate: shared evenly by the two.
        floor: least limit of the oddness.
    """
    share = rate / 2
    known = np.quantile(scores, 1 - max(share, RARE), axis=0)
    slope = (np.quantile(scores, 1 - RARE, axis=0) - np.quantile(scores, 1 - TENTH, axis=0)) / (
        math.log(TENTH / RARE)
    )
    odd, distance = known + slope * max(0.0, math.log(RARE / share))
    return Limits(oddness=max(float(odd), floor), distance=float(distance))


def _between(limits: Limits, pictures: NDArray[np.float64]) -> Limits:
    """The distance's limit half-way to that of made-up pictures, where they lie far beyond it.

    Films of another hospital are further off than any of one's own and films all the same.
    """
    near = float(np.quantile(pictures, QUARTER))
    further = max(limits.distance, (limits.distance + near) / 2)
    return limits.model_copy(update={"distance": further})


def _fit(films: Rows, copies: Copies, seed: int) -> FilmGate:
    """Fit standard scores, components and head; the limits are still none."""
    mean, scale = films.mean(0), films.std(0)
    # A floor, so that a dimension that hardly varies does not become noise at full volume.
    scale = np.maximum(scale, 0.1 * scale.mean() + 1e-6)
    most = min(COMPONENTS, len(films) // 4, len(mean) // 4)
    pca = PCA(most, svd_solver="randomized", random_state=seed).fit((films - mean) / scale)
    every = np.concatenate([films, copies.embeddings])
    kind = np.concatenate([np.zeros(len(films), np.int64), copies.kind])
    standard = (every - mean) / scale / np.float32(np.sqrt(len(mean)))
    weight, bias = _fit_head(torch.from_numpy(standard), torch.from_numpy(kind))
    none = Limits(oddness=math.inf, distance=math.inf)
    spec = FilmGateSpec(kinds=KINDS, refuse=none, warn=none, films=len(films), limits_from=0)
    components = pca.components_.astype(np.float32)
    return FilmGate(spec, mean, scale, components, weight.numpy(), bias.numpy())


def _fit_head(standard: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax regression, each kind of the same weight in all, by L-BFGS."""
    count = torch.bincount(kind, minlength=len(KINDS)).clamp(min=1)
    weight = torch.zeros(len(KINDS), standard.shape[1], requires_grad=True)
    bias = torch.zeros(len(KINDS), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(standard @ weight.T + bias, kind, weight=1 / count)
        loss = loss + PENALTY * weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
