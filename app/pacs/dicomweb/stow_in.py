"""STOW-RS through the page's server: objects are written aside, synced and listed, then answered.

They go to storage and queue of a node, which answers them as it does those by C-STORE. Nothing is
decoded here but headers, in a sandboxed process.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydicom.uid import UID
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.pacs.dicomweb.multipart import TYPE, BadMultipartError, Part, PartFiles
from app.pacs.header import HeaderReader
from app.pacs.objects.sop_classes import SOURCES
from app.pacs.queue import Queue
from app.pacs.settings import PAGE, LimitSettings, load_node_settings
from app.pacs.storage import Storage
from cxr_mm.core.errors import LogError, RadiographError

_log = logging.getLogger(__name__)
STUDIES = "/dicom-web/studies"
JSON = "application/dicom+json"
OUT_OF_RESOURCES, CANNOT_UNDERSTAND, WRONG_CLASS, OTHER_STUDY = 0xA700, 0xC000, 0x0122, 0x0110
"""Failure reasons (PS3.18 I.2.2); the last, of processing, is for another study than named."""


class Declined(Exception):  # noqa: N818  its name is what happens
    """An object that is not taken, with the failure reason that the peer gets."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass
class Outcome:
    """What became of the objects of one request, as items of DICOM JSON."""

    stored: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> int:
        """All stored, some, or none (PS3.18 10.5.3.1)."""
        if not self.failed:
            return 200
        return 202 if self.stored else 409

    def as_json(self) -> dict[str, Any]:
        """The Store Instances Response Module (PS3.18 I.2)."""
        named = {"00081199": self.stored, "00081198": self.failed}
        return {tag: {"vr": "SQ", "Value": items} for tag, items in named.items() if items}


class Store:
    """Takes objects into storage and queue of a node, which may be running or not.

    Args:
        file: of the node.

    Raises:
        ParamsError: the node's file is invalid.
        StorageError, LogError: storage or queue cannot be opened.
    """

    path = STUDIES

    def __init__(self, file: Path) -> None:
        settings = load_node_settings(file)
        self._limits: LimitSettings = settings.limits
        self._storage = Storage(settings.storage)
        self._queue = Queue(settings.queue_url, settings.limits.longest_pause)
        self._headers = HeaderReader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._headers.close()
        self._queue.close()

    def routes(self) -> list[BaseRoute]:
        """Routes by which objects are stored."""
        paths = (STUDIES, STUDIES + "/{study}")
        return [Route(path, self.answer, methods=["POST"]) for path in paths]

    async def answer(self, request: Request) -> Response:
        """Store the objects of a request, and say which were."""
        try:
            if self._storage.free < self._limits.free_bytes:
                raise OSError("disk full")
            return await self._stored(request)
        except BadMultipartError as error:
            await run_in_threadpool(self._count, "not multipart/related of DICOM objects")
            return PlainTextResponse(f"The body is invalid: {error}.\n", 400)
        except ClientDisconnect:
            return Response(status_code=400)
        except (OSError, LogError) as error:
            _log.error("Nothing can be stored: %s", type(error).__name__)
            return PlainTextResponse("Nothing can be stored now.\n", 503, {"Retry-After": "30"})

    async def _stored(self, request: Request) -> Response:
        kind, outcome = request.headers.get("Content-Type", ""), Outcome()
        with PartFiles(kind, self._storage.arriving, self._limits.object_bytes) as files:
            async for piece in request.stream():
                await run_in_threadpool(files.feed, piece)
            parts = files.parts()
            if not parts:
                raise BadMultipartError("it has no part")
            for part in parts:
                study = request.path_params.get("study")
                await run_in_threadpool(self._take, part, study, outcome)
        return JSONResponse(outcome.as_json(), outcome.status, media_type=JSON)

    def _take(self, part: Part, study: str | None, outcome: Outcome) -> None:
        """Store one part, or note why not.

        Raises:
            LogError: the queue cannot be written.
            OSError: the storage cannot.
        """
        reference: dict[str, Any] = {}
        try:
            path, uid, kind = self._checked(part, study, reference)
        except Declined as declined:
            self._count(declined.reason)
            reason = {"00081197": {"vr": "US", "Value": [declined.status]}}
            outcome.failed.append({**reference, **reason})
            return
        taken = self._storage.add(self._queue, path, uid, kind, PAGE)
        if taken != "new":
            self._count(taken)
        outcome.stored.append(reference)

    def _checked(
        self, part: Part, study: str | None, reference: dict[str, Any]
    ) -> tuple[Path, str, str]:
        """File, SOP instance and class UID of an object that may be taken; the reference is filled.

        Raises:
            Declined: it may not.
        """
        if part.path is None:
            raise Declined(OUT_OF_RESOURCES, "object too large")
        if part.kind not in (TYPE, ""):
            raise Declined(CANNOT_UNDERSTAND, "part that is no DICOM object")
        try:
            header = self._headers.read(part.path, "object")
        except RadiographError:
            raise Declined(CANNOT_UNDERSTAND, "unreadable header") from None
        uid, kind = str(header.get("SOPInstanceUID", "")), str(header.get("SOPClassUID", ""))
        if not UID(uid).is_valid or not UID(kind).is_valid:
            raise Declined(CANNOT_UNDERSTAND, "invalid UID")
        reference["00081150"] = {"vr": "UI", "Value": [kind]}
        reference["00081155"] = {"vr": "UI", "Value": [uid]}
        if kind not in SOURCES:  # none of the node's own objects: no loop
            raise Declined(WRONG_CLASS, "SOP class not taken")
        if study is not None and study != str(header.get("StudyInstanceUID")):
            raise Declined(OTHER_STUDY, "object of another study than the address names")
        return part.path, uid, kind

    def _count(self, reason: str) -> None:
        try:
            self._queue.count(reason, PAGE)
        except LogError:
            _log.warning("Not counted: %s", reason)
