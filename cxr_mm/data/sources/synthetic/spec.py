"""Dials of the synthetic source, and the random stream behind each part of a study.

Every part of a study (illness, clinical values, note, film, …) draws from its own stream, seeded
by (seed, part, index) alone: a study does not depend on how many processes make it or how many
studies follow, and turning one dial leaves the draws of all other parts as they were.
"""

from enum import IntEnum
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from cxr_mm.contracts.frozen import Frozen

FINDINGS = ("consolidation", "effusion")
NUMBERS = ("age", "temperature", "heart_rate", "spo2", "crp", "wbc", "albumin")
CATEGORIES = ("sex", "smoker", "prior_heart_failure")
CLINICAL = ("age", "sex", "smoker", "prior_heart_failure", *NUMBERS[1:])


class SynthesisSpec(Frozen):
    """What is made up and how; the defaults are the population without any drift."""

    studies: int = Field(1500, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0)
    size: int = Field(256, ge=96, le=1024)
    """Long side of a film in pixels."""
    prevalence_consolidation: float = Field(0.30, gt=0, lt=1)
    prevalence_effusion: float = Field(0.30, gt=0, lt=1)

    exposure: float = Field(0.0, ge=-4, le=4)
    """Added to each film's exposure, in units of its usual spread; above 0 is brighter."""
    contrast: float = Field(1.0, gt=0.1, le=4)
    """Factor on each film's contrast."""
    noise: float = Field(1.0, ge=0, le=10)
    """Factor on each film's noise."""
    blur: float = Field(0.0, ge=0, le=8)
    """Further Gaussian blur, standard deviation in pixels of a 256-pixel film."""
    inverted: float = Field(0.0, ge=0, le=1)
    """Share of films stored with air white (as MONOCHROME1 misread)."""
    site_mix: tuple[float, float, float] = (0.45, 0.35, 0.20)
    """Shares of patients at sites A, B and C; scaled to sum to one."""

    age_shift: float = Field(0.0, ge=-60, le=60)
    """Years added to every age; what ails the patients stays as it was."""
    male: float = Field(0.52, ge=0, le=1)
    """Share of men."""
    missing: float = Field(1.0, ge=0, le=10)
    """Factor on the chance that a single clinical value is missing."""
    lost_feature: str = ""
    """A clinical feature that is no longer delivered; empty for none."""
    crp_unit: Literal["mg/L", "mg/dL"] = "mg/L"
    """The unit that the laboratory reports CRP in (the task says mg/L)."""
    note_style: Literal["prose", "headings"] = "prose"
    """Template set of the notes."""
    concept: float = Field(0.0, ge=0, le=1)
    """Share of patients aged 65 and over whose effusion label follows another rule: it says
    whether there is consolidation. Nothing that a model sees changes."""

    image_absent: float = Field(0.03, ge=0, le=1)
    tabular_absent: float = Field(0.05, ge=0, le=1)
    note_absent: float = Field(0.15, ge=0, le=1)
    label_missing: float = Field(0.02, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.site_mix) < 0 or sum(self.site_mix) <= 0:
            raise ValueError("site_mix: shares must be at least 0 and not all 0")
        if self.lost_feature and self.lost_feature not in CLINICAL:
            raise ValueError(f"lost_feature: {self.lost_feature!r} is none of {CLINICAL}")
        return self


class Part(IntEnum):
    """The parts of a patient or study that have a random stream of their own."""

    PATIENT = 1
    SITE = 2
    ILLNESS = 3
    CLINICAL = 4
    MISSING = 5
    NOTE = 6
    BODY = 7
    FILM = 8
    LESION = 9
    CONCEPT = 10


def stream(spec: SynthesisSpec, part: Part, index: int) -> np.random.Generator:
    """The random stream of one part of patient or study number `index`."""
    return np.random.default_rng([spec.seed, int(part), index])
