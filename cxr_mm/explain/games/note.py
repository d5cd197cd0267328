"""Note: words are kept or left out; with none left the note is absent, as the model knows it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.explanation import Target
from cxr_mm.contracts.modality import Modality
from cxr_mm.errors import NoteError
from cxr_mm.explain.games.base import Game, Kept
from cxr_mm.explain.note_units import sentences
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.tree import Nested, balanced, linkage
from cxr_mm.explain.watch import UNWATCHED, Watch


class NoteGame(Game):
    """Words as players, a negated phrase as one, sentence by sentence.

    Raises:
        NoteError: there is no word in the note.
    """

    modality: Modality = "note"
    BATCH = 64

    def __init__(self, subject: Subject, target: Target, watch: Watch = UNWATCHED) -> None:
        super().__init__(subject, target, watch)
        found = sentences(subject.note)
        self._names = tuple(unit for sentence in found for unit in sentence)
        if not self._names:
            raise NoteError("there is no word in it to explain", field="note")
        self.tree = linkage(balanced(_branches(found)), len(self._names))

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def kind(self) -> str:
        return "note"

    def _logits(self, kept: Kept) -> NDArray[np.float64]:
        notes = [
            " ".join(unit for unit, there in zip(self._names, row, strict=True) if there)
            for row in kept
        ]
        return self.subject.of_notes(notes)


def _branches(found: Sequence[Sequence[str]]) -> list[Nested]:
    branches: list[Nested] = []
    first = 0
    for sentence in found:
        branches.append(balanced(range(first, first + len(sentence))))
        first += len(sentence)
    return branches
