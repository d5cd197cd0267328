"""Game: the logit of one target for any coalition of the parts of one modality."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.explanation import Target
from cxr_mm.contracts.modality import Modality
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.watch import UNWATCHED, Watch

Kept = NDArray[np.bool_]


class Game(ABC):
    """Players are the parts of one modality; all else is held at the study's own values.

    Args:
        subject: the study.
        target: whose logit is the value.
        watch: is told how far it is and may stop it.

    Raises:
        InputError: the study lacks the modality, or the task the finding.
    """

    modality: Modality
    BATCH: int
    """Coalitions that go through the model together."""
    tree: NDArray[np.float64] | None = None
    """Which parts belong together, as `tree.linkage` has it; None where no order is given."""

    def __init__(self, subject: Subject, target: Target, watch: Watch = UNWATCHED) -> None:
        subject.require(self.modality)
        self.subject, self.watch = subject, watch
        self.column = subject.column(target)
        self.asked = 0
        self.expected = 0

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the players, in order."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the players are; of one subject, games of the same kind share their answers."""

    @abstractmethod
    def _logits(self, kept: Kept) -> NDArray[np.float64]:
        """Logits (K, F) of distinct coalitions (K, n), none of which is of all."""

    def values(self, kept: Kept) -> NDArray[np.float64]:
        """Values (K,) of coalitions (K, n): True where a part is kept. None is asked twice.

        Raises:
            CancelledError: the watch says so.
        """
        known = self.subject.answers.setdefault(self.kind, {})
        # The whole is as the prediction has it, whatever precision the others are asked in.
        known[_key(np.ones(len(self.names), dtype=bool))] = self.subject.logits
        keys = [_key(row) for row in kept]
        new = list({key: k for k, key in enumerate(keys) if key not in known}.values())
        for start in range(0, len(new), self.BATCH):
            rows = new[start : start + self.BATCH]
            known |= {keys[k]: v for k, v in zip(rows, self._logits(kept[rows]), strict=True)}
            self.asked += len(rows)
            self.watch.step(self.asked, max(self.expected, self.asked))
        return np.array([known[key][self.column] for key in keys])

    @property
    def base(self) -> float:
        """Value of nobody."""
        return float(self.values(np.zeros((1, len(self.names)), dtype=bool))[0])

    @property
    def output(self) -> float:
        """Value of all: the study's own logit."""
        return float(self.subject.logits[self.column])


def _key(coalition: NDArray[np.bool_]) -> bytes:
    return np.packbits(coalition).tobytes()
