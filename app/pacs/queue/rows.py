"""Rows of the queue as values: what arrives, what is worked on, and what goes out."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from app.pacs.settings import Kind

Ended = Literal["answered", "not_analysed", "failed"]


def uid_key(uid: str) -> str:
    """SHA-256 of a UID, hexadecimal: what a SOP instance is known by."""
    return hashlib.sha256(uid.encode()).hexdigest()


@dataclass(frozen=True)
class Arrival:
    """One object that a peer has stored with the node.

    Args:
        sop_instance_uid, sop_class_uid: of the request.
        peer: name of the sender.
        file: name in the storage.
        content: SHA-256 of the file, hexadecimal.
        priority: of the DIMSE request.
    """

    sop_instance_uid: str
    sop_class_uid: str
    peer: str
    file: str
    content: str
    priority: int = 0


@dataclass(frozen=True)
class Received:
    """One received object whose turn it is; fields as in the table."""

    id: int
    sop_instance_uid: str
    sop_class_uid: str
    peer: str
    file: str
    received_at: datetime
    attempts: int
    interrupted: int


@dataclass(frozen=True)
class Outgoing:
    """One object to be delivered.

    Args:
        destination: name of the peer.
        kind: of the object.
        sop_instance_uid: of the object.
        file: name in the storage.
    """

    destination: str
    kind: Kind
    sop_instance_uid: str
    file: str


@dataclass(frozen=True)
class Delivery:
    """One delivery whose turn it is; fields as in the table."""

    id: int
    destination: str
    kind: Kind
    sop_instance_uid: str
    file: str
    attempts: int


@dataclass(frozen=True)
class Earlier:
    """One object that was made of an image before; fields as in the table of deliveries."""

    digest: str
    destination: str
    kind: str
    sop_instance_uid: str | None


@dataclass(frozen=True)
class Summary:
    """What a list of images shows of an answer.

    Args:
        task: of the model.
        suspicion: how far up in a list the image belongs; more is more suspicious.
        findings: `finding`, `title`, `probability`, `positive` and `certainty` of each.
    """

    task: str
    suspicion: float
    findings: tuple[dict[str, Any], ...]
