"""Sending by STOW-RS: a destination that speaks DICOMweb gets its objects one request each."""

import secrets
from typing import Any

from app.pacs.dicomweb.client import JSON_BYTES, DeclinedError, HttpClient, parsed
from app.pacs.dicomweb.multipart import TYPE, body_of
from app.pacs.dicomweb.request_sender import RequestSender
from app.pacs.queue import Delivery

FAILED, REASON = "00081198", "00081197"
"""Failed SOP Sequence, Failure Reason."""


class StowSender(RequestSender):
    """Sends to one destination by STOW-RS; its peer has `web`."""

    def _prepare(self) -> None:
        assert self._peer.web is not None
        self._client = HttpClient(self._peer.web, self._tls)

    def _put(self, delivery: Delivery, data: bytes) -> None:
        del delivery  # the object says itself what it is
        boundary = secrets.token_hex(16)
        headers = {
            "Content-Type": f'multipart/related; type="{TYPE}"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        body = body_of(data, boundary)
        with self._client.asking("POST", "/studies", headers=headers, content=body) as answer:
            answered = b"".join(answer.pieces(JSON_BYTES))
            if answer.status not in (200, 202, 409):
                raise DeclinedError(f"the destination answers {answer.status}")
            failed = _items(parsed(answered), FAILED) if answered.strip() else []
            if failed:
                codes = failed[0].get(REASON, {}).get("Value") or ["no reason"]
                raise DeclinedError(
                    f"the destination does not store it (failure reason {codes[0]})"
                )
            if answer.status == 409:
                raise DeclinedError("the destination stores nothing")


def _items(answer: Any, tag: str) -> list[Any]:
    """Items of a sequence in DICOM JSON; some servers put the data set into a list."""
    dataset = answer[0] if isinstance(answer, list) and answer else answer
    element = dataset.get(tag) if isinstance(dataset, dict) else None
    items = element.get("Value") if isinstance(element, dict) else None
    return [i for i in items if isinstance(i, dict)] if isinstance(items, list) else []
