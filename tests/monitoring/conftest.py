"""A made-up question, and records of made-up studies, for every test of monitoring."""

import os
import socket
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.files import write_json
from cxr_mm.core.record import Outcome, PredictionRecord
from cxr_mm.core.task import ClinicalFeature, Finding, NoteSpec, SourceSpec, SplitSpec, Task
from monitoring.concept_drift import labelled
from monitoring.reference import freeze, load_reference
from monitoring.table import newest_per_study, records_table
from monitoring.verdict import Window

os.environ.setdefault("DO_NOT_TRACK", "1")

DIGEST = "a" * 64
START = datetime(2026, 3, 1, tzinfo=UTC)
AXES = np.random.default_rng(7).normal(size=(6, 40))
PARAMS = ReferenceParams(components=4, resamples=200, window_sizes=(20, 50, 100, 200))
TASK = Task(
    name="made_up",
    title="Made-up <question>",
    problem="binary",
    findings=(Finding(name="pneumonia", title="Pneumonia"),),
    source=SourceSpec(kind="manifest_csv"),
    split=SplitSpec(protocol="patient"),
    clinical=(
        ClinicalFeature(name="age", title="Age", type="number", unit="a", minimum=0, maximum=120),
        ClinicalFeature(
            name="crp", title="CRP", type="number", unit="mg/L", minimum=0, maximum=1000
        ),
        ClinicalFeature(name="sex", title="Sex", type="category", categories=("F", "M")),
    ),
    note=NoteSpec(),
    licence="none",
    citation="none",
)


def made_up(
    n,
    seed,
    *,
    age=0.0,
    crp_missing=0.1,
    women=0.5,
    image_shift=0.0,
    note=0.8,
    exposure=0.0,
    logit_shift=0.0,
    slope=1.0,
    digest=DIGEST,
    prefix="study",
):
    """Records and outcomes; every keyword is a drift that can be dialled in (0, default: none)."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=n)
    records, outcomes = [], []
    for i in range(n):
        has_note = bool(rng.random() < note)
        logit = 1.6 * latent[i] + logit_shift
        probability = float(1 / (1 + np.exp(-logit)))
        truth = 1 / (1 + np.exp(-slope * 1.6 * latent[i]))
        factors = rng.normal(size=6)
        factors[0] += image_shift
        image = factors @ AXES + rng.normal(size=40)
        study = f"{prefix} {seed} {i}"
        records.append(
            PredictionRecord(
                record_id=study,
                created_at=START + timedelta(minutes=i),
                task="made_up",
                model="made_up",
                digest=digest,
                study_hash=study,
                patient_hash=f"{prefix} {seed} patient {i // 2}",
                modalities=("image", "tabular", "note") if has_note else ("image", "tabular"),
                view="PA" if rng.random() < 0.7 else "AP",
                clinical={
                    "age": float(np.clip(55 + 15 * (rng.normal() + age), 0, 120)),
                    "crp": None if rng.random() < crp_missing else float(np.exp(rng.normal() + 3)),
                    "sex": "F" if rng.random() < women else "M",
                },
                certainties={"pneumonia": "uncertain" if 0.4 < probability < 0.6 else "present"},
                note_traits={"words": float(rng.poisson(40))} if has_note else {},
                shares={"pneumonia": {"image": rng.normal(), "tabular": rng.normal()}},
                quality={"exposure": float(rng.normal() + exposure), "contrast": rng.normal()},
                image_embedding=tuple(image.tolist()),
                note_embedding=tuple(rng.normal(size=12).tolist()) if has_note else None,
                probabilities={"pneumonia": probability},
                positives={"pneumonia": probability > 0.5},
            )
        )
        outcomes.append(
            Outcome(
                study_hash=study,
                finding="pneumonia",
                label=int(rng.random() < truth),
                recorded_at=START + timedelta(days=1),
            )
        )
    return records, outcomes


def whole(table):
    """A window all of which is compared, with nothing before it."""
    known = labelled(table, TASK.finding_names)
    return Window(table, known, known.iloc[:0], len(table), len(known))


@pytest.fixture(scope="session")
def make():
    return made_up


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle's description, and the frozen reference beside it."""
    root = tmp_path_factory.mktemp("models")
    write_json(root / "bundle" / "bundle.json", {"digest": DIGEST})
    records, outcomes = made_up(600, seed=0)
    freeze(TASK, DIGEST, records, outcomes, PARAMS, root / "reference")
    return root / "bundle"


@pytest.fixture(scope="session")
def frozen(bundle):
    return load_reference(bundle.parent / "reference")


@pytest.fixture(scope="session")
def window(frozen):
    """A window's table: `window(n, seed, labelled=…, **drift)`."""

    def table(n, seed, *, labelled=False, **drift):
        records, outcomes = made_up(n, seed, prefix="new", **drift)
        return newest_per_study(
            records_table(
                records,
                frozen.task,
                frozen.quality,
                frozen.projections,
                outcomes if labelled else (),
            )
        )

    return table


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
