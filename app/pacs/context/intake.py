"""Intake of facts: the files of drop folders, and how bytes of each format are read."""

import logging
from collections.abc import Callable
from pathlib import Path

from app.pacs.context.book import Book
from app.pacs.context.csv_table import read_csv
from app.pacs.context.facts import ContextError, Reading
from app.pacs.context.fhir_bundle import read_fhir
from app.pacs.context.hl7_message import messages_of, read_hl7
from app.pacs.queue import Queue
from app.pacs.sections.context import ContextSettings, DropFolder
from cxr_mm.core.errors import LogError, StorageError

_log = logging.getLogger(__name__)
ENDINGS = {"csv": ".csv", "hl7": ".hl7", "fhir": ".json"}
REJECTED = "rejected"
LONGEST_REASON = 50
LARGEST_LOOK = 1000
"""Files of one look."""


class Intake:
    """Takes what arrives into the book, and counts what is dropped.

    Args:
        settings: of the clinical context.
        book: where facts go.
        queue: where reasons are counted.
        arrived: is called after new facts.
    """

    def __init__(
        self,
        settings: ContextSettings,
        book: Book,
        queue: Queue,
        arrived: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._book, self._queue = settings, book, queue
        self._arrived, self._zone = arrived, settings.zone

    def look(self) -> int:
        """Take every complete file of the drop folders; returns how many.

        A file is deleted once its facts are in the book; one that cannot be read is set aside in
        `rejected`, beside the reason.

        Raises:
            LogError: the book cannot be written.
            StorageError: a folder or file cannot be read, deleted or moved; the others were taken.
        """
        number, faults = 0, []
        for folder in self._settings.folders:
            for path in sorted(folder.path.glob(f"*{ENDINGS[folder.format]}"))[:LARGEST_LOOK]:
                if path.is_symlink() or path.name.startswith(".") or not path.is_file():
                    continue
                try:
                    self._take(folder, path)
                    number += 1
                except OSError as error:
                    faults.append((folder.path, error))
        if faults:
            where, fault = faults[0]
            raise StorageError(
                f"{len(faults)} of its files cannot be taken ({fault.strerror})",
                field=str(where),
                remedy="Let the node's user read, delete and move them",
            ) from fault
        return number

    def _take(self, folder: DropFolder, path: Path) -> None:
        try:
            if path.stat().st_size > folder.file_bytes:
                raise ContextError(f"more than {folder.file_bytes:,} bytes")
            reading = self._read(folder, path.read_bytes())
        except ContextError as error:
            self.count(error.message)
            aside = path.parent / REJECTED
            aside.mkdir(exist_ok=True)
            (aside / f"{path.name}.txt").write_text(f"{error}\n", encoding="utf-8")
            path.replace(aside / path.name)
            return
        self.add(reading)
        path.unlink()

    def _read(self, folder: DropFolder, data: bytes) -> Reading:
        if folder.format == "csv":
            return read_csv(data, self._zone)
        if folder.format == "fhir":
            return read_fhir(data, self._zone)
        whole = Reading()
        for message in messages_of(data):
            found = self.read_message(message)
            whole.facts += found.facts
            whole.dropped += found.dropped
        return whole

    def read_message(self, data: bytes) -> Reading:
        """Read an HL7 message.

        Raises:
            RejectedError, ContextError: as `read_hl7`.
        """
        return read_hl7(data, self._zone, self._settings.assigning_authority)

    def add(self, reading: Reading) -> None:
        """Put facts into the book, and count what was dropped.

        Raises:
            LogError: the book cannot be written.
        """
        if self._book.add(reading.facts):
            self._arrived()
        for reason in reading.dropped:
            self.count(reason)

    def count(self, reason: str) -> None:
        """Count what was dropped, by reason; where the queue is away it is in the log alone."""
        try:
            self._queue.count(f"context: {reason}"[:LONGEST_REASON])
        except LogError:
            _log.warning("Not counted: context: %s", reason)
