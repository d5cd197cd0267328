"""Results kept in a folder of the test, and a small task of the test's own."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from benchmarks.harness import report
from benchmarks.harness.parts import Row
from cxr_mm.core.task import SHIPPED, ClinicalFeature, load_task
from cxr_mm.core.types import MODALITIES
from cxr_mm.training.fusion_fit import Studies

REPOSITORY = Path(__file__).parents[2]
SMALL: dict[str, dict[str, object]] = {
    "ingest": {"size": 32, "workers": 1},
    "train_image": {"backbone": "small_cnn", "weights": "none", "trainable": "frozen"},
    "fuse": {"inner_folds": 2, "gate_images": 0},
    "evaluate": {"bootstrap": 100},
}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """The folder of results.json and RESULTS.md, in place of the repository's."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(report, "PAGE", tmp_path / "RESULTS.md")
    return tmp_path


@pytest.fixture
def make_row():
    """Makes a row, with changes."""

    def make(table="one", value=0.5, **changes):
        result = {"task": "t", "row": "r", "metric": "auc", "n": 5}
        part = changes.pop("part", table)
        return Row(part=part, table=table, value=value, **{**result, **changes})

    return make


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project's folder, entered, with the task `tiny`: 60 phantoms, image and features."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(REPOSITORY / "params.yaml", folder)
    task = yaml.safe_load((SHIPPED / "synthetic.yaml").read_text())
    task |= {"name": "tiny", "note": None, "params": SMALL}
    task["source"]["options"] = {"studies": 60, "seed": 2}
    (folder / "tasks").mkdir()
    (folder / "tasks" / "tiny.yaml").write_text(yaml.safe_dump(task))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="session")
def studies():
    """120 made-up studies, two a patient; the note tells most, every fourth study has none."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (120, 1)).astype(np.float32)
    mask = np.ones((120, 3), bool)
    mask[::4, MODALITIES.index("note")] = False
    embeddings = {
        m: torch.from_numpy((rng.normal(size=(120, 40)) + gap * labels).astype(np.float32))
        for m, gap in (("image", 0.2), ("note", 0.5))
    }
    embeddings["note"][::4] = 0
    feature = {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120}
    task = load_task("icu").model_copy(
        update={"clinical": (ClinicalFeature.model_validate(feature),)}
    )
    groups = np.array([f"p{n // 2}" for n in range(120)], dtype=object)
    ids = pd.DataFrame({"study_id": [f"s{n}" for n in range(120)], "patient_id": groups})
    return Studies(
        task=task,
        embeddings=embeddings,
        clinical=pd.DataFrame({"age": 50 + 5 * labels[:, 0] + rng.normal(0, 8, 120)}),
        mask=torch.from_numpy(mask),
        labels=torch.from_numpy(labels),
        groups=groups,
        ids=ids.assign(group=groups),
        parts={},
    )
