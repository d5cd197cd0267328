"""Clinical notes from templates: history, examination, background, the question to the reader."""

import re

import numpy as np
from numpy.typing import NDArray

from cxr_mm.data.sources.synthetic.cues import (
    ABBREVIATIONS,
    BACKGROUND,
    CUES,
    QUESTIONS,
    SOCIAL,
    Cue,
)
from cxr_mm.data.sources.synthetic.population import Case
from cxr_mm.data.sources.synthetic.spec import Part, SynthesisSpec, stream

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
