"""Clinical notes from templates: history, examination, background, the question to the reader."""

import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_mm.data.synthetic.population import Case, Part, SynthesisSpec, stream

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


STATED = 0.85
"""Chance that a cue that is there is written down."""
NEGATED = 0.28
"""Chance that one that is not is denied; else it is not mentioned."""
SIDES = {"prose": ("right", "left"), "headings": ("R", "L")}
WORD = re.compile(r"[A-Za-z]{5,}")
TYPO_FREE = 0.65
ABBREVIATED = {"prose": 0.45, "headings": 0.95}


def write_note(spec: SynthesisSpec, case: Case) -> str:
    """The note of a study; its draws do not depend on the style."""
    rng = stream(spec, Part.NOTE, case.index)
    said = [(cue.section, _phrase(spec, case, cue, rng)) for cue in CUES]
    history = _shuffled([p for where, p in said if p and where == "history"], rng)
    examination = _shuffled([p for where, p in said if p and where == "examination"], rng)
    background = _shuffled(list(BACKGROUND), rng)[: int(rng.integers(0, 4))]
    social = _shuffled(list(SOCIAL), rng)[: int(rng.integers(0, 2))]
    question = str(rng.choice(QUESTIONS))
    layout = rng.random(4)
    if spec.note_style == "headings":
        text = _headings(history, examination, background, social, question)
    else:
        text = _prose(history, examination, background, social, question, layout)
    return _misspelt(_abbreviated(text, ABBREVIATED[spec.note_style], rng), rng)


def cue_chance(case: Case, cue: Cue) -> float:
    """Chance that the cue is there, given the latent state (a logistic model)."""
    ill = case.illness
    state = {
        "consolidation": ill.consolidation,
        "effusion": ill.effusion,
        "cardiac": ill.effusion and ill.cardiac,
        "exudate": ill.effusion and not ill.cardiac,
        "other_infection": ill.other_infection,
        "congestion": ill.congestion,
        "smokes": case.patient.smoker == "current",
    }
    odds = cue.base + sum(weight * state[name] for name, weight in cue.weights.items())
    return float(1 / (1 + np.exp(-odds)))


def _phrase(spec: SynthesisSpec, case: Case, cue: Cue, rng: np.random.Generator) -> str:
    """The words for a cue, or none; every draw is made whatever comes of the others."""
    u, pick, days, flip = rng.random(3), rng.random(), int(rng.integers(2, 8)), rng.random() < 0.5
    if u[0] >= cue_chance(case, cue):
        if u[1] >= NEGATED or not cue.negated:
            return ""
        words = cue.negated
    elif u[2] >= STATED:
        return ""
    else:
        words = cue.prose if spec.note_style == "prose" else cue.terse
    finding = 0 if "consolidation" in cue.weights and "effusion" not in cue.weights else 1
    there = (case.illness.consolidation, case.illness.effusion)[finding]
    side = case.illness.sides[finding] if there else int(flip)
    return words[int(pick * len(words))].format(side=SIDES[spec.note_style][side], days=days)


def _prose(
    history: list[str],
    examination: list[str],
    background: list[str],
    social: list[str],
    question: str,
    layout: NDArray[np.float64],
) -> str:
    opening = ("Patient", "Referred from clinic:", "Seen in the emergency department,", "Pt")
    told = f"{opening[int(layout[0] * 4)]} {_listed(history) or 'admitted overnight'}."
    found = f"On examination {_listed(examination) or 'nothing new'}."
    known = f"Past history of {_listed(background)}." if background else ""
    lives = f"{social[0].capitalize()}." if social else ""
    asks = f"{question[0].upper()}{question[1:]}." if layout[1] < 0.7 else ""
    parts = [told, found, known, lives] if layout[2] < 0.7 else [known, told, lives, found]
    parts = [asks, *parts] if layout[3] < 0.3 else [*parts, asks]
    return " ".join(part for part in parts if part)


def _headings(
    history: list[str],
    examination: list[str],
    background: list[str],
    social: list[str],
    question: str,
) -> str:
    blocks = {
        "REASON": [question],
        "PMH": background or ["nil"],
        "SH": social,
        "HPC": history or ["nil of note"],
        "O/E": examination or ["NAD"],
    }
    return "; ".join(f"{name}: {', '.join(said)}" for name, said in blocks.items() if said)


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases)


def _shuffled(phrases: list[str], rng: np.random.Generator) -> list[str]:
    return [phrases[i] for i in rng.permutation(len(phrases))]


def _abbreviated(text: str, chance: float, rng: np.random.Generator) -> str:
    for (long, short), u in zip(ABBREVIATIONS, rng.random(len(ABBREVIATIONS)), strict=True):
        if u < chance:
            text = re.sub(rf"\b{long}\b", short, text, flags=re.IGNORECASE)
    return text


def _misspelt(text: str, rng: np.random.Generator) -> str:
    """One or two words with two letters swapped or one left out, in about a third of notes."""
    if rng.random() < TYPO_FREE:
        return text
    for _ in range(int(rng.integers(1, 3))):
        words = list(WORD.finditer(text))
        if not words:
            break
        word = words[int(rng.integers(len(words)))]
        at = word.start() + int(rng.integers(1, len(word[0]) - 2))
        swap = text[at + 1] + text[at] if rng.random() < 0.5 else text[at + 1]
        text = text[:at] + swap + text[at + 2 :]
    return text
