"""The generative model of patients and their illness; docs/synthetic.md has its formulas.

Findings follow a liability-threshold model (Falconer 1965): a finding is present where a standard
normal liability, the sum of known risks, a constant of the patient and chance, exceeds the
quantile of its prevalence.
"""

from dataclasses import dataclass
from enum import IntEnum
from statistics import NormalDist
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from cxr_mm.core.types import Frozen

FINDINGS = ("consolidation", "effusion")
NUMBERS = ("age", "temperature", "heart_rate", "spo2", "crp", "wbc", "albumin")
CATEGORIES = ("sex", "smoker", "prior_heart_failure")
CLINICAL = ("age", "sex", "smoker", "prior_heart_failure", *NUMBERS[1:])


class SynthesisSpec(Frozen):
    """Parameters of the population; the defaults have no drift."""

    studies: int = Field(1500, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0)
    size: int = Field(256, ge=96, le=1024)
    """Long side of an image in pixels."""
    prevalence_consolidation: float = Field(0.30, gt=0, lt=1)
    prevalence_effusion: float = Field(0.30, gt=0, lt=1)

    exposure: float = Field(0.0, ge=-4, le=4)
    """Added to each image's exposure, in units of its usual spread; above 0 is brighter."""
    contrast: float = Field(1.0, gt=0.1, le=4)
    """Factor on each image's contrast."""
    noise: float = Field(1.0, ge=0, le=10)
    """Factor on each image's noise."""
    blur: float = Field(0.0, ge=0, le=8)
    """Further Gaussian blur, standard deviation in pixels of a 256-pixel image."""
    inverted: float = Field(0.0, ge=0, le=1)
    """Share of images stored with air white (as MONOCHROME1 misread)."""
    site_mix: tuple[float, float, float] = (0.45, 0.35, 0.20)
    """Shares of patients at sites A, B and C; scaled to sum to one."""

    age_shift: float = Field(0.0, ge=-60, le=60)
    """Years added to every age; the risks of illness do not change."""
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
    """Share of patients aged 65 and over whose effusion label is that of consolidation. The inputs
    of the model do not change."""

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
    IMAGE = 8
    LESION = 9
    CONCEPT = 10


def stream(spec: SynthesisSpec, part: Part, index: int) -> np.random.Generator:
    """The random stream of one part of patient or study number `index`."""
    return np.random.default_rng([spec.seed, int(part), index])


Site = Literal["A", "B", "C"]
SITES: tuple[Site, ...] = ("A", "B", "C")
STUDIES_PER_PATIENT = (0.60, 0.28, 0.12)
AGE_MEAN, AGE_SD, AGE_RANGE = 62.0, 16.0, (18.0, 100.0)
OLD = 65.0
"""Age in years from which the concept dial acts."""


@dataclass(frozen=True)
class Patient:
    """The properties of a patient that are the same in all studies.

    `age` is in years, before the dial; `risk_*` are standard normal.
    """

    index: int
    site: Site
    age: float
    male: bool
    smoker: Literal["never", "former", "current"]
    heart_failure: bool
    habitus: float
    risk_consolidation: float
    risk_effusion: float


@dataclass(frozen=True)
class Illness:
    """The latent state of one study, from which all its inputs are drawn.

    Args:
        consolidation, effusion: whether the finding is present.
        stage: stage of the infection, 0 = first hours, 1 = late.
        extent: visibility of the consolidation on the image, in [0, 1]; grows with `stage`.
        response: inflammatory response to it, in [0, 1.6]; fades with `stage`.
        acuity: speed of the effusion, 0 = over weeks, 1 = over hours.
        volume: of fluid on the image, in [0, 1]; falls with `acuity`.
        strain: effect on vital signs, in [0, 1.6]; grows with `acuity`.
        cardiac: whether the fluid is of cardiac origin.
        other_infection: infection elsewhere (fever and markers without any finding).
        congestion: decompensated heart without fluid in the pleura.
        view: PA, or AP for those who cannot stand.
        sides: side on which each finding is (or would be) worst, 0 right, 1 left.
    """

    consolidation: bool
    effusion: bool
    stage: float
    extent: float
    response: float
    acuity: float
    volume: float
    strain: float
    cardiac: bool
    other_infection: bool
    congestion: bool
    view: Literal["PA", "AP"]
    sides: tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One study with its latent state, before its image, features and note are drawn."""

    index: int
    patient: Patient
    illness: Illness


def draw_patient(spec: SynthesisSpec, index: int) -> tuple[Patient, int]:
    """Draw patient number `index` and their number of studies."""
    rng = stream(spec, Part.PATIENT, index)
    studies = 1 + int(rng.choice(3, p=STUDIES_PER_PATIENT))
    age = float(np.clip(rng.normal(AGE_MEAN, AGE_SD), *AGE_RANGE))
    male = bool(rng.random() < spec.male)
    smoker: Literal["never", "former", "current"] = (
        "never" if (u := rng.random()) < 0.5 else "former" if u < 0.78 else "current"
    )
    heart_failure = bool(rng.random() < 1 / (1 + np.exp(1.9 - 0.055 * (age - AGE_MEAN))))
    mix = np.cumsum(spec.site_mix) / sum(spec.site_mix)
    site = SITES[min(2, int(np.searchsorted(mix, stream(spec, Part.SITE, index).random())))]
    habitus, risk_c, risk_e = (float(v) for v in rng.standard_normal(3))
    habitus = float(np.clip(habitus, -2, 2))
    patient = Patient(index, site, age, male, smoker, heart_failure, habitus, risk_c, risk_e)
    return patient, studies


def draw_cases(spec: SynthesisSpec) -> list[Case]:
    """The first `spec.studies` studies of the population, patient by patient."""
    cases: list[Case] = []
    patients = 0
    while len(cases) < spec.studies:
        patient, studies = draw_patient(spec, patients)
        patients += 1
        for _ in range(min(studies, spec.studies - len(cases))):
            cases.append(Case(len(cases), patient, _draw_illness(spec, patient, len(cases))))
    return cases


def _draw_illness(spec: SynthesisSpec, patient: Patient, index: int) -> Illness:
    rng = stream(spec, Part.ILLNESS, index)
    consolidation, effusion = _findings(spec, patient, rng)
    stage, acuity = (float(v) for v in rng.random(2))
    n = rng.standard_normal(4)
    u = rng.random(6)
    cardiac = bool(u[0] < (0.75 if patient.heart_failure else 0.3))
    ill = 0.8 * consolidation + 0.8 * effusion + (0.5 if patient.site == "C" else 0.0)
    return Illness(
        consolidation=consolidation,
        effusion=effusion,
        stage=stage,
        extent=float(np.clip(0.18 + 0.62 * stage + 0.12 * n[0], 0.05, 1)),
        response=float(np.clip(1.35 - 0.85 * stage + 0.20 * n[1], 0.1, 1.6)),
        acuity=acuity,
        volume=float(np.clip(0.78 - 0.60 * acuity + 0.12 * n[2], 0.06, 1)),
        strain=float(np.clip(0.35 + 0.85 * acuity + 0.20 * n[3], 0.1, 1.6)),
        cardiac=cardiac,
        other_infection=bool(u[1] < 0.18),
        congestion=bool(u[2] < (0.30 if patient.heart_failure else 0.04)),
        view="AP" if u[3] < 1 / (1 + np.exp(0.9 - ill)) else "PA",
        sides=(int(u[4] < 0.42), int(u[5] < (0.40 if cardiac else 0.50))),
    )


def _findings(spec: SynthesisSpec, patient: Patient, rng: np.random.Generator) -> tuple[bool, bool]:
    """Draw the findings; every term has unit variance, so the variance shares sum to 1."""
    own = rng.standard_normal(2)
    smokes = ((patient.smoker != "never") - 0.5) / 0.5
    failing = (patient.heart_failure - 0.15) / 0.36
    aged = (patient.age - AGE_MEAN) / AGE_SD
    liability_c = np.sqrt(0.20) * patient.risk_consolidation + np.sqrt(0.06) * smokes
    liability_c += np.sqrt(0.74) * own[0]
    liability_e = np.sqrt(0.15) * patient.risk_effusion + np.sqrt(0.05) * own[0]
    liability_e += np.sqrt(0.06) * failing + np.sqrt(0.06) * aged + np.sqrt(0.64) * own[1]
    cut = NormalDist().inv_cdf
    return (
        bool(liability_c > cut(1 - spec.prevalence_consolidation)),
        bool(liability_e > cut(1 - spec.prevalence_effusion)),
    )


def labels(spec: SynthesisSpec, case: Case) -> dict[str, int | None]:
    """The labels: some are missing, and only here the concept dial acts."""
    rng = stream(spec, Part.CONCEPT, case.index)
    follows = rng.random() < spec.concept and case.patient.age + spec.age_shift >= OLD
    effusion = case.illness.consolidation if follows else case.illness.effusion
    known = rng.random(2) >= spec.label_missing
    return {
        "consolidation": int(case.illness.consolidation) if known[0] else None,
        "effusion": int(effusion) if known[1] else None,
    }


Row = dict[str, str | float | None]

LABS = ("crp", "wbc", "albumin")
RANGES: dict[str, tuple[float, float]] = {
    "age": (18, 100),
    "temperature": (34.0, 41.5),
    "heart_rate": (40, 190),
    "spo2": (60, 100),
    "crp": (0.3, 500),
    "wbc": (0.5, 60),
    "albumin": (12, 55),
}
"""Limits to which values are clipped, as a device or laboratory does."""
DECIMALS = {"temperature": 1, "crp": 1, "wbc": 1}
MISSING = {
    "age": 0.01,
    "sex": 0.01,
    "smoker": 0.20,
    "prior_heart_failure": 0.06,
    "temperature": 0.05,
    "heart_rate": 0.04,
    "spo2": 0.06,
    "crp": 0.18,
    "wbc": 0.15,
    "albumin": 0.28,
}
"""Probability that a value is missing at site A for an average patient."""
LAB_SITE = {"A": 1.0, "B": 1.5, "C": 0.7}
"""Factor on the chance that a laboratory value is missing."""
MG_PER_L_IN_MG_PER_DL = 10.0


def clinical_values(spec: SynthesisSpec, case: Case) -> Row:
    """Every feature, none missing; numbers rounded as they are reported."""
    patient, ill = case.patient, case.illness
    n = stream(spec, Part.CLINICAL, case.index).standard_normal(6)
    infection = ill.consolidation * ill.response
    fluid = ill.effusion * ill.strain
    exudate = ill.effusion * (not ill.cardiac)
    other, wet = float(ill.other_infection), float(ill.congestion)
    values = {
        "age": patient.age + spec.age_shift,
        "temperature": 36.8 + 0.45 * n[0] + 0.50 * infection + 0.25 * exudate + 0.7 * other,
        "heart_rate": 80 + 12 * n[1] + 6 * infection + 9 * fluid + 7 * other + 8 * wet,
        "spo2": 100 - np.exp(1.15 + 0.42 * n[2] + 0.22 * infection + 0.38 * fluid + 0.4 * wet),
        "crp": np.exp(2.2 + 1.0 * n[3] + 0.80 * infection + 0.5 * exudate + 1.2 * other),
        "wbc": np.exp(2.05 + 0.28 * n[4] + 0.19 * infection + 0.25 * other),
        "albumin": 40 + 4.3 * n[5] - 1.5 * infection - 1.5 * fluid - 2.5 * exudate,
    }
    row: Row = {
        "sex": "male" if patient.male else "female",
        "smoker": patient.smoker,
        "prior_heart_failure": "yes" if patient.heart_failure else "no",
    }
    for name, value in values.items():
        row[name] = round(float(np.clip(value, *RANGES[name])), DECIMALS.get(name, 0))
    return {name: row[name] for name in CLINICAL}


def missing_chance(spec: SynthesisSpec, case: Case) -> dict[str, float]:
    """Probability that each value is missing, given site and severity of illness."""
    ill = case.illness
    looks_ill = ill.consolidation * ill.response + ill.effusion * ill.strain
    chances = {}
    for name, chance in MISSING.items():
        if name in LABS:
            chance = chance * LAB_SITE[case.patient.site] * (1.1 - 0.25 * min(looks_ill, 2.0))
        chances[name] = min(1.0, chance * spec.missing)
    return chances


def reported_clinical(spec: SynthesisSpec, case: Case) -> Row:
    """The features as delivered: values missing, the unit of CRP as the laboratory has it."""
    row = clinical_values(spec, case)
    u = stream(spec, Part.MISSING, case.index).random(3 + len(CLINICAL))[3:]
    chances = missing_chance(spec, case)
    for name, draw in zip(CLINICAL, u, strict=True):
        if draw < chances[name] or name == spec.lost_feature:
            row[name] = None
    crp = row["crp"]
    if spec.crp_unit == "mg/dL" and isinstance(crp, float):
        row["crp"] = round(crp / MG_PER_L_IN_MG_PER_DL, 2)
    return row


def absent_modalities(spec: SynthesisSpec, case: Case) -> dict[str, bool]:
    """The modalities that are absent; never all three, where the image remains."""
    u = stream(spec, Part.MISSING, case.index).random(3)
    absent = {
        "image": bool(u[0] < spec.image_absent),
        "tabular": bool(u[1] < spec.tabular_absent),
        "note": bool(u[2] < spec.note_absent),
    }
    if all(absent.values()):
        absent["image"] = False
    return absent
