"""Note units: a note in sentences, and these in words; a negated phrase stays one.

Which words negate, and that they reach as far as the next of some others, is NegEx (Chapman et al.,
J Biomed Inform 2001; 34:301), shortened.
"""

import re

from cxr_mm.data.note import MASK

SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+|\n+")
WORD = re.compile(r"\S*\w\S*")
CUES = tuple(
    cue.split()
    for cue in (
        "no evidence of",
        "no sign of",
        "no signs of",
        "negative for",
        "free of",
        "absence of",
        "ruled out",
        "rule out",
        "denies",
        "denied",
        "without",
        "never",
        "not",
        "nor",
        "no",
    )
)
"""Longer ones first."""
BOUNDS = "and or but with in on at of for to from is are was were be has have had as then who which"
ENDS = frozenset(BOUNDS.split())
REACH = 3
"""Words behind a cue that belong to it at most."""


def sentences(note: str) -> list[list[str]]:
    """Units of each sentence that has any; what the task hides is left out.

    Joined with spaces, they are the note as the encoder reads it, but for lone punctuation.
    """
    found = [_units(sentence) for sentence in SENTENCE_ENDS.split(note)]
    return [units for units in found if units]


def _units(sentence: str) -> list[str]:
    stretches = [WORD.findall(stretch) for stretch in sentence.split(MASK)]
    return [unit for words in stretches for unit in _joined(words)]


def _joined(words: list[str]) -> list[str]:
    units: list[str] = []
    position = 0
    while position < len(words):
        length = _negated(words[position:])
        units.append(" ".join(words[position : position + length]))
        position += length
    return units


def _negated(words: list[str]) -> int:
    """How many words from the first on are one unit."""
    plain = [word.lower().strip(".,;:!?()") for word in words]
    for cue in CUES:
        if plain[: len(cue)] == cue:
            return len(cue) + _reach(words[len(cue) :], plain[len(cue) :])
    return 1


def _reach(words: list[str], plain: list[str]) -> int:
    for count, (word, bare) in enumerate(zip(words[:REACH], plain, strict=False)):
        if bare in ENDS:
            return count
        if word != word.rstrip(".,;:!?"):
            return count + 1
    return min(REACH, len(words))
