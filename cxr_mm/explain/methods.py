"""Methods: every way to explain one modality, by name; each subject, target → Attribution."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.errors import InputError
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
    """How a method is to go about it.

    Args:
        seed: of all that is drawn: same seed, same answer.
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
        explain: does it.
        reading: one sentence on how to read it.
        slow: whether to show progress.
        drawn: whether its answer depends on the seed.
    """

    name: str
    title: str
    modality: Modality
    explain: Explain
    reading: str
    slow: bool = False
    drawn: bool = False


def _cam(method: CamName, subject: Subject, target: Target, ask: Ask) -> Attribution:
    del ask  # nothing is drawn, and it is over at once
    return cam(subject, target, method)


def _image(subject: Subject, target: Target, ask: Ask, cells: int) -> ImageGame:
    subject.require("image")
    return ImageGame(subject, target, grid(subject, cells), ask.watch)


def _shap_image(subject: Subject, target: Target, ask: Ask) -> Attribution:
    game = _image(subject, target, ask, SHAP_CELLS)
    found = shapley_values(game, ask.seed, IMAGE_COALITIONS)
    values = game.painted(found.values)
    return Attribution(
        "image", "shap_image", values, signed=True, base=found.base, output=found.output
    )


def _lime_image(subject: Subject, target: Target, ask: Ask) -> Attribution:
    subject.require("image")
    game = ImageGame(subject, target, superpixels(subject, SUPERPIXELS), ask.watch)
    fit = lime_fit(game, LIME_IMAGE, ask.seed)
    extra = _local(fit)
    return Attribution("image", "lime_image", game.painted(fit.weights), signed=True, extra=extra)


def _occlusion(subject: Subject, target: Target, ask: Ask) -> Attribution:
    game = _image(subject, target, ask, OCCLUSION_CELLS)
    return Attribution("image", "occlusion", game.painted(occlusion(game)), signed=True)


def _shap(
    name: str,
    make: Callable[[Subject, Target, Progress], Game],
    subject: Subject,
    target: Target,
    ask: Ask,
) -> Attribution:
    game = make(subject, target, ask.watch)
    found = shapley_values(game, ask.seed, NOTE_COALITIONS)
    return _listed(name, game, found.values, base=found.base, output=found.output)


def _lime(
    name: str,
    make: Callable[[Subject, Target, Progress], Game],
    samples: int,
    subject: Subject,
    target: Target,
    ask: Ask,
) -> Attribution:
    game = make(subject, target, ask.watch)
    fit = lime_fit(game, samples, ask.seed)
    return _listed(name, game, fit.weights, extra=_local(fit))


def _listed(
    name: str,
    game: Game,
    values: NDArray[np.float64],
    base: float | None = None,
    output: float | None = None,
    extra: dict[str, Any] | None = None,
) -> Attribution:
    return Attribution(
        game.modality,
        name,
        values.astype(np.float32),
        game.names,
        signed=True,
        base=base,
        output=output,
        extra=extra or {},
    )


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
SUM_READING = "What each part adds to the logit; with the base they sum to it."
LIME_READING = (
    "Weights of a linear model of this one study's neighbourhood; R² says how well it fits."
)

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
        Method(
            "eigen_cam",
            "Eigen-CAM",
            "image",
            partial(_cam, "eigen_cam"),
            "Regions that differ most from the rest of the image, whatever the finding.",
        ),
        Method(
            "occlusion",
            "Occlusion",
            "image",
            _occlusion,
            "What the logit loses when a square of the image is that of a baseline image.",
            slow=True,
        ),
        Method("shap_image", "SHAP", "image", _shap_image, SUM_READING, slow=True),
        Method("lime_image", "LIME", "image", _lime_image, LIME_READING, slow=True, drawn=True),
        Method(
            "shap_tabular",
            "SHAP",
            "tabular",
            partial(_shap, "shap_tabular", ClinicalGame),
            SUM_READING,
            drawn=True,
        ),
        Method(
            "lime_tabular",
            "LIME",
            "tabular",
            partial(_lime, "lime_tabular", ClinicalGame, LIME_CLINICAL),
            LIME_READING,
            drawn=True,
        ),
        Method(
            "shap_note",
            "SHAP",
            "note",
            partial(_shap, "shap_note", NoteGame),
            SUM_READING,
        ),
        Method(
            "lime_note",
            "LIME",
            "note",
            partial(_lime, "lime_note", NoteGame, LIME_NOTE),
            LIME_READING,
            slow=True,
            drawn=True,
        ),
    )
}
DEFAULTS = ("grad_cam", "shap_tabular", "shap_note")


def method(name: str) -> Method:
    """A method by name.

    Raises:
        InputError: there is none such.
    """
    if name not in METHODS:
        raise InputError("no such method", field=name, remedy=f"There are {', '.join(METHODS)}")
    return METHODS[name]


def methods_of(modality: Modality) -> list[Method]:
    """Methods of one modality, in the order in which they are offered.

    Raises:
        InputError: there is no such modality.
    """
    if modality not in MODALITIES:
        raise InputError("no such modality", field=modality, remedy=f"Take {', '.join(MODALITIES)}")
    return [m for m in METHODS.values() if m.modality == modality]
