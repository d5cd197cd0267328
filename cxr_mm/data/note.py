"""Clinical note: what would name the answer is hidden before anything reads the note."""

import re

from cxr_mm.contracts.task import NoteSpec
from cxr_mm.errors import NoteError

MASK = "[MASK]"
LONGEST_NOTE = 20_000


def mask_note(text: str, spec: NoteSpec) -> str:
    """Replace every match of the task's patterns by `[MASK]` and settle white space.

    Raises:
        NoteError: the note is longer than 20,000 characters or holds control characters.
    """
    if len(text) > LONGEST_NOTE:
        raise NoteError(
            f"{len(text):,} characters are too many",
            field="note",
            remedy=f"Give at most {LONGEST_NOTE:,} characters",
        )
    if "\x00" in text:
        raise NoteError("this is no text", field="note", remedy="Give plain text in UTF-8")
    for pattern in spec.mask:
        text = re.sub(pattern, MASK, text, flags=re.IGNORECASE)
    return " ".join(text.split())
