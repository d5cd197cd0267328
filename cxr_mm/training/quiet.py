"""Lightning without its tips and its remarks on what is meant; errors stay."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Run Lightning without chatter."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(before)
