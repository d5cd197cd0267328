"""Context of a study: what the sources know of it, whether it waits, and whether it is new."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pydicom.dataset import Dataset

from app.pacs.context.book import Book, Owner, book_of
from app.pacs.context.choose import NO_CONTEXT, Context, choose, wants_context
from app.pacs.context.facts import ContextError, Fact, moment
from app.pacs.context.queries import Source, Wanted, open_sources
from app.pacs.queue import Queue, Received
from app.pacs.sections.context import ContextSettings
from app.pacs.settings import NodeSettings
from cxr_mm.core.task import Task

_log = logging.getLogger(__name__)
SHORTEST_LOOK, LOOKS = 1.0, 10
"""Seconds between two looks of a study that waits, and how many there are at most."""


@dataclass(frozen=True)
class Found:
    """What a study is answered with.

    Args:
        context: what is known.
        wait: seconds before it is looked at again; 0 where it is answered now.
        owner: whose facts may still arrive and change the answer; None where none may.
        seen: number of the last fact that was looked at.
    """

    context: Context = NO_CONTEXT
    wait: float = 0.0
    owner: Owner | None = None
    seen: int = 0


NOTHING = Found()


class Contexts:
    """Finds the clinical context of studies.

    Args:
        settings: of the clinical context.
        queue: where reasons are counted.
        book: facts that arrived.
        sources: that are asked for each study.
    """

    def __init__(
        self, settings: ContextSettings, queue: Queue, book: Book, sources: Sequence[Source] = ()
    ) -> None:
        self._settings, self._queue, self._book, self._sources = settings, queue, book, sources

    def of(self, received: Received, task: Task, header: Dataset, *, again: bool) -> Found:
        """What is known of a study now.

        Args:
            received: its row.
            task: of the model that answers it.
            header: of its image.
            again: whether it is answered again when more arrives.

        Raises:
            LogError: the queue cannot be used.
        """
        owner = Owner(_text(header, "PatientID"), _text(header, "AccessionNumber"))
        if not wants_context(task) or not (owner.patient_id or owner.accession):
            return NOTHING
        study, seen = self._time_of(header, received), self._book.last(owner)
        facts, troubles = self._facts(owner, study)
        context = choose(task, facts, study, self._settings.most_hours)
        context = replace(context, warnings=(*context.warnings, *troubles))
        now, waited = self._queue.clock(), self._settings.wait_seconds
        left = (received.received_at - now).total_seconds() + waited
        wait = 0.0
        if (context.missing or troubles) and 0 < left <= waited:
            wait = min(left, max(SHORTEST_LOOK, waited / LOOKS))
        until = received.received_at + timedelta(seconds=waited)
        if again:
            until = max(until, received.received_at + timedelta(hours=self._settings.again_hours))
        if wait or (again and until > now):
            self._book.await_more(received, owner, until)
        if not wait:
            for reason in context.dropped:
                self._queue.count(f"context: {reason}"[:64])
        return Found(context, wait, owner if again and until > now else None, seen)

    def recheck(self, received: Received, found: Found) -> None:
        """Have an image be worked on again if facts arrived while it was being answered.

        Raises:
            LogError: the queue cannot be used.
        """
        if found.owner and self._book.last(found.owner) > found.seen:
            self._book.wake(received.id)

    def _facts(self, owner: Owner, study: datetime) -> tuple[list[Fact], list[str]]:
        """Facts of every source, and which could not be asked."""
        facts, troubles = self._book.about(owner), []
        wanted = Wanted(
            owner.patient_id,
            owner.accession,
            study - timedelta(hours=self._settings.most_hours),
            study,
        )
        for source in self._sources:
            try:
                reading = source.ask(wanted)
            except ContextError as error:
                _log.error("%s: %s", source.name, error.message)
                troubles.append("context: a source could not be asked")
                continue
            facts += [fact for fact in reading.facts if _is_of(fact, owner)]
            for reason in reading.dropped:
                self._queue.count(f"context: {reason}"[:64])
        return facts, list(dict.fromkeys(troubles))

    def _time_of(self, header: Dataset, received: Received) -> datetime:
        """When the study was made; when it was received where the header says nothing usable."""
        date, time = _text(header, "StudyDate"), _text(header, "StudyTime")
        offset = _text(header, "TimezoneOffsetFromUTC")
        found = moment(f"{date}{time.partition('.')[0]}{offset}", self._settings.zone)
        return received.received_at.astimezone(UTC) if isinstance(found, str) else found


@contextmanager
def opened(settings: NodeSettings, queue: Queue) -> Iterator[Contexts]:
    """What finds the context of a node's studies, with its sources open.

    Raises:
        ParamsError: a password, driver or secret is missing.
        LogError: the secret of the hashes is missing.
    """
    assert settings.context is not None
    found = settings.context
    with ExitStack() as stack:
        sources = open_sources(found.sql, found.fhir_servers, found.zone)
        for source in sources:
            stack.callback(source.close)
        yield Contexts(found, queue, book_of(settings.queue_url, queue), sources)


def version_of(digest: str, context: Context) -> str:
    """Digest of model and context: that of the model alone without context."""
    if not context.digest:
        return digest
    return hashlib.sha256(f"{digest} {context.digest}".encode()).hexdigest()


def _is_of(fact: Fact, owner: Owner) -> bool:
    """Whether a fact is the owner's: by patient id, or by accession number where it has none."""
    if fact.patient_id:
        return fact.patient_id == owner.patient_id
    return bool(fact.accession) and fact.accession == owner.accession


def _text(header: Dataset, name: str) -> str:
    return str(header.get(name) or "").strip()
