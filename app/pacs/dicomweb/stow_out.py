"""Sending by STOW-RS: a destination that speaks DICOMweb gets its objects one request each."""

import secrets
from collections.abc import Sequence
from typing import Any

from app.pacs.dicomweb.client import JSON_BYTES, AwayError, DeclinedError, HttpClient, parsed
from app.pacs.dicomweb.multipart import TYPE, body_of
from app.pacs.queue import Delivery, Queue
from app.pacs.sender import Sender
from app.pacs.settings import NodeSettings, Peer
from app.pacs.stages import UNTIMED, Stages
from app.pacs.storage import Storage

FAILED, REASON = "00081198", "00081197"
"""Failed SOP Sequence, Failure Reason."""


class StowSender(Sender):
    """Sends to one destination by STOW-RS, with the queue and the pauses of every sender.

    Args:
        settings, peer, storage, queue, stages: as of `Sender`; the peer has `web`.

    Raises:
        ParamsError: certificate, authority or secret cannot be used.
    """

    def __init__(
        self,
        settings: NodeSettings,
        peer: Peer,
        storage: Storage,
        queue: Queue,
        stages: Stages = UNTIMED,
    ) -> None:
        super().__init__(settings, peer, storage, queue, stages)
        assert peer.web is not None
        self._client = HttpClient(peer.web, self._tls)

    def _deliver(self, due: Sequence[Delivery]) -> None:
        for number, delivery in enumerate(due):
            try:
                with self._stages.timed("send"):
                    reason = self._refusal(self._storage.path(delivery.file).read_bytes())
            except FileNotFoundError:
                self._queue.bury(delivery, "its file is gone")
            except AwayError as error:
                self._note(str(error))
                self._failed(due[number:], str(error))
                return
            except DeclinedError as error:
                self._failed([delivery], str(error))
            else:
                self._note()
                if reason:
                    self._failed([delivery], reason)
                else:
                    self._queue.sent(delivery)

    def _refusal(self, data: bytes) -> str:
        """Store one object; why the destination did not take it, empty where it did.

        Raises:
            AwayError: there is no answer.
            DeclinedError: the answer is not that of STOW-RS.
        """
        boundary = secrets.token_hex(16)
        headers = {
            "Content-Type": f'multipart/related; type="{TYPE}"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        body = body_of(data, boundary)
        with self._client.asking("POST", "/studies", headers=headers, content=body) as answer:
            answered = b"".join(answer.pieces(JSON_BYTES))
            if answer.status not in (200, 202, 409):
                return f"the destination answers {answer.status}"
            failed = _items(parsed(answered), FAILED) if answered.strip() else []
            if failed:
                codes = failed[0].get(REASON, {}).get("Value") or ["no reason"]
                return f"the destination does not store it (failure reason {codes[0]})"
            return "" if answer.status != 409 else "the destination stores nothing"


def _items(answer: Any, tag: str) -> list[Any]:
    """Items of a sequence in DICOM JSON; some servers put the data set into a list."""
    dataset = answer[0] if isinstance(answer, list) and answer else answer
    element = dataset.get(tag) if isinstance(dataset, dict) else None
    items = element.get("Value") if isinstance(element, dict) else None
    return [i for i in items if isinstance(i, dict)] if isinstance(items, list) else []
