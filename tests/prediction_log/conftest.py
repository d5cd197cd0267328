"""A made-up answer, and an empty log in a folder or a PostgreSQL of its own."""

import resource
import sqlite3
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import numpy as np
import pytest

from cxr_mm.core.prediction import Answer, FindingPrediction, Prediction
from cxr_mm.core.record import Outcome, ServiceEvent
from cxr_mm.core.study import Study

SECRET = "a secret that is long enough"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def answer(study_id="study-0815", patient_id="patient-4711"):
    finding = FindingPrediction(
        finding="icu",
        title="ICU",
        probability=0.7,
        threshold=0.5,
        positive=True,
        certainty="uncertain",
    )
    return Answer(
        study=Study(
            study_id=study_id,
            patient_id=patient_id,
            image=np.full((8, 8), 0.123456, np.float32),
            note="Dyspnoea since yesterday",
            view="AP",
        ),
        prediction=Prediction(
            study_id=study_id,
            task="icu",
            model="icu",
            digest="d" * 64,
            modalities=("image", "note"),
            findings=(finding,),
        ),
        clinical={"age": 61.0, "sex": "F", "crp": None},
        quality={"exposure": 0.4, "contrast": float("nan")},
        image_embedding=np.arange(5, dtype=np.float32) / 3,
        note_traits={"words": 3.0},
        shares={"icu": {"image": 0.1, "note": -0.2}},
        latency_ms=12.5,
    )


def outcome(study_hash="s", **changes):
    values = {"study_hash": study_hash, "finding": "icu", "label": 1, "recorded_at": NOON}
    return Outcome(**(values | changes))


def refusal(**changes):
    values = {"created_at": NOON, "task": "icu", "digest": "d" * 64, "kind": "rejected_image"}
    return ServiceEvent(**(values | changes))


@pytest.fixture(name="answer")
def _answer():
    return answer


@pytest.fixture(name="outcome")
def _outcome():
    return outcome


@pytest.fixture(name="refusal")
def _refusal():
    return refusal


@pytest.fixture(params=["url", "postgresql"], ids=["sqlite", "postgresql"])
def database(request):
    """The URL of an empty database of each kind."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "log" / "predictions.db"


@pytest.fixture
def url(file):
    return f"sqlite:///{file}"


@pytest.fixture
def locked(file):
    """`with locked(): …`: no one else can write to the database."""

    @contextmanager
    def lock():
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            yield
            database.execute("ROLLBACK")

    return lock


@pytest.fixture
def full_disk():
    """`with full_disk(size): …`: no file can grow beyond so many bytes."""

    @contextmanager
    def full(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full


@pytest.fixture
def until():
    """`until(condition)`: wait for it, and fail where it does not come."""

    def wait(condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come true"
            time.sleep(0.01)

    return wait
