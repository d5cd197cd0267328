"""Kept images: an image that was read for the page is kept for its prediction, and decoded once.

Whoever handed it in gets it back and no one else, also where both handed in the same file.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from cxr_mm.core.files import sha256_file
from cxr_mm.imaging.radiograph import DecodedImage

SECONDS = 300.0
"""For how long an image waits for its prediction."""
BYTES = 256 * 1024**2
"""Most that all kept images take together; the oldest is forgotten first."""

_visitor: ContextVar[str | None] = ContextVar("visitor", default=None)


@contextmanager
def read_for(visitor: str | None) -> Iterator[None]:
    """Images that the body reads are kept for a visitor; None keeps none."""
    before = _visitor.set(visitor)
    try:
        yield
    finally:
        _visitor.reset(before)


@dataclass(frozen=True)
class _Kept:
    """An image, the digest of its file, and until when it is kept."""

    image: DecodedImage
    digest: str
    until: float

    @property
    def size(self) -> int:
        small = self.image.viewable
        return self.image.radiograph.pixels.nbytes + small.values.nbytes + small.seen.nbytes


class UploadCache:
    """The image that each visitor handed in last, for a short while; safe for threads.

    Args:
        seconds: for which an image is kept.
        most: bytes of all images; a larger image is not kept.
    """

    def __init__(self, seconds: float = SECONDS, most: int = BYTES) -> None:
        self._seconds, self._most = seconds, most
        self._images: OrderedDict[str, _Kept] = OrderedDict()  # the oldest first
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def read(
        self, path: Path, name: str, decode: Callable[[Path, str], DecodedImage]
    ) -> DecodedImage:
        """The image kept for the visitor of `read_for`, or else what `decode` makes of the file.

        Raises:
            RadiographError: what `decode` raises.
        """
        visitor = _visitor.get()
        if visitor is None or not path.is_file():
            return decode(path, name)
        digest = sha256_file(path)
        with self._lock:
            kept = self._images.get(visitor)
        if kept and kept.digest == digest:
            return kept.image
        image = decode(path, name)
        with self._lock:
            self._keep(visitor, _Kept(image, digest, time.monotonic() + self._seconds))
        return image

    @property
    def count(self) -> int:
        """How many images are kept."""
        return len(self._images)

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._images.clear()
            if self._timer:
                self._timer.cancel()
                self._timer = None

    def _keep(self, visitor: str, kept: _Kept) -> None:
        self._images.pop(visitor, None)
        self._images[visitor] = kept
        while sum(each.size for each in self._images.values()) > self._most:
            self._images.popitem(last=False)
        self._wake()

    def _wake(self) -> None:
        """See to it that the oldest image is forgotten in time, also where no one asks any more."""
        if self._images and self._timer is None:
            until = next(iter(self._images.values())).until
            self._timer = threading.Timer(max(0.0, until - time.monotonic()), self._forget)
            self._timer.daemon = True
            self._timer.start()

    def _forget(self) -> None:
        with self._lock:
            now = time.monotonic()
            for visitor in [v for v, each in self._images.items() if each.until <= now]:
                del self._images[visitor]
            self._timer = None
            self._wake()
