"""The poller: asks an archive for new radiographs (QIDO-RS) and fetches them (WADO-RS).

DICOMweb has no question for what came in since some moment. So a look asks for studies by their
date, from the last complete look less an overlap; it goes into those whose number of objects has
changed, and fetches what the queue does not have. A look that could not fetch all is no complete
one, so that the next begins where it did.
"""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from pydicom.uid import UID

from app.pacs.dicomweb.client import AwayError, DeclinedError, HttpClient
from app.pacs.dicomweb.cursor import Cursor
from app.pacs.dicomweb.multipart import TYPE, BadMultipartError, PartFiles
from app.pacs.header import HeaderReader
from app.pacs.objects.sop_classes import SOURCES
from app.pacs.queue import Queue
from app.pacs.sender import EchoResult
from app.pacs.settings import NodeSettings, Peer, calling_context
from app.pacs.storage import Storage
from cxr_mm.core.errors import LogError, RadiographError

_log = logging.getLogger(__name__)
JSON = "application/dicom+json"
PAGE_SIZE = 200
UID_FORM = re.compile(r"(?=.{1,64}\Z)[0-9]+(?:\.[0-9]+)*")
"""No other text becomes a part of an address."""
STUDY, SERIES, INSTANCE, SOP_CLASS = "0020000D", "0020000E", "00080018", "00080016"
INSTANCES_OF_STUDY = "00201208"
FRAMING = 1 << 16
"""Bytes beside the object in the answer that holds it."""


class NotFetchedError(Exception):
    """An object that the archive does not give, or that cannot be taken, and why."""


class Poller:
    """Fetches from one archive.

    Args:
        settings: of the node.
        peer: the archive; it has `web.poll`.
        storage, queue: where objects go.
        headers: reads what was fetched.
        arrived: is called after each new object.

    Raises:
        ParamsError: certificate or secret cannot be used.
    """

    def __init__(
        self,
        settings: NodeSettings,
        peer: Peer,
        storage: Storage,
        queue: Queue,
        headers: HeaderReader,
        arrived: Callable[[], None] = lambda: None,
    ) -> None:
        assert peer.web is not None
        assert peer.web.poll is not None
        self._limits, self._poll, self._peer = settings.limits, peer.web.poll, peer.name
        self._storage, self._queue, self._headers = storage, queue, headers
        self._arrived = arrived
        tls = calling_context(settings.tls) if settings.tls and peer.tls else None
        self._client = HttpClient(peer.web, tls)
        self._cursor = Cursor(queue, peer.name)
        self._complete: dict[str, int] = {}
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Look again and again until told to stop; an archive that is away is tried again."""
        self._stop, failures = stop, 0
        with self._client:
            while not stop.is_set():
                try:
                    self.look()
                    failures, pause = 0, self._poll.every_seconds
                except (AwayError, DeclinedError, LogError, OSError) as error:
                    reason = error.strerror if isinstance(error, OSError) else str(error)
                    _log.error("Nothing is fetched from %s: %s", self._peer, reason)
                    failures += 1
                    pause = self._limits.pause(failures)
                stop.wait(pause)

    def look(self) -> int:
        """Look through the archive once.

        Returns:
            How many objects are new.

        Raises:
            AwayError, DeclinedError: the archive cannot answer a question.
            LogError: the queue cannot be used.
            OSError: the storage cannot.
        """
        began, number, is_complete = self._queue.clock(), 0, True
        studies = self._studies(self._first_day(began))
        for uid, count in studies.items():
            if count is not None and self._complete.get(uid) == count:
                continue
            new, all_fetched = self._fetch_study(uid)
            number += new
            is_complete &= all_fetched
            if all_fetched and count is not None:
                self._complete[uid] = count
            if self._stop.is_set():
                return number
        self._complete = {uid: n for uid, n in self._complete.items() if uid in studies}
        if len(studies) >= self._poll.most_studies:
            self._queue.count("more studies than one look takes", self._peer)
        elif is_complete:
            self._cursor.advance(began)
        return number

    def _first_day(self, now: datetime) -> str:
        since = self._cursor.since
        if since is None:
            first = now - timedelta(days=self._poll.first_days)
        else:
            first = min(since, now) - timedelta(days=self._poll.overlap_days)
        return f"{first:%Y%m%d}"

    # What the archive has

    def _studies(self, first_day: str) -> dict[str, int | None]:
        """UID → number of objects, where the archive says it, of studies from a day on."""
        found: dict[str, int | None] = {}
        for modality in self._poll.modality:
            filters = {"StudyDate": f"{first_day}-", "ModalitiesInStudy": modality}
            for item in self._listed("/studies", filters | {"includefield": INSTANCES_OF_STUDY}):
                uid, count = _uid(item, STUDY), _value(item, INSTANCES_OF_STUDY)
                if len(found) >= self._poll.most_studies:
                    break
                if uid:
                    found[uid] = count if isinstance(count, int) else None
        return found

    def _instances(self, study: str) -> Iterator[str]:
        """Address of each radiograph of a study."""
        for modality in self._poll.modality:
            for series in self._listed(f"/studies/{study}/series", {"Modality": modality}):
                uid = _uid(series, SERIES)
                if not uid or str(_value(series, "00080060") or modality) != modality:
                    continue
                below = f"/studies/{study}/series/{uid}/instances"
                for item in self._listed(below, {}):
                    kind, instance = _value(item, SOP_CLASS), _uid(item, INSTANCE)
                    if instance and (kind is None or kind in SOURCES):
                        yield f"{below}/{instance}"

    def _listed(self, path: str, filters: dict[str, str]) -> Iterator[dict[str, Any]]:
        """What a question gives, page by page, until a page brings nothing new."""
        seen: set[str] = set()
        while True:
            params: dict[str, str | int] = {**filters, "limit": PAGE_SIZE, "offset": len(seen)}
            page = self._client.json(path, params, JSON) or []
            if not isinstance(page, list):
                raise DeclinedError("the archive answers with no list")
            new = [item for item in page if isinstance(item, dict) and _name(item) not in seen]
            if not new:
                return
            yield from new
            seen.update(map(_name, new))

    # Fetching

    def _fetch_study(self, study: str) -> tuple[int, bool]:
        """Fetch what is new of a study: how many, and whether nothing is left to be tried."""
        number, is_complete = 0, True
        for address in self._instances(study):
            uid = address.rpartition("/")[2]
            if self._stop.is_set():
                return number, False
            if self._queue.content_of(uid) is not None:
                continue
            due = self._cursor.is_due(uid)
            if due:
                is_new, is_done = self._tried(address, uid)
                number, is_complete = number + is_new, is_complete and is_done
            elif due is None:
                is_complete = False
        return number, is_complete

    def _tried(self, address: str, uid: str) -> tuple[bool, bool]:
        """Fetch one object: whether it is new, and whether it need not be tried again."""
        try:
            is_new = self._fetch(address, uid)
        except (NotFetchedError, DeclinedError, BadMultipartError, RadiographError) as error:
            reason = error.message if isinstance(error, RadiographError) else str(error)
            given_up = self._cursor.failed(uid, self._limits.shortest_pause, self._poll.attempts)
            if given_up:
                self._queue.count(f"not fetched: {reason}"[:64], self._peer)
                _log.error("Given up: an object of %s: %s", self._peer, reason)
            return False, given_up
        self._cursor.fetched(uid)
        return is_new, True

    def _fetch(self, address: str, uid: str) -> bool:
        limits = self._limits
        if self._storage.free < limits.free_bytes:
            raise AwayError("the disk is full")
        accept = {"Accept": f'multipart/related; type="{TYPE}"; transfer-syntax=*'}
        with self._client.asking("GET", address, headers=accept) as answer:
            if answer.status != 200:
                raise NotFetchedError(f"the archive answers {answer.status}")
            files = PartFiles(answer.content_type, self._storage.arriving, limits.object_bytes)
            with files:
                for piece in answer.pieces(limits.object_bytes + FRAMING):
                    files.feed(piece)
                parts = files.parts()
                if len(parts) != 1 or parts[0].path is None:
                    raise NotFetchedError("the archive does not give one object of allowed size")
                header = self._headers.read(parts[0].path, "image")
                kind = UID(str(header.get("SOPClassUID")))
                if str(header.get("SOPInstanceUID")) != uid or kind not in SOURCES:
                    raise NotFetchedError("the archive gives another object")
                taken = self._storage.add(self._queue, parts[0].path, uid, str(kind), self._peer)
        if taken == "new":
            self._arrived()
        return taken == "new"


def _value(item: dict[str, Any], tag: str) -> Any:
    """First value of an attribute in DICOM JSON (PS3.18 F.2); None without one."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _uid(item: dict[str, Any], tag: str) -> str:
    found = _value(item, tag)
    return found if isinstance(found, str) and UID_FORM.fullmatch(found) else ""


def _name(item: dict[str, Any]) -> str:
    """UID of the lowest level that an item is of."""
    return next((uid for tag in (INSTANCE, SERIES, STUDY) if (uid := _uid(item, tag))), "")


def ask_for_studies(settings: NodeSettings, peer: Peer) -> EchoResult:
    """Ask a peer's DICOMweb service for one study, which shows address, certificate and sign-in.

    Raises:
        ParamsError: certificate or secret cannot be used.
    """
    assert peer.web is not None
    tls = calling_context(settings.tls) if settings.tls and peer.tls else None
    with HttpClient(peer.web, tls) as client:
        try:
            client.json("/studies", {"limit": 1}, JSON)
        except (AwayError, DeclinedError) as error:
            return EchoResult(False, str(error))
    return EchoResult(True, "DICOMweb answers")
