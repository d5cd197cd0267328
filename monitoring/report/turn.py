"""Turn: a report that is written beside those of earlier windows decides when its turn comes.

What a window measures depends on no other, its verdict on the one before. So the report measures,
waits for the verdict before, decides, and says so before it draws its pages.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.verdict import Verdict

LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Turn:
    """Two files by which a runner and the report of a window agree.

    Args:
        folder: must exist, and be of this report alone.
    """

    folder: Path

    @property
    def _before(self) -> Path:
        return self.folder / "before.json"

    @property
    def _decided(self) -> Path:
        return self.folder / "decided.json"

    def give(self, before: Verdict | None) -> None:
        """Let the report decide, after the verdict of the window before."""
        write_json(self._before, None if before is None else before.model_dump(mode="json"))

    @property
    def given(self) -> bool:
        """Whether the report may decide."""
        return self._before.exists()

    def wait(self) -> Verdict | None:
        """Wait until it is given; the verdict before."""
        while not self.given:
            time.sleep(LOOK_SECONDS)
        before = read_json(self._before)
        return None if before is None else Verdict.model_validate(before)

    def announce(self, verdict: Verdict) -> None:
        """Let the next window decide."""
        write_json(self._decided, verdict.model_dump(mode="json"))

    def announced(self) -> Verdict | None:
        """The verdict, where the report has decided."""
        if not self._decided.exists():
            return None
        return Verdict.model_validate(read_json(self._decided))
