"""A cache of uploads: an image that was decoded for the viewer is not decoded for its prediction.

Each browser session gets its own image back and no other session's, even for the same file.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cxr_mm.core.files import sha256_file
from cxr_mm.imaging.radiograph import DecodedImage, read_image

SECONDS = 300.0
"""How long an image waits for its prediction."""
BYTES = 256 * 1024**2
"""Largest size of all cached images together; the oldest is removed first."""

ReadImage = Callable[[Path, str], DecodedImage]


@dataclass(frozen=True)
class _Entry:
    """An image, the digest of its file, and the time of `time.monotonic()` when it expires."""

    image: DecodedImage
    digest: str
    expires: float

    @property
    def size(self) -> int:
        small = self.image.viewable
        beside = small.values.nbytes + small.seen.nbytes if small else 0
        return self.image.radiograph.pixels.nbytes + beside


class UploadCache:
    """The last image of each session, for a short time; safe for threads.

    Args:
        decode: reads a file, given the name by which errors call it.
        seconds: for which an image is stored.
        max_bytes: of all images; a larger image is not stored.
    """

    def __init__(
        self,
        decode: ReadImage = read_image,
        seconds: float = SECONDS,
        max_bytes: int = BYTES,
    ) -> None:
        self._decode, self._seconds, self._max_bytes = decode, seconds, max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the oldest first
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def read(self, path: Path, name: str, session: str | None = None) -> DecodedImage:
        """Return the session's stored image if the file is the same, else decode the file.

        Args:
            path: the file.
            name: how errors call it.
            session: key of the session; None stores nothing.

        Raises:
            RadiographError: what `decode` raises.
        """
        if session is None or not path.is_file():
            return self._decode(path, name)
        digest = sha256_file(path)
        with self._lock:
            entry = self._entries.get(session)
        if entry and entry.digest == digest:
            return entry.image
        image = self._decode(path, name)
        with self._lock:
            self._store(session, _Entry(image, digest, time.monotonic() + self._seconds))
        return image

    @property
    def count(self) -> int:
        """Number of stored images."""
        return len(self._entries)

    def close(self) -> None:
        """Remove all images."""
        with self._lock:
            self._entries.clear()
            if self._timer:
                self._timer.cancel()
                self._timer = None

    def _store(self, session: str, entry: _Entry) -> None:
        self._entries.pop(session, None)
        self._entries[session] = entry
        while sum(each.size for each in self._entries.values()) > self._max_bytes:
            self._entries.popitem(last=False)
        self._start_timer()

    def _start_timer(self) -> None:
        """Start a timer that removes the oldest image when it expires, even without a request."""
        if self._entries and self._timer is None:
            expires = next(iter(self._entries.values())).expires
            self._timer = threading.Timer(max(0.0, expires - time.monotonic()), self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            now = time.monotonic()
            for session in [key for key, each in self._entries.items() if each.expires <= now]:
                del self._entries[session]
            self._timer = None
            self._start_timer()
