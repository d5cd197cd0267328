"""MLLP listener: HL7 v2 messages over TCP, each acknowledged once its facts are in the book.

AA: taken, and it survives a power cut. AE: something is wrong with it, or the database is away; it
may be sent again. AR: a kind of message that is not taken, or none at all.
"""

import logging
import socket
import socketserver
import ssl
import threading
import time
from typing import Any, Self

from app.pacs.context.facts import ContextError
from app.pacs.context.hl7_message import Code, RejectedError, answer_to
from app.pacs.context.intake import Intake
from app.pacs.sections.context import MllpListener
from cxr_mm.core.errors import LogError, ParamsError

_log = logging.getLogger(__name__)
START, END = b"\x0b", b"\x1c\r"
"""Of a block (HL7 MLLP release 1)."""
PIECE = 1 << 16


class Listener:
    """Listens as long as it is open.

    Args:
        settings: address and bounds.
        intake: what messages are handed to.
        tls: context of a server; None speaks in the clear.

    Raises:
        ParamsError: the address cannot be had.
    """

    def __init__(
        self, settings: MllpListener, intake: Intake, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings, self._intake, self._tls = settings, intake, tls
        self._room = threading.BoundedSemaphore(settings.connections)
        listener = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                listener._serve(self.request, self.client_address[0])

        try:
            self._server = _Server((settings.host, settings.port), Connection)
        except OSError as error:
            raise ParamsError(
                f"{settings.host} port {settings.port} cannot be had ({error.strerror or error})",
                field="context.mllp.port",
                remedy="Choose another port, or end what listens there",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="mllp", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """That it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, connection: socket.socket, address: str) -> None:
        if self._settings.senders and address not in self._settings.senders:
            self._intake.count("sender is not known")
            return
        if not self._room.acquire(blocking=False):
            self._intake.count("too many connections")
            return
        try:
            connection.settimeout(self._settings.idle_seconds)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._exchange(connection)
        except OSError:
            self._intake.count("connection broke off")
        finally:
            self._room.release()
            connection.close()

    def _exchange(self, connection: socket.socket) -> None:
        """Take and answer messages until the sender closes, or a bound is exceeded."""
        waiting, until = b"", self._deadline()
        while piece := connection.recv(PIECE):
            waiting += piece
            while END in waiting:
                block, _, waiting = waiting.partition(END)
                code, reason = self._taken(block.lstrip(b"\r\n").removeprefix(START))
                answer = answer_to(block.lstrip(b"\r\n").removeprefix(START), code, reason)
                connection.sendall(START + answer + END)
                until = self._deadline()
            if len(waiting) > self._settings.message_bytes:
                self._intake.count("message too large")
                return
            if waiting.strip(b"\r\n") and time.monotonic() > until:
                self._intake.count("message too slow")
                return

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.idle_seconds

    def _taken(self, message: bytes) -> tuple[Code, str]:
        """Take one message: the code of its acknowledgement, and why."""
        try:
            self._intake.add(self._intake.read_message(message))
        except RejectedError as error:
            self._intake.count(error.message)
            return "AR", error.message
        except ContextError as error:
            self._intake.count(error.message)
            return "AE", error.message
        except LogError:
            _log.error("A message could not be taken: the queue cannot be written")
            return "AE", "the database is away"
        return "AA", ""


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Log that a connection ended by an error, without what was sent."""
        _log.error("A connection of the MLLP listener ended by an error of the program")
