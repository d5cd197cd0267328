import numpy as np
import pandas as pd
import pytest

from cxr_mm.contracts.modality import subset_name, subsets
from cxr_mm.contracts.task import Task

TITLES = {"binary": 1, "multilabel": 2, "multiclass": 3}


def make_task(problem="binary", kind="manifest_csv", protocol="patient", modalities=3):
    names = ["effusion", "consolidation", "normal"][: TITLES[problem]]
    age = {
        "name": "age",
        "title": "Age",
        "type": "number",
        "unit": "a",
        "minimum": 0,
        "maximum": 120,
    }
    return Task(
        name="made_up",
        title="Made-up question",
        problem=problem,
        findings=[{"name": name, "title": name.title()} for name in names],
        source={"kind": kind},
        split={"protocol": protocol},
        clinical=[age] if modalities > 1 else [],
        note={} if modalities > 2 else None,
        licence="none",
        citation="none",
    )


def make_table(task, n=150, folds=1, seed=0, noise=2.0):
    """Held-out predictions in which every modality adds its own evidence of the label."""
    rng = np.random.default_rng(seed)
    names = task.finding_names
    patients = rng.integers(n * 2 // 3, size=n)
    if task.problem == "multiclass":
        labels = np.eye(len(names))[rng.integers(len(names), size=n)]
    else:
        labels = (rng.random((n, len(names))) < 0.4).astype(float)
        labels[rng.random(labels.shape) < 0.05] = np.nan
    evidence = {
        m: np.nan_to_num(labels) * 2 - 1 + rng.normal(size=labels.shape) * noise
        for m in task.modalities
    }
    parts = []
    for subset in [*subsets(task.modalities), None]:
        logits = sum(evidence[m] for m in subset or task.modalities) / 2
        chances = 1 / (1 + np.exp(-logits))
        called = chances >= 0.5
        if task.problem == "multiclass":
            chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            called = chances == chances.max(axis=1, keepdims=True)
        part = pd.DataFrame(
            {
                "study_id": [f"s{i:04d}" for i in range(n)],
                "patient_id": [f"p{p}" for p in patients],
                "group": [f"p{p}" for p in patients],
                "fold": patients % folds,
                "subset": subset_name(subset) if subset else "available",
            }
        )
        for column, name in enumerate(names):
            part[f"label.{name}"] = labels[:, column]
            part[f"probability.{name}"] = chances[:, column]
            part[f"positive.{name}"] = called[:, column]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def task_of():
    return make_task


@pytest.fixture
def table_of():
    return make_table
