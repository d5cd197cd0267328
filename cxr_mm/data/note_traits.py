"""Note traits: what a note is like without saying what it says, which is what monitoring watches.

Numbers of words alone: no word can be told from them.
"""

import re

from cxr_mm.data.note import MASK

NOTE_TRAITS = ("words", "distinct", "negation", "joining", "figures", "masked")
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
NEGATIONS = frozenset(
    {"no", "not", "without", "denies", "denied", "never", "none", "neither", "nor"}
)
"""A word list in the spirit of NegEx (Chapman et al., J Biomed Inform 2001)."""
JOINING = frozenset(
    {
        "the", "a", "an", "of", "and", "or", "with", "to", "in", "on", "at", "for", "from", "is",
        "was", "are", "were", "has", "had", "this", "that", "by", "as", "but",
    }
)  # fmt: skip
"""Words that English joins others with: their share falls in telegram style and to almost nothing
in another language."""


def note_traits(text: str) -> dict[str, float]:
    """Traits of a masked note, by name in the order of `NOTE_TRAITS`.

    - words: how many.
    - distinct: share of the words that are different ones, 0 to 1.
    - negation: share of the words that negate, 0 to 1.
    - joining: share of English joining words, 0 to 1.
    - figures: numbers for each word.
    - masked: how often the task's mask has hidden something.
    """
    masked = text.count(MASK)
    rest = text.replace(MASK, " ").lower()
    words = WORD.findall(rest)
    most = max(len(words), 1)
    values = (
        len(words),
        len(set(words)) / most,
        sum(word in NEGATIONS for word in words) / most,
        sum(word in JOINING for word in words) / most,
        len(FIGURE.findall(rest)) / most,
        masked,
    )
    return {name: float(value) for name, value in zip(NOTE_TRAITS, values, strict=True)}
