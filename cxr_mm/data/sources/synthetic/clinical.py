"""Clinical features of a synthetic study, and which of them nobody measured or wrote down."""

import numpy as np

from cxr_mm.data.sources.synthetic.population import Case
from cxr_mm.data.sources.synthetic.spec import CLINICAL, Part, SynthesisSpec, stream

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
"""Values are held within these, as a device or laboratory would report them."""
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
"""Chance that a value is missing at site A for a patient of usual illness."""
LAB_SITE = {"A": 1.0, "B": 1.5, "C": 0.7}
"""Factor on the chance that a laboratory value is missing."""
MG_PER_L_IN_MG_PER_DL = 10.0


def clinical_values(spec: SynthesisSpec, case: Case) -> Row:
    """Every feature as measured, none missing; numbers rounded as they are reported."""
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
    """Chance that each value is missing, given site and how ill the patient looks."""
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
    """Which modalities are wholly absent; where all three would be, the film is kept."""
    u = stream(spec, Part.MISSING, case.index).random(3)
    absent = {
        "image": bool(u[0] < spec.image_absent),
        "tabular": bool(u[1] < spec.tabular_absent),
        "note": bool(u[2] < spec.note_absent),
    }
    if all(absent.values()):
        absent["image"] = False
    return absent
