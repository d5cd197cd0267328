"""Change records and versions around copies of a small bundle."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cxr_mm.core.files import write_json
from cxr_mm.core.paths import bundle_digest
from cxr_mm.data.sources import read_source
from cxr_mm.models.bundle import load_bundle, save_bundle
from cxr_mm.models.registry import read_index
from monitoring.retraining.change_record import (
    ChangeRecord,
    Model,
    change_page,
    record_id,
    write_record,
)

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)


@pytest.fixture(scope="session")
def another(bundle_folder, tmp_path_factory) -> Path:
    """The small bundle after another training, as far as its digest can tell."""
    bundle = load_bundle(bundle_folder)
    bundle.trained_on["again"] = 1
    folder = tmp_path_factory.mktemp("another") / "bundle"
    save_bundle(bundle, folder)
    return folder


@pytest.fixture(scope="session")
def a_third(bundle_folder, tmp_path_factory) -> Path:
    bundle = load_bundle(bundle_folder)
    bundle.trained_on["again"] = 2
    folder = tmp_path_factory.mktemp("third") / "bundle"
    save_bundle(bundle, folder)
    return folder


def lay(bundle: Path, project: Path, models: Path) -> Path:
    """A bundle with what belongs to it, where a pipeline would have left it."""
    folder = project / models / "models" / "synthetic"
    shutil.copytree(bundle, folder / "bundle")
    (folder / "reference").mkdir()
    (folder / "reference" / "reference.json").write_text("{}")
    (folder / "heldout.parquet").write_bytes(b"made up")
    reports = project / models / "reports" / "synthetic"
    reports.mkdir(parents=True)
    digest = bundle_digest(bundle)
    (reports / "model_card.md").write_text(f"Card of `{digest}`")
    write_json(reports / "metrics.json", {"digest": digest})
    return folder / "bundle"


@pytest.fixture
def project(tmp_path, bundle_folder, another) -> Path:
    """A project whose champion is the small bundle, with an experiment that made another."""
    lay(bundle_folder, tmp_path, Path())
    lay(another, tmp_path, Path("experiments/synthetic/one"))
    added = tmp_path / "experiments/synthetic/one/additions/synthetic/v1"
    added.mkdir(parents=True)
    (added / "manifest.csv").write_text("study_id\n1\n")
    return tmp_path


def recorded(project: Path, **changes) -> ChangeRecord:
    """A change record of the experiment, written."""
    champion = read_index(project / "models/synthetic/bundle")
    experiment = changes.pop("experiment", "experiments/synthetic/one")
    challenger = read_index(project / experiment / "models/synthetic/bundle")
    models = {
        name: Model(digest=index.digest, name=index.name, folder=f"{where}models/synthetic")
        for name, index, where in (
            ("champion", champion, ""),
            ("challenger", challenger, f"{experiment}/"),
        )
    }
    result = {
        "id": record_id(NOW, challenger.digest),
        "task": "synthetic",
        "made_at": NOW,
        "synthetic": True,
        "experiment": experiment,
        "addition": "v1",
        "change": {
            "data": {"champion": {"studies": 1}, "challenger": {"studies": 2}, "additions": {}},
            "parameters": [],
            "code": {"version": "0", "digest": "0"},
        },
        "reason": {},
        "protocol": {
            "method": "By hand.",
            "margins": {"auc": 0.02},
            "studies": {},
            "reference": "held-out studies",
        },
        "outcome": "better",
        "reasons": ("it was said so",),
        "comparisons": (),
        "impact": {"operating_points": {}, "turned": {}},
    }
    record = ChangeRecord(**{**result, **models, **changes})
    write_record(record, change_page(record), project)
    return record


@pytest.fixture
def make_record():
    return recorded


@pytest.fixture
def lay_bundle():
    return lay


@pytest.fixture(scope="session")
def came_since(pipeline, tmp_path_factory):
    """Folder of 100 studies of other patients, with labels."""
    work = tmp_path_factory.mktemp("since")
    options = {"studies": 100, "seed": 11}
    source = pipeline.task.source.model_copy(update={"options": options})
    task = pipeline.task.model_copy(update={"source": source})
    raw = read_source(task, work, work).frame
    for column in ("study_id", "patient_id"):
        raw[column] = "new-" + raw[column].astype(str)
    raw.drop(columns=["group", "part"]).to_csv(work / "manifest.csv", index=False)
    return work
