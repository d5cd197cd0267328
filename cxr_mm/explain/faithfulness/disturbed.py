"""Disturbed: a study with a little noise, and a model whose weights have lost their places.

An explanation should hardly change with the one, and must change with the other (Adebayo et al.
2018, Sanity checks for saliency maps). Weights are shuffled within each tensor, so that the network
stays one whose numbers are of the usual size.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from cxr_mm.contracts.study import ClinicalValue, Study
from cxr_mm.explain.note_units import sentences
from cxr_mm.models.bundle import Bundle

Depth = Literal["fusion", "upper", "all"]
DEPTHS: tuple[Depth, ...] = ("fusion", "upper", "all")
"""What is shuffled: the fusion; the upper half of the image encoder too; all of it too."""
NOISE = 0.01
"""Standard deviation: of grey values in [0, 1]; of a number, as a share of its range."""


def with_noise(bundle: Bundle, study: Study, seed: int) -> Study:
    """The study as another detector, another drop of blood, another choice of words might give it.

    Noise on every pixel and on every number that is known; one unit of the note left out.
    """
    rng = np.random.default_rng(seed)
    image = study.image
    if image is not None:
        grain = rng.normal(0, NOISE, image.shape).astype(np.float32)
        image = np.clip(image + grain, 0, 1)
    return replace(
        study,
        image=image,
        clinical=_jittered(bundle, study, rng),
        note=_shortened(study.note, rng) if study.note else study.note,
    )


def _jittered(bundle: Bundle, study: Study, rng: np.random.Generator) -> dict[str, ClinicalValue]:
    values = bundle.check(study)
    for feature in bundle.task.clinical:
        value = values[feature.name]
        if feature.minimum is None or feature.maximum is None or not isinstance(value, float):
            continue
        width = feature.maximum - feature.minimum
        moved = value + rng.normal(0, NOISE * width)
        values[feature.name] = float(np.clip(moved, feature.minimum, feature.maximum))
    return values


def _shortened(note: str, rng: np.random.Generator) -> str:
    units = [unit for sentence in sentences(note) for unit in sentence]
    if len(units) < 2:
        return note
    left_out = int(rng.integers(len(units)))
    return " ".join(unit for k, unit in enumerate(units) if k != left_out)


def randomised(bundle: Bundle, depth: Depth, seed: int) -> Bundle:
    """The bundle with weights shuffled from the top down to a depth; itself stays as it is."""
    generator = torch.Generator().manual_seed(seed)
    fusion = copy.deepcopy(bundle.fusion)
    _shuffle(list(fusion.members.parameters()), generator)
    encoder = bundle.image_encoder
    if encoder is not None and depth != "fusion":
        encoder = copy.deepcopy(encoder)
        weights = list(encoder.backbone.parameters())
        _shuffle(weights[len(weights) // 2 :] if depth == "upper" else weights, generator)
    return replace(bundle, fusion=fusion, image_encoder=encoder)


@torch.no_grad()
def _shuffle(weights: Sequence[nn.Parameter], generator: torch.Generator) -> None:
    for weight in weights:
        flat: Tensor = weight.flatten()
        order = torch.randperm(len(flat), generator=generator)
        weight.copy_(flat[order].reshape(weight.shape))
