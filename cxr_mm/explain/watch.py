"""Watch: how a long explanation says how far it is, and how it is told to stop."""

from collections.abc import Callable
from dataclasses import dataclass

from cxr_mm.errors import CancelledError


def _silent(done: int, total: int) -> None:
    del done, total


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Watch:
    """Looks at one computation.

    Args:
        told: called with how many questions the model has answered and of how many.
        cancelled: asked after each batch whether to stop.
    """

    told: Callable[[int, int], None] = _silent
    cancelled: Callable[[], bool] = _never

    def step(self, done: int, total: int) -> None:
        """Tell how far it is.

        Raises:
            CancelledError: whoever waited no longer does.
        """
        if self.cancelled():
            raise CancelledError("the explanation was cancelled")
        self.told(min(done, total), total)


UNWATCHED = Watch()
