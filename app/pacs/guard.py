"""Guard of the receiver's sockets: bounds on what an association may send, and on how slowly.

pynetdicom reads as many bytes as a peer announces, waits for them without end, and queues every
message that arrives before the one before it is answered.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from app.pacs.settings import LimitSettings

NEGOTIATION_BYTES = 64 << 10
"""Of a request for an association; those of real systems have at most a third."""
HEADER_BYTES = 10
"""Of a unit, for which the disk is not looked at."""
MESSAGES_AHEAD = 16
"""Messages that a peer may send before the first is answered."""
FEWEST_SECONDS = 0.01
QUICK_ACKNOWLEDGEMENT: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux's option."""


def acknowledge(connection: socket.socket) -> None:
    """Acknowledge what has arrived now instead of up to 40 ms later, where the system can.

    A peer that does not turn Nagle's algorithm off, as DCMTK and Orthanc do not, waits for that
    with every second part of a message. The system falls back, so each read says it anew.
    """
    if QUICK_ACKNOWLEDGEMENT is not None:
        connection.setsockopt(socket.IPPROTO_TCP, QUICK_ACKNOWLEDGEMENT, 1)


def close_for_good(association: Any) -> None:
    """Have the socket of an association closed also where the peer has gone already.

    pynetdicom's shutdown fails then, and leaves the descriptor open until it is collected.

    Args:
        association: of pynetdicom, connected.
    """
    transport = association.dul.socket

    def shut() -> None:
        connection = transport.socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                connection.close()

    transport._shutdown_socket = shut


class BoundedReader:
    """Reads from the socket of one association, within bounds.

    Args:
        association: of pynetdicom.
        limits: a unit of more than `pdu_bytes`, a message of more than twice `object_bytes` or a
            unit that takes more than `idle_seconds` ends the association.
        has_room: whether the disk can take another unit.
        refuse: is told why an association was ended.
    """

    def __init__(
        self,
        association: Any,
        limits: LimitSettings,
        has_room: Callable[[], bool],
        refuse: Callable[[str], None],
    ) -> None:
        self._association, self._limits = association, limits
        self._has_room, self._refuse = has_room, refuse
        self._message = 0

    def next_message(self) -> None:
        """Begin to count anew: a message is complete."""
        self._message = 0

    def __call__(self, count: int) -> bytearray:
        """Read `count` bytes, fewer only where the peer has closed the connection.

        Raises:
            OSError: a bound is exceeded; pynetdicom then closes the connection.
        """
        self.check(count)
        found = bytearray(count)
        return found[: self.into(memoryview(found))]

    def check(self, count: int) -> None:
        """Count bytes that are going to be read.

        Raises:
            OSError: a bound is exceeded.
        """
        self._message += count
        if reason := self._excess(count):
            self._refuse(reason)
            raise OSError(reason)

    def into(self, view: memoryview) -> int:
        """Fill a buffer; how many bytes were read, fewer only where the peer has closed.

        Raises:
            OSError: a bound is exceeded.
        """
        try:
            return self._read(view)
        except TimeoutError:
            self._refuse("too slow")
            raise
        except ssl.SSLError:
            self._refuse("TLS handshake failed")
            raise

    def _read(self, view: memoryview) -> int:
        connection = self._association.dul.socket.socket
        until, read = time.monotonic() + self._limits.idle_seconds, 0
        while read < len(view):
            connection.settimeout(max(FEWEST_SECONDS, until - time.monotonic()))
            more: int = connection.recv_into(view[read:])
            if not more:
                break
            read += more
        return read

    def _excess(self, count: int) -> str:
        if count > max(self._limits.pdu_bytes, NEGOTIATION_BYTES):
            return "protocol data unit too large"
        if self._message > 2 * self._limits.object_bytes + NEGOTIATION_BYTES:
            return "object far too large"
        if self._association.dimse.msg_queue.qsize() > MESSAGES_AHEAD:
            return "too many messages ahead"
        return "" if count <= HEADER_BYTES or self._has_room() else "disk full"


class LateHandshake(ssl.SSLContext):
    """TLS whose handshake is made by the first read, so that it holds up no other connection."""

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        """Wrap a connection without any exchange yet."""
        return super().wrap_socket(sock, *args, **options | {"do_handshake_on_connect": False})


def contain_errors(association: Any, refuse: Callable[[str], None]) -> None:
    """Have a message that pynetdicom stumbles over end its association, and nothing else.

    Its reactor would end, and the association with its place among those allowed would stay.

    Args:
        association: of pynetdicom, not yet started.
        refuse: is told of it.
    """
    act = association.dul.state_machine.do_action

    def do_action(event: str) -> None:
        try:
            act(event)
        except Exception:  # noqa: BLE001  of any kind
            refuse("message cannot be understood")
            association.dul.socket.close()  # which is an event that every state can take

    association.dul.state_machine.do_action = do_action
