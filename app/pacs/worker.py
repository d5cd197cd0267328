"""The worker: takes received images in turn, has them answered, and lists what is to be sent."""

import errno
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pydicom.dataset import Dataset

from app.pacs.answering import Answering
from app.pacs.context.studies import NOTHING, Contexts, Found, version_of
from app.pacs.header import HeaderReader
from app.pacs.objects.build import ObjectFile, build_not_analysed, build_objects
from app.pacs.objects.fhir import Json, fhir_bundle, fhir_not_analysed, report_id
from app.pacs.objects.result import Result
from app.pacs.queue import Earlier, Ended, Outgoing, Queue, Received, Summary
from app.pacs.routing import Refusal, Route, facts_of, route
from app.pacs.settings import Destination, Kind, NodeSettings
from app.pacs.stages import UNTIMED, Stages
from app.pacs.storage import Storage
from cxr_mm.core.errors import CxrError, InputError, LogError, RadiographError, UndecodedError
from cxr_mm.inference.suspicion import suspicion

_log = logging.getLogger(__name__)
NOT_ANALYSED: Mapping[Kind, Callable[[Dataset, str, datetime], ObjectFile | Json]] = {
    "sr": build_not_analysed,
    "fhir": fhir_not_analysed,
}
"""What says that an image was not analysed, to whom gets that kind."""
IF_THERE = ("seg",)
"""Objects that are not made of every answer."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without room, for which no image is to blame."""
LOOK_SECONDS = 0.5
"""Between two looks at an empty queue; an arrival wakes the worker at once."""


class Worker:
    """Answers received images, one at a time.

    Args:
        settings: of the node.
        storage: where images are, and answers are written.
        queue: whose rows it works on.
        headers: reads headers.
        answering: asks the models.
        name: by which it claims rows.
        stages: times its work.
        contexts: finds clinical context; None without any.
    """

    def __init__(
        self,
        settings: NodeSettings,
        storage: Storage,
        queue: Queue,
        headers: HeaderReader,
        answering: Answering,
        name: str = "worker",
        stages: Stages = UNTIMED,
        contexts: Contexts | None = None,
    ) -> None:
        self._settings, self._storage, self._queue = settings, storage, queue
        self._contexts = contexts
        self._headers, self._answering = headers, answering
        self._name, self._stages = name, stages
        self._stop = threading.Event()

    def run(
        self,
        stop: threading.Event,
        arrived: threading.Event,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Work until told to stop; a database that is away is tried again.

        Args:
            stop: ends the work after the image at hand.
            arrived: set when there is something to do.
            answered: is called when there may be something to send.
        """
        self._stop, has_claims = stop, False
        while not stop.is_set():
            try:
                if has_claims:  # a row that could not be ended when the database was away
                    self._queue.release_received(self._name)
                has_claims = False
                busy = self.step()
            except LogError as error:
                _log.error("The queue cannot be used: %s", error)
                has_claims = True
                stop.wait(self._settings.limits.shortest_pause)
                continue
            if busy:
                answered()
            else:
                arrived.wait(LOOK_SECONDS)
                arrived.clear()

    def step(self) -> bool:
        """Work on the image whose turn it is; False where none is due.

        Raises:
            LogError: the queue cannot be used.
        """
        received = self._queue.claim(self._name)
        if received is None:
            return False
        limits = self._settings.limits
        if received.interrupted >= limits.interruptions:
            self._end(received, "failed", reason="the node has ended whenever it was answered")
            return True
        try:
            self._work(received)
        except LogError:
            raise
        except Exception as error:  # noqa: BLE001  one image must not end the node
            _log.error("Image %d failed: %s", received.id, type(error).__name__)
            reason = str(error) if isinstance(error, CxrError) else type(error).__name__
            if isinstance(error, OSError) and error.errno in FULL:
                self._queue.wait(received, limits.shortest_pause)
            elif received.attempts >= limits.answer_attempts:
                self._end(received, "failed", reason=reason)
            else:
                self._queue.postpone(received, limits.pause(received.attempts), reason)
        return True

    def _work(self, received: Received) -> None:
        path = self._storage.path(received.file)
        try:
            with self._stages.timed("header"):
                header = self._headers.read(path, "image")
            if str(header.get("SOPInstanceUID")) != received.sop_instance_uid:
                raise RadiographError("its UID is not the one it was sent by", field="image")
        except RadiographError as error:
            self._raise_if_tried_again(error, received)
            self._queue.count("not analysed: unreadable header", received.peer)
            self._end(received, "not_analysed", reason=error.message)
            return
        way = route(self._settings.rules, facts_of(received.peer, header))
        if isinstance(way, Refusal):
            self._queue.count("not analysed: by the rules", received.peer)
            self._not_analysed(received, header, way.reason, way.destinations)
            return
        try:
            self._answer(received, header, way)
        except InputError as error:
            self._raise_if_tried_again(error, received)
            destinations = way.destinations if way.says_not_analysed else ()
            self._queue.count("not analysed: unreadable or rejected image", received.peer)
            self._not_analysed(received, header, error.message, destinations)

    def _raise_if_tried_again(self, error: InputError, received: Received) -> None:
        """Raise an error that may be the machine's fault, as long as attempts are left."""
        attempts = self._settings.limits.answer_attempts
        if isinstance(error, UndecodedError) and received.attempts < attempts:
            raise error

    def _answer(self, received: Received, header: Dataset, way: Route) -> None:
        found = self._found(received, header, way)
        if found is None:
            return
        kinds = tuple(dict.fromkeys(kind for d in way.destinations for kind in d.objects))
        path, picture = self._storage.path(received.file), bool({"sc", "pdf"} & {*kinds})
        result = self._answering.result(
            way.bundle, path, header, picture=picture, context=found.context
        )
        version = version_of(result.digest, found.context)
        if way.answers_again:
            earlier = predecessor_of(self._queue.earlier(received), version)
            result = replace(result, predecessor=earlier)
        written = self._made(header, result, kinds)
        outgoing = [
            Outgoing(d.peer, kind, *written[kind])
            for d in way.destinations
            for kind in d.objects
            if kind in written
        ]
        summary = summary_of(result)
        self._queue.finish(
            received, "answered", result.digest, "", outgoing, summary, version=version
        )
        if self._contexts:
            self._contexts.recheck(received, found)

    def _found(self, received: Received, header: Dataset, way: Route) -> Found | None:
        """Clinical context of an image; None where nothing is to be done now: it waits for more, or
        was answered with the same."""
        if self._contexts is None:
            return NOTHING
        task, digest = self._answering.model(way.bundle)
        found = self._contexts.of(received, task, header, again=way.answers_again)
        if found.wait:
            self._queue.wait(received, found.wait)
            return None
        version = version_of(digest, found.context)
        if is_complete(self._queue.earlier(received), version, way.destinations):
            self._queue.resume(received)
            self._contexts.recheck(received, found)
            return None
        return found

    def _made(
        self, header: Dataset, result: Result, kinds: Sequence[Kind]
    ) -> dict[Kind, tuple[str, str]]:
        """Make and write each object: its UID and file, by kind."""
        with self._stages.timed("build"):
            made_at = datetime.now()
            made: dict[Kind, ObjectFile | Json] = {**build_objects(header, result, kinds, made_at)}
            if "fhir" in kinds:
                made["fhir"] = fhir_bundle(header, result, made_at)
            return {kind: self._written(each) for kind, each in made.items()}

    def _not_analysed(
        self, received: Received, header: Dataset, reason: str, destinations: Iterable[Destination]
    ) -> None:
        """End a row with its reason, and list the report that says so where one is wanted."""
        outgoing: list[Outgoing] = []
        try:
            for kind, build in NOT_ANALYSED.items():
                names = [d.peer for d in destinations if kind in d.objects]
                if names:
                    written = self._written(build(header, reason, datetime.now()))
                    outgoing += [Outgoing(name, kind, *written) for name in names]
        except RadiographError as error:
            reason = f"{reason}; no report, since {error}"
        self._end(received, "not_analysed", reason=reason, outgoing=outgoing)

    def _written(self, made: ObjectFile | Json) -> tuple[str, str]:
        """Write an object to the outbox; returns its UID and its file.

        Raises:
            OSError: it cannot be written.
        """
        if isinstance(made, ObjectFile):
            uid, ending, data = made.uid, "dcm", made.data
        else:
            uid, ending, data = report_id(made), "json", json.dumps(made).encode()
        name = hashlib.sha256(uid.encode()).hexdigest()
        return uid, self._storage.put(f"{name}.{ending}", data)

    def _end(
        self,
        received: Received,
        state: Ended,
        digest: str = "",
        reason: str = "",
        outgoing: Sequence[Outgoing] = (),
        summary: Summary | None = None,
    ) -> None:
        if self._stop.is_set() and state != "answered":
            return  # what failed may have done so because the node ends: the next start decides
        self._queue.finish(received, state, digest, reason, outgoing, summary)


def is_complete(
    earlier: Sequence[Earlier], version: str, destinations: Sequence[Destination]
) -> bool:
    """Whether an earlier answer with this model and context went to every destination."""
    made = {(each.destination, each.kind) for each in earlier if each.digest == version}
    wanted = {(d.peer, kind) for d in destinations for kind in d.objects}
    return {(peer, kind) for peer, kind in wanted if kind not in IF_THERE} <= made


def predecessor_of(earlier: Sequence[Earlier], version: str) -> str:
    """UID of the last structured report of another version; empty without one."""
    reports = (each for each in reversed(earlier) if each.kind == "sr" and each.digest != version)
    return next((each.sop_instance_uid for each in reports if each.sop_instance_uid), "")


def summary_of(result: Result) -> Summary:
    """What a list of images shows of an answer."""
    prediction, names = result.answer.prediction, ("finding", "title", "probability", "positive")
    findings = tuple(
        {name: getattr(each, name) for name in (*names, "certainty")}
        for each in prediction.findings
    )
    return Summary(result.task.name, suspicion(prediction, result.task), findings)
