"""Shifts: simulated changes of studies, of their mix or of their labels.

Each has three sizes, fixed before any measurement, and the names of reasons that identify it. A
shift corrupts studies (all of them by a strength, or a share of them), draws studies of the pool
with other weights, or swaps labels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.imaging.ood_images import synthetic_pictures

Floats = NDArray[np.float64]
Random = np.random.Generator
Alter = Callable[[Study, float, Random, Task], Study]
Kind = Literal["strength", "share", "mix", "label"]
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Shift:
    """A kind of shift.

    Args:
        name: for tables.
        kind: `strength`: every study is corrupted by this strength; `share`: this share of studies
            is corrupted; `mix`: studies are drawn with other weights; `label`: this share of labels
            is swapped.
        sizes: small, medium and large.
        blamed: prefixes of the reasons that identify it.
        alter: corrupts one study at a strength (1 for a share); None where studies stay unchanged.
        needs: input that the task must have.
    """

    name: str
    kind: Kind
    sizes: tuple[float, float, float]
    blamed: tuple[str, ...]
    alter: Alter | None = None
    needs: Literal["image", "note", "number", "age", "labels"] = "image"


def _image(change: Callable[[NDArray[np.float32], float, Random], NDArray[np.floating]]) -> Alter:
    """A change of pixels in [0, 1]; a study without an image stays as it is."""

    def alter(study: Study, size: float, random: Random, _task: Task) -> Study:
        if study.image is None:
            return study
        pixels = np.clip(change(study.image, size, random), 0, 1).astype(np.float32)
        return replace(study, image=pixels, quality={})

    return alter


def _site(pixels: NDArray[np.float32], size: float, random: Random) -> NDArray[np.floating]:
    """Another hospital's look: softer, collimated by bars, with a bright marker."""
    height, width = pixels.shape
    soft: NDArray[np.float32] = gaussian_filter(pixels, size * max(height, width) / 400)
    bar = max(1, round(width * 0.04 * size))
    soft[:, :bar] = 0
    soft[:, -bar:] = 0
    side = max(2, round(width * 0.04 * size))
    left = int(random.integers(bar, max(bar + 1, width // 4)))
    soft[side : 2 * side, left : left + side] = 1
    return soft


def _photograph(pixels: NDArray[np.float32], _size: float, random: Random) -> NDArray[np.floating]:
    """A synthetic picture in place of the image."""
    side = min(pixels.shape)
    return np.asarray(synthetic_pictures(1, side, random)[0] / 255, np.float32)


def _child(study: Study, _size: float, random: Random, _task: Task) -> Study:
    """A child's age; the image stays an adult's, so that age alone reveals it."""
    return replace(study, clinical={**study.clinical, "age": float(random.integers(1, 15))})


def laboratory(task: Task) -> str | None:
    """A laboratory value or vital sign of the task: CRP, or the first number that is not age."""
    names = [f.name for f in task.clinical if f.type == "number" and f.name != "age"]
    return ("crp" if "crp" in names else names[0]) if names else None


def _unit(study: Study, _size: float, _random: Random, task: Task) -> Study:
    """A tenth of the value, as where mg/L become mg/dL."""
    name = laboratory(task)
    value = study.clinical.get(name or "")
    if not isinstance(value, int | float):
        return study
    feature = next(f for f in task.clinical if f.name == name)
    tenth = max(float(value) / 10, feature.minimum if feature.minimum is not None else -np.inf)
    return replace(study, clinical={**study.clinical, feature.name: tenth})


def _missing(study: Study, _size: float, _random: Random, task: Task) -> Study:
    return replace(study, clinical={**study.clinical, laboratory(task) or "": None})


JOINING_WORDS = frozenset({"the", "a", "of", "and"})


def _headings(study: Study, _size: float, _random: Random, _task: Task) -> Study:
    """Another note template: headings around the text, joining words left out."""
    if study.note is None:
        return study
    words = [w for w in study.note.split() if w.lower().strip(".,") not in JOINING_WORDS]
    half = len(words) // 2
    first, second = words[:half], words[half:]
    note = ["HISTORY:", *first, "EXAMINATION: as below.", *second, "PLAN: see chart."]
    return replace(study, note=" ".join(note))


GERMAN = (
    "Der Patient stellt sich mit Fieber und Husten seit mehreren Tagen vor.",
    "Keine Vorerkrankungen bekannt, keine regelmäßige Medikation.",
    "Zunehmende Atemnot bei Belastung, Beinödeme beidseits.",
    "Auskultatorisch Rasselgeräusche rechts basal.",
    "Bitte um Röntgenaufnahme des Brustkorbs.",
    "Verlaufskontrolle nach Beginn der Behandlung.",
    "Zustand nach Sturz, Schmerzen beim Einatmen.",
)


def _language(study: Study, _size: float, random: Random, _task: Task) -> Study:
    """A German note in place of the original."""
    if study.note is None:
        return study
    chosen = random.choice(len(GERMAN), size=3, replace=False)
    return replace(study, note=" ".join(GERMAN[i] for i in chosen))


QUALITY = ("quality.",)
EXPOSURE = _image(lambda pixels, size, _: pixels**size)
"""Another tone curve, as of another dose or look-up table."""
CONTRAST = _image(lambda pixels, size, _: 0.5 + (pixels - 0.5) * size)
NOISE = _image(lambda pixels, size, random: pixels + random.normal(0, size, pixels.shape))
INVERTED = _image(lambda pixels, *_: 1 - pixels)
PHOTOGRAPH = _image(_photograph)
SHIFTS: tuple[Shift, ...] = (
    Shift("scanner exposure", "strength", (1.15, 1.4, 2.0), QUALITY, EXPOSURE),
    Shift("scanner contrast", "strength", (0.9, 0.75, 0.5), QUALITY, CONTRAST),
    Shift("scanner noise", "strength", (0.01, 0.03, 0.06), QUALITY, NOISE),
    Shift("other hospital", "strength", (0.5, 1.0, 2.0), (*QUALITY, "image_pc"), _image(_site)),
    Shift(
        "inverted images",
        "share",
        (0.05, 0.2, 0.5),
        ("images.rejected", "quality.inversion"),
        INVERTED,
    ),
    Shift("photographs", "share", (0.05, 0.2, 0.5), ("images.rejected", "image_pc"), PHOTOGRAPH),
    Shift("children", "share", (0.05, 0.2, 0.5), ("clinical.age",), _child, "age"),
    Shift("older patients", "mix", (0.3, 0.7, 1.5), ("clinical.age",), needs="age"),
    Shift("laboratory unit", "share", (0.2, 0.5, 1.0), ("clinical.",), _unit, "number"),
    Shift("feature missing", "share", (0.2, 0.5, 1.0), ("clinical.",), _missing, "number"),
    Shift("note template", "share", (0.2, 0.5, 1.0), ("note.", "note_pc"), _headings, "note"),
    Shift("note language", "share", (0.05, 0.2, 0.5), ("note.", "note_pc"), _language, "note"),
    Shift("prevalence up", "mix", (0.5, 1.0, 2.0), ("prevalence",), needs="labels"),
    Shift("prevalence down", "mix", (-0.5, -1.0, -2.0), ("prevalence",), needs="labels"),
    Shift("concept", "label", (0.1, 0.2, 0.4), (), needs="labels"),
)
"""Sizes of a mix: `older patients` weighs by exp(size × age in standard deviations), prevalence by
exp(size) for studies with the last finding. Of `concept` the share of studies whose labels are
swapped; any reason of concept drift identifies it."""


def possible(shift: Shift, task: Task) -> bool:
    """Whether a task has the input that the shift changes."""
    return {
        "image": task.has_image,
        "note": task.note is not None,
        "number": laboratory(task) is not None,
        "age": any(f.name == "age" for f in task.clinical),
        "labels": True,
    }[shift.needs]


def identifies(shift: Shift, task: Task, name: str, drift: str) -> bool:
    """Whether the first reason of a verdict identifies the shift."""
    if shift.kind == "label":
        return drift == "concept"
    if shift.name in ("laboratory unit", "feature missing"):
        missing = ".missing" if shift.name == "feature missing" else ""
        return name == f"clinical.{laboratory(task)}{missing}"
    return drift == "data" and name.startswith(shift.blamed)
