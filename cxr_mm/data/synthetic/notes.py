"""Clinical notes from phrase templates: history, examination, background, referral question."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from cxr_mm.core.types import Frozen
from cxr_mm.data.synthetic.population import Case, Part, SynthesisSpec, stream


class SymptomTemplate(Frozen):
    """Phrases for a symptom or sign."""

    section: Literal["history", "examination"]
    base: float
    """Log-odds that a patient with none of the latent states has the symptom."""
    weights: dict[str, float]
    """Latent state → what it adds to the log-odds."""
    prose: tuple[str, ...]
    terse: tuple[str, ...]
    """Wordings where the symptom is present, for the two note styles."""
    negated: tuple[str, ...]
    """Wordings where it is absent."""


class PhraseTemplates(Frozen):
    """All phrases of the notes; the order matters, since draws are made by position."""

    symptoms: tuple[SymptomTemplate, ...]
    background: tuple[str, ...]
    social: tuple[str, ...]
    questions: tuple[str, ...]
    abbreviations: tuple[tuple[str, str], ...]


@cache
def phrase_templates() -> PhraseTemplates:
    """The templates of `phrases.yaml`."""
    text = Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8")
    return PhraseTemplates.model_validate(yaml.safe_load(text))


STATED = 0.85
"""Probability that a present symptom is written down."""
NEGATED = 0.28
"""Probability that an absent symptom is denied; else it is not mentioned."""
SIDES = {"prose": ("right", "left"), "headings": ("R", "L")}
WORD = re.compile(r"[A-Za-z]{5,}")
TYPO_FREE = 0.65
ABBREVIATED = {"prose": 0.45, "headings": 0.95}


def write_note(spec: SynthesisSpec, case: Case) -> str:
    """Write the note of a study; the random draws do not depend on the style."""
    rng = stream(spec, Part.NOTE, case.index)
    templates = phrase_templates()
    phrases = [(each.section, _phrase(spec, case, each, rng)) for each in templates.symptoms]
    history = _shuffled([p for section, p in phrases if p and section == "history"], rng)
    examination = _shuffled([p for section, p in phrases if p and section == "examination"], rng)
    background = _shuffled(templates.background, rng)[: int(rng.integers(0, 4))]
    social = _shuffled(templates.social, rng)[: int(rng.integers(0, 2))]
    question = str(rng.choice(templates.questions))
    layout = rng.random(4)
    if spec.note_style == "headings":
        text = _headings(history, examination, background, social, question)
    else:
        text = _prose(history, examination, background, social, question, layout)
    return _misspelt(_abbreviated(text, ABBREVIATED[spec.note_style], rng), rng)


def symptom_probability(case: Case, template: SymptomTemplate) -> float:
    """Probability of a symptom given the latent state (a logistic model)."""
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
    odds = template.base
    odds += sum(weight * state[name] for name, weight in template.weights.items())
    return float(1 / (1 + np.exp(-odds)))


def _phrase(
    spec: SynthesisSpec, case: Case, template: SymptomTemplate, rng: np.random.Generator
) -> str:
    """The phrase for a symptom, or ""; every draw is made whatever the results of the others."""
    u, pick, days, flip = rng.random(3), rng.random(), int(rng.integers(2, 8)), rng.random() < 0.5
    if u[0] >= symptom_probability(case, template):
        if u[1] >= NEGATED or not template.negated:
            return ""
        words = template.negated
    elif u[2] >= STATED:
        return ""
    else:
        words = template.prose if spec.note_style == "prose" else template.terse
    finding = 0 if "consolidation" in template.weights and "effusion" not in template.weights else 1
    present = (case.illness.consolidation, case.illness.effusion)[finding]
    side = case.illness.sides[finding] if present else int(flip)
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
    complaint = f"{opening[int(layout[0] * 4)]} {', '.join(history) or 'admitted overnight'}."
    signs = f"On examination {', '.join(examination) or 'nothing new'}."
    past = f"Past history of {', '.join(background)}." if background else ""
    living = f"{social[0].capitalize()}." if social else ""
    request = f"{question[0].upper()}{question[1:]}." if layout[1] < 0.7 else ""
    parts = [complaint, signs, past, living]
    if layout[2] >= 0.7:
        parts = [past, complaint, living, signs]
    parts = [request, *parts] if layout[3] < 0.3 else [*parts, request]
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
    return "; ".join(f"{name}: {', '.join(phrases)}" for name, phrases in blocks.items() if phrases)


def _shuffled(phrases: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [phrases[i] for i in rng.permutation(len(phrases))]


def _abbreviated(text: str, chance: float, rng: np.random.Generator) -> str:
    abbreviations = phrase_templates().abbreviations
    draws = rng.random(len(abbreviations))
    for (long, short), u in zip(abbreviations, draws, strict=True):
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
