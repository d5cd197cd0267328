"""Methods: every way to explain one modality, by name; each subject, target → Attribution."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.errors import InputError, did_you_mean
from cxr_mm.core.progress import NO_PROGRESS, Progress
from cxr_mm.core.types import MODALITIES, Modality
from cxr_mm.explain.attribution import Attribution, Target
from cxr_mm.explain.cam import CamName, cam
from cxr_mm.explain.estimators import READABLE, LimeFit, lime_fit, occlusion, shapley_values
from cxr_mm.explain.games import ClinicalGame, Game, ImageGame, NoteGame, grid, superpixels
from cxr_mm.explain.subject import Subject

SHAP_CELLS, OCCLUSION_CELLS, SUPERPIXELS = 14, 8, 48
IMAGE_COALITIONS, LIME_IMAGE = 160, 257
NOTE_COALITIONS, LIME_NOTE = 128, 129
LIME_CLINICAL = 1000


@dataclass(frozen=True)
class Ask:
    """Options of a run of a method.

    Args:
        seed: of every random draw: same seed, same answer.
        watch: receives progress and may stop the run.
    """

    seed: int = 0
    watch: Progress = NO_PROGRESS


Explain = Callable[[Subject, Target, Ask], Attribution]


@dataclass(frozen=True)
class Method:
    """A method of one modality.

    Args:
        name: as users call it.
        title: as pages show it.
        modality: what it explains.
        explain: computes the attribution.
        reading: one sentence on how to interpret it.
        slow: whether to show progress.
        seeded: whether its answer depends on the seed.
    """

    name: str
    title: str
    modality: Modality
    explain: Explain
    reading: str
    slow: bool = False
    seeded: bool = False


def _cam(method: CamName, subject: Subject, target: Target, ask: Ask) -> Attribution:
    del ask  # it is deterministic, and over at once
    return cam(subject, target, method)


MakeGame = Callable[[Subject, Target, Progress], Game]


def _grid_game(cells: int, subject: Subject, target: Target, watch: Progress) -> ImageGame:
    return ImageGame(subject, target, grid(subject, cells), watch)


def _superpixel_game(subject: Subject, target: Target, watch: Progress) -> ImageGame:
    return ImageGame(subject, target, superpixels(subject, SUPERPIXELS), watch)


def _occlusion(subject: Subject, target: Target, ask: Ask) -> Attribution:
    game = _grid_game(OCCLUSION_CELLS, subject, target, ask.watch)
    return _attribution("occlusion", game, occlusion(game))


def _shap(
    name: str, make: MakeGame, most: int, subject: Subject, target: Target, ask: Ask
) -> Attribution:
    game = make(subject, target, ask.watch)
    found = shapley_values(game, ask.seed, most)
    return _attribution(name, game, found.values, base=found.base, output=found.output)


def _lime(
    name: str, make: MakeGame, samples: int, subject: Subject, target: Target, ask: Ask
) -> Attribution:
    game = make(subject, target, ask.watch)
    fit = lime_fit(game, samples, ask.seed)
    return _attribution(name, game, fit.weights, extra=_local(fit))


def _attribution(name: str, game: Game, values: NDArray[np.float64], **about: Any) -> Attribution:
    """Values (n,) of the players of a game; of the regions of an image, painted over it."""
    if isinstance(game, ImageGame):
        return Attribution("image", name, game.painted(values), signed=True, **about)
    listed = values.astype(np.float32)
    return Attribution(game.modality, name, listed, game.names, signed=True, **about)


def _local(fit: LimeFit) -> dict[str, Any]:
    return {
        "intercept": round(fit.intercept, 6),
        "r2": round(fit.r2, 4),
        "readable": fit.r2 >= READABLE,
    }


CAM_READING = (
    "Regions that raise the logit, scaled to their own highest value; where the model looked, not "
    "proof of disease."
)
EIGEN_READING = "Regions that differ most from the rest of the image, whatever the finding."
OCCLUSION_READING = "What the logit loses when a square of the image is that of a baseline image."
SUM_READING = "What each part adds to the logit; with the base they sum to it."
LIME_READING = (
    "Weights of a linear model of this one study's neighbourhood; R² says how well it fits."
)

_SHAP_IMAGE = partial(_shap, "shap_image", partial(_grid_game, SHAP_CELLS), IMAGE_COALITIONS)
_LIME_IMAGE = partial(_lime, "lime_image", _superpixel_game, LIME_IMAGE)
_SHAP_CLINICAL = partial(_shap, "shap_tabular", ClinicalGame, 0)  # it has no tree
_LIME_CLINICAL = partial(_lime, "lime_tabular", ClinicalGame, LIME_CLINICAL)
_SHAP_NOTE = partial(_shap, "shap_note", NoteGame, NOTE_COALITIONS)
_LIME_NOTE = partial(_lime, "lime_note", NoteGame, LIME_NOTE)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("grad_cam", "Grad-CAM", "image", partial(_cam, "grad_cam"), CAM_READING),
        Method(
            "grad_cam_plus_plus",
            "Grad-CAM++",
            "image",
            partial(_cam, "grad_cam_plus_plus"),
            CAM_READING,
        ),
        Method("layer_cam", "Layer-CAM", "image", partial(_cam, "layer_cam"), CAM_READING),
        Method("eigen_cam", "Eigen-CAM", "image", partial(_cam, "eigen_cam"), EIGEN_READING),
        Method("occlusion", "Occlusion", "image", _occlusion, OCCLUSION_READING, slow=True),
        Method("shap_image", "SHAP", "image", _SHAP_IMAGE, SUM_READING, slow=True),
        Method("lime_image", "LIME", "image", _LIME_IMAGE, LIME_READING, slow=True, seeded=True),
        Method("shap_tabular", "SHAP", "tabular", _SHAP_CLINICAL, SUM_READING, seeded=True),
        Method("lime_tabular", "LIME", "tabular", _LIME_CLINICAL, LIME_READING, seeded=True),
        Method("shap_note", "SHAP", "note", _SHAP_NOTE, SUM_READING),
        Method("lime_note", "LIME", "note", _LIME_NOTE, LIME_READING, slow=True, seeded=True),
    )
}
DEFAULTS = ("grad_cam", "shap_tabular", "shap_note")


def method(name: str) -> Method:
    """A method by name.

    Raises:
        InputError: there is no such method.
    """
    if name not in METHODS:
        remedy = did_you_mean(name, METHODS, f"There are {', '.join(METHODS)}")
        raise InputError("no such method", field=name, remedy=remedy)
    return METHODS[name]


def methods_of(modality: Modality) -> list[Method]:
    """Methods of one modality, in the order in which they are offered.

    Raises:
        InputError: there is no such modality.
    """
    if modality not in MODALITIES:
        raise InputError("no such modality", field=modality, remedy=f"Take {', '.join(MODALITIES)}")
    return [m for m in METHODS.values() if m.modality == modality]
