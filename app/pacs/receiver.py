"""The receiver: C-ECHO and C-STORE SCP that writes bytes aside, syncs them and only then answers.

It decodes nothing. Each refusal is a DICOM status, or the end of the association, and is counted.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification

from app.pacs.delivery.commitment import MODEL, NO_SUCH_TRANSACTION, Commitment
from app.pacs.delivery.fragments import FragmentReader, unburden
from app.pacs.guard import BoundedReader, LateHandshake, close_for_good, contain_errors
from app.pacs.objects.sop_classes import SOURCES
from app.pacs.queue import Queue
from app.pacs.settings import NodeSettings, Peer, listening_context
from app.pacs.stages import UNTIMED, Stages
from app.pacs.storage import Storage
from cxr_mm.core.errors import LogError, ParamsError

_log = logging.getLogger(__name__)
SUCCESS, OUT_OF_RESOURCES, WRONG_CLASS, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
"""Status of C-STORE (PS3.4 B.2.3)."""
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    *JPEGTransferSyntaxes,
    *JPEGLSTransferSyntaxes,
    *JPEG2000TransferSyntaxes,
    RLELossless,
]
LEFT_IDLE = 3
"""Times `idle_seconds` after which no one writes or answers an arriving file any more."""
CONNECTIONS_PER_ASSOCIATION = 4
"""Connections, for each association that is allowed, beyond which new ones are closed at once."""


class Refused(Exception):  # noqa: N818  its name is what happens
    """An object that is not taken, with the status that the peer gets."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Receiver:
    """Takes objects of known peers into storage and queue, as long as it is open.

    Args:
        settings: of the node.
        storage: where objects are written.
        queue: where they are listed.
        arrived: is called after each new one.
        stages: times each.

    Raises:
        ParamsError: the address cannot be had, or a certificate cannot be used.
    """

    def __init__(
        self,
        settings: NodeSettings,
        storage: Storage,
        queue: Queue,
        arrived: Callable[[], None] = lambda: None,
        stages: Stages = UNTIMED,
    ) -> None:
        self._settings, self._storage, self._queue = settings, storage, queue
        self._arrived, self._stages = arrived, stages
        self._before = tempfile.tempdir
        _config.STORE_RECV_CHUNKED_DATASET = True  # to a file, so that memory stays bounded
        _config.LOG_HANDLER_LEVEL = "none"
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it quotes what peers send
        tempfile.tempdir = str(storage.arriving)  # so that a complete file need only be renamed
        self._entity = self._configured()
        self._server = self._started()

    @property
    def port(self) -> int:
        """That it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """End every association and listen no more."""
        self._server.shutdown()
        self._entity.shutdown()
        tempfile.tempdir = self._before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _configured(self) -> AE:
        limits, entity = self._settings.limits, AE(self._settings.ae_title)
        entity.require_calling_aet = [p.ae_title for p in self._settings.peers if p.ae_title]
        entity.require_called_aet = True
        entity.maximum_associations = limits.associations
        entity.maximum_pdu_size = limits.pdu_bytes
        entity.network_timeout = entity.acse_timeout = limits.idle_seconds
        entity.dimse_timeout = limits.idle_seconds
        entity.add_supported_context(Verification)
        for each in SOURCES:  # none of the node's own objects: no loop
            entity.add_supported_context(each, SYNTAXES)
        if any(peer.commitment for peer in self._settings.peers):
            # Whoever reports proposes the role of the provider for itself.
            entity.add_supported_context(MODEL, scu_role=True, scp_role=True)
        return entity

    def _started(self) -> Any:
        settings = self._settings
        handlers = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_EVENT_REPORT, self._reported),
        ]
        tls = listening_context(settings.tls, LateHandshake) if settings.tls else None
        try:
            return self._entity.start_server(
                (settings.host, settings.port),
                block=False,
                evt_handlers=handlers,
                ssl_context=tls,
            )
        except OSError as error:
            tempfile.tempdir = self._before
            raise ParamsError(
                f"{settings.host} port {settings.port} cannot be had ({error.strerror or error})",
                field="port",
                remedy="Choose another port, or end what listens there",
            ) from error

    # Connections and associations

    def _opened(self, event: Any) -> None:
        association, limits = event.assoc, self._settings.limits
        close_for_good(association)
        most = CONNECTIONS_PER_ASSOCIATION * limits.associations
        if len(self._entity.active_associations) >= most:
            self._refuse("too many connections")
            association.dul.socket.close()
            return
        reader = BoundedReader(association, limits, self._has_room, self._refuse)
        FragmentReader(association, reader)
        contain_errors(association, self._refuse)
        association.bind(evt.EVT_DIMSE_RECV, lambda _: reader.next_message())

    def _closed(self, event: Any) -> None:
        """Free the place of a connection that asked for nothing, and remove what broken
        associations have left half written, or never had answered."""
        if event.assoc.requestor.primitive is None:  # pynetdicom waits for it for `idle_seconds`
            event.assoc.dul.to_user_queue.put(None)
        half = getattr(event.assoc.dimse.message, "_data_set_file", None)
        if half is not None:
            half.close()
            Path(half.name).unlink(missing_ok=True)
        oldest = time.time() - LEFT_IDLE * self._settings.limits.idle_seconds
        for path in self._storage.arriving.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _rejected(self, event: Any) -> None:
        request = event.assoc.requestor.primitive
        if self._settings.caller(request.calling_ae_title) is None:
            self._refuse("unknown AE title")
        elif request.called_ae_title.strip() != self._settings.ae_title:
            self._refuse("called by another AE title")
        else:
            self._refuse("too many associations")

    def _accepted(self, event: Any) -> None:
        peer = self._peer(event)
        unburden(event.assoc, self._settings.limits.idle_seconds)
        if not _calls_from(peer, event.assoc.requestor.address):
            self._refuse("known AE title at another address", peer.name)
            event.assoc.abort()
        if event.assoc.rejected_contexts:  # of which some peers propose every one that they know
            self._refuse("SOP class or transfer syntax not taken", peer.name)

    def _peer(self, event: Any) -> Peer:
        peer = self._settings.caller(event.assoc.requestor.ae_title)
        assert peer is not None  # others are rejected
        return peer

    def _reported(self, event: Any) -> tuple[int, None]:
        """Take a report of storage commitment."""
        peer, status = self._peer(event), NO_SUCH_TRANSACTION
        if peer.commitment:  # what others report is not even read
            status = Commitment(self._queue, self._settings.limits, peer.name).answer(event)
        if status != SUCCESS:
            self._refuse("report of storage commitment not taken", peer.name)
        return status, None

    # Objects

    def _store(self, event: Any) -> int:
        peer = self._peer(event)
        try:
            with self._stages.timed("receive"):
                self._take(event, peer)
        except Refused as refused:
            self._refuse(refused.reason, peer.name)
            return refused.status
        except LogError as error:
            _log.error("The queue cannot be written: %s", error)
            return OUT_OF_RESOURCES
        except OSError as error:
            self._refuse("disk cannot be written", peer.name)
            _log.error("The storage cannot be written: %s", error.strerror or error)
            return OUT_OF_RESOURCES
        return SUCCESS

    def _take(self, event: Any, peer: Peer) -> None:
        """Write an object and its row, or find both there already.

        Raises:
            Refused: with the status for the peer.
            LogError: the queue cannot be written.
            OSError: the storage cannot.
        """
        uid, arrived = self._checked(event)
        kind, priority = str(event.request.AffectedSOPClassUID), event.request.Priority
        taken = self._storage.add(self._queue, arrived, uid, kind, peer.name, priority)
        if taken == "new":
            self._arrived()
        else:
            self._refuse(taken, peer.name)

    def _checked(self, event: Any) -> tuple[str, Path]:
        """UID and file of an object that may be taken.

        Raises:
            Refused: it may not.
        """
        request, limits = event.request, self._settings.limits
        uid, arrived = str(request.AffectedSOPInstanceUID), request._dataset_path
        if str(request.AffectedSOPClassUID) != event.context.abstract_syntax:
            raise Refused(WRONG_CLASS, "SOP class is not that of the context")
        if UID(event.context.abstract_syntax) not in SOURCES:
            raise Refused(WRONG_CLASS, "SOP class not taken")
        if not UID(uid).is_valid:
            raise Refused(CANNOT_UNDERSTAND, "invalid UID")
        if arrived is None:
            raise Refused(CANNOT_UNDERSTAND, "no data set")
        if arrived.stat().st_size > limits.object_bytes:
            raise Refused(OUT_OF_RESOURCES, "object too large")
        if self._storage.free < limits.free_bytes:
            raise Refused(OUT_OF_RESOURCES, "disk full")
        return uid, arrived

    def _has_room(self) -> bool:
        return 2 * self._storage.free >= self._settings.limits.free_bytes

    def _refuse(self, reason: str, peer: str = "") -> None:
        """Count a refusal or a repeat; where the queue is away it is in the log alone."""
        try:
            self._queue.count(reason, peer)
        except LogError:
            _log.warning("Not counted: %s %s", reason, peer)


def _calls_from(peer: Peer, address: str) -> bool:
    """Whether a call comes from the peer's address, where the settings have one."""
    try:
        return ip_address(peer.host) == ip_address(address)
    except ValueError:
        return True
