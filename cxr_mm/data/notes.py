"""Clinical note: what would name the answer is hidden before anything reads the note."""

import re

from cxr_mm.core.errors import NoteError
from cxr_mm.core.task import NoteSpec

MASK = "[MASK]"
LONGEST_NOTE = 20_000


def check_note(text: str) -> None:
    """Refuse what cannot be a clinical note.

    Raises:
        NoteError: the note is longer than 20,000 characters or contains a null character.
    """
    if len(text) > LONGEST_NOTE:
        raise NoteError(
            f"{len(text):,} characters are too many",
            field="note",
            remedy=f"Give at most {LONGEST_NOTE:,} characters",
        )
    if "\x00" in text:
        raise NoteError("this is no text", field="note", remedy="Give plain text in UTF-8")


def mask_note(text: str, spec: NoteSpec) -> str:
    """Replace every match of the task's patterns by `[MASK]` and reduce white space.

    Raises:
        NoteError: as `check_note`.
    """
    check_note(text)
    for pattern in spec.mask:
        text = re.sub(pattern, MASK, text, flags=re.IGNORECASE)
    return " ".join(text.split())


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
