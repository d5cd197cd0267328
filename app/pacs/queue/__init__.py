"""The durable queue between the network and the model."""

from app.pacs.queue.rows import (
    Arrival,
    Delivery,
    Earlier,
    Ended,
    Outgoing,
    Received,
    Summary,
    uid_key,
)
from app.pacs.queue.store import Queue

__all__ = [
    "Arrival",
    "Delivery",
    "Earlier",
    "Ended",
    "Outgoing",
    "Queue",
    "Received",
    "Summary",
    "uid_key",
]
