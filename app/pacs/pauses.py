"""Pauses before another attempt: doubled each time up to a cap, with jitter."""

import random

from app.pacs.settings import LimitSettings

MOST_DOUBLINGS = 32


def pause(limits: LimitSettings, attempts: int) -> float:
    """Seconds before the attempt after so many: between half and all of the doubled pause, so
    that what failed together is not tried again together."""
    doubled = limits.shortest_pause * 2.0 ** min(attempts - 1, MOST_DOUBLINGS)
    return min(limits.longest_pause, doubled) * random.uniform(0.5, 1.0)
