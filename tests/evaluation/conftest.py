import hashlib
from functools import cache

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.prediction import OperatingPoint
from cxr_mm.core.task import Task
from cxr_mm.core.types import subset_name, subsets
from cxr_mm.data.leakage import NearPairs, audit
from cxr_mm.data.manifest import TEXT_COLUMNS, Manifest
from cxr_mm.evaluation.evaluate import compute_metrics
from cxr_mm.imaging.quality import QUALITY_NAMES
from cxr_mm.models.input_gate import JSON_FILE as GATE_FILE
from cxr_mm.models.input_gate import InputGateSpec, Limits
from cxr_mm.models.registry import FORMAT, BundleIndex, index_digest

LIMITS = Limits(ood_score=0.0, distance=1.0)
GATE = (
    InputGateSpec(kinds=("image",), refuse=LIMITS, warn=LIMITS, images=50, limits_from=50)
    .model_dump_json()
    .encode()
)
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
    """Held-out predictions in which every modality adds its own signal about the label."""
    rng = np.random.default_rng(seed)
    names = task.finding_names
    patients = rng.integers(n * 2 // 3, size=n)
    if task.problem == "multiclass":
        labels = np.eye(len(names))[rng.integers(len(names), size=n)]
    else:
        labels = (rng.random((n, len(names))) < 0.4).astype(float)
        labels[rng.random(labels.shape) < 0.05] = np.nan
    signal = {
        m: np.nan_to_num(labels) * 2 - 1 + rng.normal(size=labels.shape) * noise
        for m in task.modalities
    }
    parts = []
    for subset in [*subsets(task.modalities), None]:
        logits = sum(signal[m] for m in subset or task.modalities) / 2
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
            part[f"threshold.{name}"] = 0.5
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def task_of():
    return make_task


@pytest.fixture(scope="session")
def table_of():
    return make_table


def make_manifest(task, table, seed=0):
    """The studies of a table, with view, site and the clinical features of the task."""
    rng = np.random.default_rng(seed)
    rows = table[table["subset"] == "available"].sort_values("study_id")
    n = len(rows)
    frame = pd.DataFrame(dict.fromkeys(TEXT_COLUMNS), index=range(n), dtype=object)
    for column in ("study_id", "patient_id", "group"):
        frame[column] = rows[column].to_numpy()
    frame["pixel_row"] = range(n)
    frame["view"] = rng.choice(["PA", "AP"], n)
    frame["site"] = rng.choice(["North", "South", "Mill | Lane"], n, p=[0.5, 0.45, 0.05])
    if task.clinical:
        frame["clinical.age"] = rng.integers(10, 95, n).astype(float)
    for name in task.finding_names:
        frame[f"finding.{name}"] = rows[f"label.{name}"].to_numpy()
    return Manifest.checked(task, frame)


def make_project(task, table, root, seed=0):
    """What the stages before `evaluate` leave, for a synthetic task."""
    paths, rng = TaskPaths(task.name, root), np.random.default_rng(seed)
    manifest = make_manifest(task, table, seed)
    n = len(manifest)
    for folder in (paths.ingest, paths.split, paths.embeddings, paths.bundle):
        folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(paths.heldout)
    table.iloc[:0].assign(division=1).to_parquet(paths.divisions)
    manifest.frame.to_parquet(paths.manifest)
    ids = manifest.frame["study_id"]
    quality = pd.DataFrame({"study_id": ids, "file_sha256": "", "phash": ""})
    quality[list(QUALITY_NAMES)] = rng.random((n, len(QUALITY_NAMES)))
    quality.to_parquet(paths.ingest / "quality.parquet")
    # The first number of an embedding is the view: a shortcut that the audit must see.
    embedding = rng.normal(size=(n, 8)).astype(np.float32)
    embedding[:, 0] += 4 * (manifest.frame["view"] == "PA").to_numpy()
    save_file({"image": embedding}, paths.embeddings / "embeddings.safetensors")
    split = pd.DataFrame({"study_id": ids, "group": manifest.frame["group"], "part": "test"})
    split["fold"] = 0
    split.to_parquet(paths.split / "split.parquet")
    none = NearPairs(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(0))
    write_json(paths.split / "audit.json", audit(manifest, split, quality["file_sha256"], none))
    write_json(paths.ingest / "report.json", _ingest_report(task, manifest))
    write_json(paths.bundle / "bundle.json", make_index(task).model_dump(mode="json"))
    (paths.bundle / GATE_FILE).write_bytes(GATE)
    return paths


def _ingest_report(task, manifest):
    labels = manifest.labels()
    return {
        "studies_in_source": len(manifest) + 7,
        "studies": len(manifest),
        "patients": int(manifest.frame["patient_id"].nunique()),
        "modalities": {m: len(manifest) for m in task.modalities},
        "findings": {
            name: {
                "positive": int((labels[:, f] == 1).sum()),
                "negative": int((labels[:, f] == 0).sum()),
                "missing": int(np.isnan(labels[:, f]).sum()),
            }
            for f, name in enumerate(task.finding_names)
        },
        "dropped": {"count": 7, "reasons": {"view LL": {"count": 7, "examples": ["a"]}}},
        "kept_without_image": {"count": 0, "reasons": {}},
        "values_cleared": {},
        "files_passed_over": {},
        "contradicting_labels": {"count": 0, "examples": []},
        "notices": [],
    }


def make_index(task):
    """A bundle's index without parts."""
    point = {"threshold": 0.5, "sensitivity": 0.81, "specificity": 0.72}
    reasons = ("youden", "high_sensitivity", "high_specificity")
    points = {r: OperatingPoint(reason=r, **point) for r in reasons}
    chosen = dict.fromkeys(task.finding_names, points)
    several = task.problem == "multiclass"
    index = BundleIndex(
        format=FORMAT,
        name="made_up (late fusion, small_cnn)",
        task=task,
        size=64,
        note_words=0,
        decision="youden",
        operating_points={}
        if several
        else {subset_name(s): chosen for s in subsets(task.modalities)},
        conformal={},
        trained_on={"manifest_sha256": "abc", "params": {"fuse": {"epochs": 3, "seed": 0}}},
        parts={GATE_FILE: hashlib.sha256(GATE).hexdigest()},
    )
    return index.model_copy(update={"digest": index_digest(index.model_dump(mode="json"))})


PARAMS = EvaluateParams(bootstrap=100)


@pytest.fixture
def manifest_of():
    return make_manifest


@pytest.fixture(scope="session")
def project_of():
    return make_project


@pytest.fixture(scope="session")
def results_of(tmp_path_factory):
    """Evaluation results of a synthetic task, computed once a session; do not change them."""

    @cache
    def of(n=150, folds=1, **settings):
        task = make_task(**settings)
        table = make_table(task, n=n, folds=folds)
        paths = make_project(task, table, tmp_path_factory.mktemp("results"))
        return compute_metrics(task, table, PARAMS, paths)

    return of
