"""Clinical notes: checks, masking of words that name the finding, and traits for monitoring."""

import re

from cxr_mm.core.errors import NoteError
from cxr_mm.core.task import NoteSpec

MASK = "[MASK]"
LONGEST_NOTE = 20_000


def check_note(text: str) -> None:
    """Check that a text can be a clinical note.

    Raises:
        NoteError: the note is longer than 20,000 characters, or contains a null character or
            half of a surrogate pair, as text in another encoding than UTF-8 does.
    """
    if len(text) > LONGEST_NOTE:
        raise NoteError(
            f"{len(text):,} characters are too many",
            field="note",
            remedy=f"Give at most {LONGEST_NOTE:,} characters",
        )
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise NoteError("this is no text", field="note", remedy="Give plain text in UTF-8")


def mask_note(text: str, spec: NoteSpec) -> str:
    """Replace every match of the task's patterns by `[MASK]` and collapse white space.

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
"""English function words: their share is low in telegram style and almost 0 in other languages."""


def note_traits(text: str) -> dict[str, float]:
    """Traits of a masked note, by name in the order of `NOTE_TRAITS`.

    - words: number of words.
    - distinct: number of distinct words divided by `words`, 0 to 1.
    - negation: share of the words that negate, 0 to 1.
    - joining: share of English joining words, 0 to 1.
    - figures: numbers per word.
    - masked: number of masked passages.
    """
    masked = text.count(MASK)
    unmasked = text.replace(MASK, " ").lower()
    words = WORD.findall(unmasked)
    total = max(len(words), 1)
    values = (
        len(words),
        len(set(words)) / total,
        sum(word in NEGATIONS for word in words) / total,
        sum(word in JOINING for word in words) / total,
        len(FIGURE.findall(unmasked)) / total,
        masked,
    )
    return {name: float(value) for name, value in zip(NOTE_TRAITS, values, strict=True)}


PACKAGED = "packaged"
"""Value of `embed.note_encoder` for the encoder that is installed with the project."""


def language_of(encoder: str) -> str:
    """Say which languages a note encoder, as `embed.note_encoder` names it, was trained on."""
    if encoder == PACKAGED:
        return (
            "Notes are read by all-MiniLM-L6-v2, trained on English: of a note in another language"
            " it knows little more than the words. `embed.note_encoder` names a multilingual one."
        )
    return f"Notes are read by {encoder}, in the languages that it was trained on."
