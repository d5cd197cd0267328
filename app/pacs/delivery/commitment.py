"""Storage commitment (PS3.4 J): a destination says that it keeps what it was sent.

An object is `stored` when the destination has answered its C-STORE, and `committed` once its report
names it. What is reported as failed, or in no report for a while, is sent again.
"""

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy import Row, and_, select, update

from app.pacs.objects.evidence import UNDECODABLE
from app.pacs.objects.sop_classes import SOP_CLASSES
from app.pacs.objects.uids import PREFIX
from app.pacs.queue import Delivery, Queue
from app.pacs.queue.tables import DELIVERIES
from app.pacs.settings import LimitSettings
from cxr_mm.core.errors import LogError

_log = logging.getLogger(__name__)
MODEL = StorageCommitmentPushModel
REQUEST = 1
"""Action type of N-ACTION (PS3.4 J.3.2)."""
SUCCESS, PROCESSING_FAILURE, NO_SUCH_TRANSACTION = 0x0000, 0x0110, 0x0112
"""Status of an answer (PS3.7 C)."""


class Commitment:
    """Asks one destination for commitment, and takes its reports.

    Args:
        queue: whose deliveries it is about.
        limits: how long a report may take, and when a failed one is sent again.
        destination: name of the peer.
    """

    def __init__(self, queue: Queue, limits: LimitSettings, destination: str) -> None:
        self._queue, self._limits, self._destination = queue, limits, destination

    def ask(self, association: Any, stored: Sequence[Delivery]) -> str:
        """Ask for commitment to what an association has stored.

        The deliveries wait for the report before it is asked for, since it may come at once.

        Returns:
            Why the request was not taken; empty where it was.

        Raises:
            LogError: the queue cannot be used.
        """
        transaction = f"{PREFIX}{uuid.uuid4().int}"
        self._await_report(stored, transaction)
        try:
            status, _ = association.send_n_action(
                _request(transaction, stored), REQUEST, MODEL, StorageCommitmentPushModelInstance
            )
        except ValueError:
            return "the destination offers no storage commitment"
        except RuntimeError:
            return "the association ended"
        answered = status.get("Status")
        if answered == SUCCESS:
            return ""
        return "no answer" if answered is None else f"storage commitment answered {answered:#06x}"

    def answer(self, event: Any) -> int:
        """Take an N-EVENT-REPORT; returns the status of its answer.

        Args:
            event: of pynetdicom.
        """
        try:
            return self.reported(event.event_information)
        except LogError as error:
            _log.error("The queue cannot be written: %s", error)
            return PROCESSING_FAILURE
        except UNDECODABLE:
            return PROCESSING_FAILURE

    def reported(self, report: Dataset) -> int:
        """Take a report; returns the status of the answer.

        Args:
            report: information of the N-EVENT-REPORT.

        Raises:
            LogError: the queue cannot be used.
        """
        transaction = str(report.get("TransactionUID") or "")
        kept = {str(i.ReferencedSOPInstanceUID) for i in report.get("ReferencedSOPSequence") or ()}
        failed = {
            str(i.ReferencedSOPInstanceUID): f"not committed: {i.get('FailureReason', 0):#06x}"
            for i in report.get("FailedSOPSequence") or ()
        }
        c = DELIVERIES.c
        mine = and_(c.destination == self._destination, c.commitment == transaction)
        with self._queue.transaction() as connection:
            rows = connection.execute(select(DELIVERIES).where(mine)).all()
            for values, number in self._outcomes(rows, kept, failed):
                connection.execute(update(DELIVERIES).where(c.id == number).values(values))
        return SUCCESS if rows else NO_SUCH_TRANSACTION

    def _outcomes(
        self, rows: Iterable[Row[Any]], kept: set[str], failed: Mapping[str, str]
    ) -> Iterable[tuple[dict[str, Any], int]]:
        """What a report changes: columns, and the id of the row."""
        for row in rows:
            if row.state != "stored":  # an earlier report, or the end of waiting, was faster
                continue
            if reason := failed.get(row.sop_instance_uid):
                pause = timedelta(seconds=self._limits.pause(row.attempts))
                again = {"state": "waiting", "next_at": self._queue.clock() + pause}
                yield again | {"reason": reason}, row.id
            elif row.sop_instance_uid in kept:
                yield {"state": "committed", "reason": ""}, row.id

    def _await_report(self, stored: Sequence[Delivery], transaction: str) -> None:
        now, limits = self._queue.clock(), self._limits
        pause = min(limits.report_seconds, limits.longest_pause)  # beyond which all rows are due
        waits = {
            "state": "stored",
            "commitment": transaction,
            "sent_at": now,
            "next_at": now + timedelta(seconds=pause),
            "claimed_by": None,
            "reason": "waits for storage commitment",
        }
        mine = DELIVERIES.c.id.in_([delivery.id for delivery in stored])
        with self._queue.transaction() as connection:
            connection.execute(update(DELIVERIES).where(mine).values(waits))


def _request(transaction: str, stored: Sequence[Delivery]) -> Dataset:
    request, items = Dataset(), []
    for delivery in stored:
        item = Dataset()
        item.ReferencedSOPClassUID = SOP_CLASSES[delivery.kind]
        item.ReferencedSOPInstanceUID = delivery.sop_instance_uid
        items.append(item)
    request.TransactionUID, request.ReferencedSOPSequence = transaction, items
    return request
