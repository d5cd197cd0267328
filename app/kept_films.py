"""Kept films: a film that was read for the page is kept for its prediction, and decoded once.

Whoever handed it in gets it back and nobody else, also where both handed in the same file.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from cxr_mm.data.radiograph import Film
from cxr_mm.files import sha256_file

SECONDS = 300.0
"""For how long a film waits for its prediction."""
BYTES = 256 * 1024**2
"""Most that all kept films take together; the oldest is forgotten first."""

_visitor: ContextVar[str | None] = ContextVar("visitor", default=None)


@contextmanager
def read_for(visitor: str | None) -> Iterator[None]:
    """Films that the body reads are kept for a visitor; None keeps none."""
    before = _visitor.set(visitor)
    try:
        yield
    finally:
        _visitor.reset(before)


@dataclass(frozen=True)
class _Kept:
    """A film, the digest of its file, and until when it is kept."""

    film: Film
    digest: str
    until: float

    @property
    def size(self) -> int:
        small = self.film.viewable
        return self.film.radiograph.pixels.nbytes + small.values.nbytes + small.seen.nbytes


class KeptFilms:
    """The film that each visitor handed in last, for a short while; safe for threads.

    Args:
        seconds: for which a film is kept.
        most: bytes of all films; a larger film is not kept.
    """

    def __init__(self, seconds: float = SECONDS, most: int = BYTES) -> None:
        self._seconds, self._most = seconds, most
        self._films: OrderedDict[str, _Kept] = OrderedDict()  # the oldest first
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def read(self, path: Path, name: str, decode: Callable[[Path, str], Film]) -> Film:
        """The film kept for the visitor of `read_for`, or else what `decode` makes of the file.

        Raises:
            RadiographError: what `decode` raises.
        """
        visitor = _visitor.get()
        if visitor is None or not path.is_file():
            return decode(path, name)
        digest = sha256_file(path)
        with self._lock:
            kept = self._films.get(visitor)
        if kept and kept.digest == digest:
            return kept.film
        film = decode(path, name)
        with self._lock:
            self._keep(visitor, _Kept(film, digest, time.monotonic() + self._seconds))
        return film

    @property
    def count(self) -> int:
        """How many films are kept."""
        return len(self._films)

    def clear(self) -> None:
        """Forget all films."""
        with self._lock:
            self._films.clear()
            if self._timer:
                self._timer.cancel()
                self._timer = None

    def _keep(self, visitor: str, kept: _Kept) -> None:
        self._films.pop(visitor, None)
        self._films[visitor] = kept
        while sum(each.size for each in self._films.values()) > self._most:
            self._films.popitem(last=False)
        self._wake()

    def _wake(self) -> None:
        """See to it that the oldest film is forgotten in time, also where nobody asks any more."""
        if self._films and self._timer is None:
            until = next(iter(self._films.values())).until
            self._timer = threading.Timer(max(0.0, until - time.monotonic()), self._forget)
            self._timer.daemon = True
            self._timer.start()

    def _forget(self) -> None:
        with self._lock:
            now = time.monotonic()
            for visitor in [v for v, each in self._films.items() if each.until <= now]:
                del self._films[visitor]
            self._timer = None
            self._wake()
