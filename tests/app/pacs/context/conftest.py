"""Fixtures of clinical context: a task with LOINC codes, a book of facts, and facts."""

from datetime import UTC, datetime, timedelta

import pytest

from app.pacs.context.book import Book
from app.pacs.context.facts import Fact
from cxr_mm.core.task import load_task

STUDY = datetime(2026, 3, 1, 12, tzinfo=UTC)
CODES = {"crp": ("1988-5",), "temperature": ("8310-5", "8331-1"), "wbc": ("6690-2",)}


def before(hours):
    return STUDY - timedelta(hours=hours)


def fact(code="1988-5", value="12", unit="mg/L", at=None, **ids):
    return Fact(code, value, unit, at or before(1), **(ids or {"patient_id": "P1"}))


def with_codes(task, note=("11488-4",)):
    clinical = tuple(
        feature.model_copy(update={"loinc": CODES.get(feature.name, ())})
        for feature in task.clinical
    )
    noted = task.note and task.note.model_copy(update={"loinc": note})
    return task.model_copy(update={"clinical": clinical, "note": noted})


@pytest.fixture(scope="session")
def task():
    """The synthetic task, whose CRP, temperature, white cells and notes have codes."""
    return with_codes(load_task("synthetic"))


@pytest.fixture
def book(queue):
    return Book(queue, b"s" * 32)
