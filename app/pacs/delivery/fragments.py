"""Fragments of data sets, straight between socket and file.

pynetdicom takes every protocol data unit through two queues, a state machine and a general codec,
copies it seven times, and looks for the next a thousand times a second. Fragments of a data set
change no state: here they are read and written at once. All else goes pynetdicom's own way.
"""

import socket
import struct
import threading
import time
from select import select
from typing import Any

from pynetdicom.pdu_primitives import P_DATA

from app.pacs.guard import BoundedReader, acknowledge

P_DATA_TF, FRAGMENT, LAST = 0x04, 0x00, 0x02
"""Type of a unit with data (PS3.8 9.3.5); control header of a fragment of a data set, and the bit
that the last one has (PS3.8 E.2)."""
UNIT = struct.Struct(">BxII")
"""Type and length of a unit, and length of its first presentation data value."""
SHORTEST = 10
"""Bytes of the shortest unit."""
CLOSED = "Evt17"
"""Event of a connection that has been closed (PS3.8 9.2)."""
TRANSFER = "Sta6"
"""State of an association that is ready for data (PS3.8 9.2)."""
LOOK_SECONDS, ANSWER_SECONDS = 0.01, 0.002
"""Between two looks of an association at its socket: of one that is idle, and while objects are
sent."""
PASS_SECONDS = 1.0
"""For which the loop of an association is waited for before it is paused."""
TOGETHER = 64 << 10
"""Bytes of units that are written at once."""


def unburden(association: Any, seconds: float) -> None:
    """Have units with data written at once by whoever sends them, and fewer looks for others.

    Args:
        association: of pynetdicom, established.
        seconds: for which a peer may take nothing before the connection is closed.
    """
    dul, queued = association.dul, association.dul.send_pdu
    dul._run_loop_delay, association._reactor_checkpoint = LOOK_SECONDS, _Checkpoint()
    dul.socket.socket.settimeout(seconds)
    # A command and the data set after it are two writes: else the second would wait until the peer
    # acknowledges the first, which peers put off for 40 ms.
    dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    waiting: list[bytes] = []

    def send(primitive: Any) -> None:
        if not isinstance(primitive, P_DATA) or dul.state_machine.current_state != TRANSFER:
            queued(primitive)
            return
        for context, data in primitive.presentation_data_value_list:
            size = len(data) + 1
            waiting.extend((UNIT.pack(P_DATA_TF, size + 4, size), bytes([context]), data))
        if data[0] & LAST or sum(map(len, waiting)) >= TOGETHER:
            dul.socket.send(b"".join(waiting))
            waiting.clear()

    dul.send_pdu = send


def read_soon(association: Any) -> None:
    """Have what a peer answers read as soon as it comes; for as long as is sent to it.

    Args:
        association: of pynetdicom, established, that asks.
    """
    dul, receive = association.dul, association.dul.socket.recv

    def recv(count: int) -> bytearray:
        received: bytearray = receive(count)
        acknowledge(dul.socket.socket)
        return received

    dul.socket.recv, dul._run_loop_delay = recv, ANSWER_SECONDS


class _Checkpoint(threading.Event):
    """Where the loop of an association can be paused, and passes with a pause of its own.

    pynetdicom's own may be found closed by a loop that is already on its way to take a message:
    the answer to what is sent then is taken for a request, and the sender waits for it in vain.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passing, self._entered = threading.RLock(), threading.Event()
        self._has_passed = False
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no one pauses the loop, whose thread calls this in each turn."""
        self._entered.set()
        if self._has_passed:
            self._has_passed = False
            self._passing.release()
        time.sleep(LOOK_SECONDS)
        while super().wait(timeout):
            self._passing.acquire()
            if self.is_set():
                self._has_passed = True
                return True
            self._passing.release()
        return False

    def clear(self) -> None:
        """Pause the loop; when this returns it waits, or has ended."""
        super().clear()
        self._entered.wait(PASS_SECONDS)
        if self._passing.acquire(timeout=PASS_SECONDS):
            self._passing.release()


class FragmentReader:
    """Reads what arrives by one association, in place of `DULServiceProvider._read_pdu_data`.

    Args:
        association: of pynetdicom, not yet started; it writes data sets to files.
        reader: of its socket.
    """

    def __init__(self, association: Any, reader: BoundedReader) -> None:
        self._association, self._reader = association, reader
        self._seen, self._buffer = bytearray(), bytearray()
        self._all_else = association.dul._read_pdu_data
        association.dul._read_pdu_data = self
        association.dul.socket.recv = self.recv
        association.dul._run_loop_delay = LOOK_SECONDS

    def recv(self, count: int) -> bytearray:
        """Read so many bytes, those first that were looked at.

        Raises:
            OSError: a bound is exceeded.
        """
        found, self._seen = self._seen[:count], self._seen[count:]
        acknowledge(self._association.dul.socket.socket)
        return found if len(found) == count else found + self._reader(count - len(found))

    def __call__(self) -> None:
        """Write fragments to the file as long as some have arrived, else read a unit."""
        dul, message = self._association.dul, self._association.dimse.message
        file = getattr(message, "_data_set_file", None)
        try:
            while file and dul.state_machine.current_state == TRANSFER:
                if (fragment := self._fragment()) is None:
                    break
                file.write(fragment)
                if not (dul.socket.ready or self._is_more()):
                    return
        except (OSError, ValueError):  # bounds, or closed meanwhile
            dul.event_queue.put(CLOSED)
            return
        self._all_else()

    def _is_more(self) -> bool:
        """Whether something arrives soon."""
        connection = self._association.dul.socket.socket
        acknowledge(connection)
        return bool(select([connection], [], [], LOOK_SECONDS)[0])

    def _fragment(self) -> memoryview | None:
        """The fragment that a unit consists of; None where it is another, which was seen only."""
        self._seen = self._reader(SHORTEST)
        if len(self._seen) < SHORTEST:
            return None
        kind, length, inside = UNIT.unpack(self._seen)
        if kind != P_DATA_TF or inside != length - 4 or inside < 2:
            return None
        self._reader.check(inside)
        if len(self._buffer) < inside:
            self._buffer = bytearray(inside)  # kept: a new one would be paged in anew
        value = memoryview(self._buffer)[:inside]
        read = self._reader.into(value)
        if read < inside or value[1] != FRAGMENT:
            self._seen += value[:read]
            return None
        self._seen.clear()
        return value[2:]
