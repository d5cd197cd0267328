"""Lanes: what waits for what on the page; a long explanation never holds up a prediction."""

from typing import Any

KEPT_SECONDS = 3600
"""For how long the page keeps what it was handed and what it answered."""

_OWN: dict[str, Any] = {"api_visibility": "private"}
READING = {**_OWN, "concurrency_id": "reading", "concurrency_limit": 4}
"""Quick looks at what was entered or answered."""
PREDICTION = {**_OWN, "concurrency_id": "prediction", "concurrency_limit": 2}
EXPLANATION = {**_OWN, "concurrency_id": "explanation", "concurrency_limit": 1}
WORKLIST = {**_OWN, "concurrency_id": "worklist", "concurrency_limit": 1}
