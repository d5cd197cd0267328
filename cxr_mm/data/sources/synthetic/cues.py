"""What a note may say: each cue with its chance given the illness, and the words for it.

None of the words names a finding. `{side}` stands for the side of the cue.
"""

from dataclasses import dataclass, field
from typing import Literal

Section = Literal["history", "examination"]


@dataclass(frozen=True)
class Cue:
    """A symptom or sign.

    Args:
        section: where it stands in the note.
        base: log-odds that a patient with none of the latent states has it.
        weights: latent state → what it adds to the log-odds.
        prose, terse: wordings where it is there, for the two note styles.
        negated: wordings where it is not.
    """

    section: Section
    base: float
    weights: dict[str, float]
    prose: tuple[str, ...]
    terse: tuple[str, ...]
    negated: tuple[str, ...] = field(default=())


CUES = (
    Cue(
        "history",
        -0.9,
        {"consolidation": 0.9, "effusion": 0.2, "smokes": 0.4},
        ("coughing for {days} days", "complains of a cough", "dry cough"),
        ("cough {days}/7", "cough +"),
        ("denies cough", "no cough"),
    ),
    Cue(
        "history",
        -2.9,
        {"consolidation": 1.9},
        ("brings up green sputum", "rusty sputum since yesterday", "purulent sputum"),
        ("sputum green", "purulent sput +"),
        ("no sputum",),
    ),
    Cue(
        "history",
        -1.8,
        {"consolidation": 1.2, "other_infection": 1.6, "exudate": 0.3},
        ("felt feverish at home", "fever for {days} days", "complains of fever"),
        ("fever {days}/7", "febrile at home"),
        ("no fever", "denies fever", "afebrile at home"),
    ),
    Cue(
        "history",
        -3.2,
        {"consolidation": 2.0, "other_infection": 0.9},
        ("shaking chills last night", "rigors overnight", "had a rigor this morning"),
        ("rigors x{days}", "chills ++"),
        ("no rigors", "denies chills"),
    ),
    Cue(
        "history",
        -3.2,
        {"consolidation": 1.9},
        (
            "choked on food {days} days ago",
            "witnessed aspiration at the nursing home",
            "vomited and may have aspirated",
        ),
        ("?aspirated {days}/7 ago", "choking episode"),
        ("no choking episodes", "swallow safe"),
    ),
    Cue(
        "history",
        -2.6,
        {"consolidation": 0.8, "exudate": 1.3},
        ("sharp {side} chest pain on breathing in", "{side} pleuritic chest pain"),
        ("pleuritic CP {side}", "{side} chest pain on insp"),
        ("no chest pain", "denies chest pain"),
    ),
    Cue(
        "history",
        -0.4,
        {"consolidation": 0.4, "effusion": 0.6, "congestion": 0.8},
        ("short of breath on exertion", "more short of breath than usual", "breathless"),
        ("SOBOE", "SOB ++"),
        ("not breathless", "denies shortness of breath"),
    ),
    Cue(
        "history",
        -2.7,
        {"cardiac": 2.2, "congestion": 1.7},
        ("orthopnoea", "has to sleep upright on three pillows", "wakes at night gasping for air"),
        ("3 pillow orthopnoea", "PND +"),
        ("no orthopnoea", "lies flat at night"),
    ),
    Cue(
        "history",
        -2.9,
        {"exudate": 1.9},
        ("lost {days} kg over the past months", "unintended weight loss and night sweats"),
        ("wt loss {days} kg", "wt loss, night sweats"),
        ("weight stable", "no weight loss"),
    ),
    Cue(
        "examination",
        -2.5,
        {"consolidation": 1.7, "congestion": 0.6},
        ("coarse crackles in the {side} lung", "focal crackles on the {side}"),
        ("creps {side}", "coarse creps {side}"),
        ("no crackles", "no added sounds"),
    ),
    Cue(
        "examination",
        -3.3,
        {"consolidation": 2.1},
        ("bronchial breathing on the {side}", "increased vocal resonance on the {side}"),
        ("BB {side}", "VR incr {side}"),
        ("vesicular breath sounds",),
    ),
    Cue(
        "examination",
        -3.0,
        {"effusion": 2.4, "consolidation": 0.4},
        ("dull to percussion at the {side} base", "stony dullness on the {side}"),
        ("PN dull {side} base", "stony dull {side}"),
        ("percussion resonant throughout", "no dullness to percussion"),
    ),
    Cue(
        "examination",
        -2.3,
        {"effusion": 1.7, "consolidation": 0.4},
        ("reduced air entry at the {side} base", "breath sounds diminished on the {side}"),
        ("AE reduced {side} base", "BS decr {side}"),
        ("good air entry both sides", "breath sounds equal"),
    ),
    Cue(
        "examination",
        -3.2,
        {"effusion": 2.0},
        ("less chest movement on the {side}", "decreased vocal fremitus at the {side} base"),
        ("expansion reduced {side}", "TVF decr {side}"),
        ("chest expansion symmetrical",),
    ),
    Cue(
        "examination",
        -2.4,
        {"cardiac": 1.7, "congestion": 1.3},
        ("pitting oedema of both ankles", "raised JVP", "swollen legs"),
        ("JVP up", "pitting oedema ++"),
        ("no ankle oedema", "JVP not raised"),
    ),
)

BACKGROUND = (
    "hypertension",
    "type 2 diabetes",
    "gout",
    "total hip replacement 2015",
    "atrial fibrillation on apixaban",
    "hypothyroidism",
    "osteoarthritis",
    "chronic kidney disease stage 3",
    "pneumonia in 2019",
    "cholecystectomy",
    "depression",
    "old TB",
)
SOCIAL = (
    "lives alone",
    "lives with daughter",
    "independent in daily life",
    "retired teacher",
    "nursing home resident",
    "no pets",
    "recent travel to Spain",
    "allergic to penicillin",
)
QUESTIONS = (
    "? pneumonia",
    "rule out effusion",
    "please assess heart size",
    "check line position",
    "? fracture after a fall",
    "pre-op film",
    "please exclude pneumothorax",
    "? infiltrate",
    "cause of symptoms",
)
ABBREVIATIONS = (
    ("short of breath", "SOB"),
    ("shortness of breath", "SOB"),
    ("complains of", "c/o"),
    ("history of", "hx of"),
    ("on examination", "O/E"),
    ("chest pain", "CP"),
    ("days", "d"),
    ("patient", "pt"),
    ("with", "w/"),
    ("hypertension", "HTN"),
    ("type 2 diabetes", "T2DM"),
    ("atrial fibrillation", "AF"),
    ("chronic kidney disease", "CKD"),
    ("both sides", "bilat"),
    ("breath sounds", "BS"),
    ("rule out", "r/o"),
)
