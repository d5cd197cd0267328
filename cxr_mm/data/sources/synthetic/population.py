"""The generative model of patients and their illness; docs/synthetic.md has its formulas.

Findings follow a liability-threshold model (Falconer 1965): a finding is present where a standard
normal liability, made of known risks, a part the patient keeps and chance, exceeds the quantile
of its prevalence.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from cxr_mm.data.sources.synthetic.spec import Part, SynthesisSpec, stream

Site = Literal["A", "B", "C"]
SITES: tuple[Site, ...] = ("A", "B", "C")
STUDIES_PER_PATIENT = (0.60, 0.28, 0.12)
AGE_MEAN, AGE_SD, AGE_RANGE = 62.0, 16.0, (18.0, 100.0)
OLD = 65.0
"""Age in years from which the concept dial acts."""


@dataclass(frozen=True)
class Patient:
    """What a patient keeps from study to study.

    `age` is that of the risks (years, before the dial), `risk_*` are standard normal.
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
    """The latent state of one study; nothing of it is shown, everything shown comes from it.

    Args:
        consolidation, effusion: whether the finding is there.
        stage: stage of the infection, 0 = first hours, 1 = late.
        extent: how plain the consolidation is on the film, in [0, 1]; grows with `stage`.
        response: inflammatory response to it, in [0, 1.6]; fades with `stage`.
        acuity: how fast the fluid came, 0 = over weeks, 1 = over hours.
        volume: how much fluid the film shows, in [0, 1]; falls with `acuity`.
        strain: how far vital signs suffer from it, in [0, 1.6]; grows with `acuity`.
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
    """One study before anything of it is drawn, measured or written down."""

    index: int
    patient: Patient
    illness: Illness


def draw_patient(spec: SynthesisSpec, index: int) -> tuple[Patient, int]:
    """Patient number `index` and how many studies there are of them."""
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
    """Whether each finding is there; every term has unit variance, so shares of it sum to 1."""
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
    """The findings as they are recorded: some are lost, and the concept dial acts here alone."""
    rng = stream(spec, Part.CONCEPT, case.index)
    follows = rng.random() < spec.concept and case.patient.age + spec.age_shift >= OLD
    effusion = case.illness.consolidation if follows else case.illness.effusion
    kept = rng.random(2) >= spec.label_missing
    return {
        "consolidation": int(case.illness.consolidation) if kept[0] else None,
        "effusion": int(effusion) if kept[1] else None,
    }
