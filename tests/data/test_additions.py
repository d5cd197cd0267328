"""Additions join the training data, and nothing else of a task changes."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.config import Params
from cxr_mm.core.errors import ManifestError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Population, Task
from cxr_mm.data.additions import additions_fingerprint
from cxr_mm.data.ingest import ingest
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.resolve import resolve
from cxr_mm.data.split import load_split, resamples, split

HEADER = "study_id,patient_id,image_path,note,part,edema"
PARAMS = Params.model_validate({"tasks": ["own"], "ingest": {"size": 32, "workers": 1}})


def task_of(protocol):
    return Task.model_validate(
        {
            "name": "own",
            "title": "Own",
            "problem": "binary",
            "findings": [{"name": "edema", "title": "Edema"}],
            "note": {},
            "source": {"kind": "manifest_csv", "folder": "own"},
            "split": {"protocol": protocol, "folds": 3},
            "licence": "none",
            "citation": "none",
        }
    )


def write(folder, names, parts=None, patients=None):
    """Studies, half of them positive, each with an image of noise."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for i, name in enumerate(names):
        noise = np.random.default_rng([*name.encode()]).integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{name}.png")
        patient = patients[i] if patients else f"p-{name}"
        part = parts[i] if parts else ""
        rows.append(f"{name},{patient},images/{name}.png,a note,{part},{i % 2}")
    (folder / "manifest.csv").write_text("\n".join([HEADER, *rows]))


@pytest.fixture
def project(tmp_path):
    """40 studies of a source; no addition yet."""
    parts = ["test" if i >= 30 else "train" for i in range(40)]
    write(tmp_path / "raw/own", [f"s{i}" for i in range(40)], parts)
    return TaskPaths("own", tmp_path / "project")


def run(paths, task):
    ingest(task, PARAMS, paths, paths.root.parent / "raw")
    split(task, PARAMS, paths)
    return load_manifest(paths, task).frame, load_split(paths)


def version(paths, name):
    return paths.root / "additions" / "own" / name


@pytest.mark.parametrize("protocol", ["patient", "official", "folds"])
def test_the_original_is_divided_as_before_and_additions_always_train(project, protocol):
    task = task_of(protocol)
    _, before = run(project, task)
    write(version(project, "v1"), [f"a{i}" for i in range(6)])
    write(version(project, "v2"), [f"b{i}" for i in range(4)], patients=["p-a0", *"xyz"])
    frame, after = run(project, task)
    added = frame["part"].eq("added").to_numpy()
    assert added.sum() == 10
    pd.testing.assert_frame_equal(after[~added].reset_index(drop=True), before)
    for one in resamples(after):
        assert set(np.flatnonzero(added)) <= set(one.train)
        assert len(one.train) + len(one.val) + len(one.test) == 50


def test_filters_and_populations_are_of_the_source_alone(project):
    write(version(project, "v1"), ["a0", "a1"])
    source = project.root.parent / "raw/own/manifest.csv"
    header, *rows = source.read_text().splitlines()
    extended = [f"{row},{30 + i % 3},{i},{'Y' if i % 4 else 'N'}" for i, row in enumerate(rows)]
    source.write_text("\n".join([f"{header},age,visit,ward", *extended]))
    given = {"ages": (30, 31), "first_by": "visit"}
    population = Population(name="home", title="At home", only={"ward": ("N",)})
    task = task_of("patient").model_copy(update={**given, "populations": (population,)})
    frame, _ = run(project, task)
    assert frame["part"].eq("added").sum() == 2
    assert len(frame) == 29
    assert frame["population.home"].sum() == 7
    assert not frame.loc[frame["part"].eq("added"), "population.home"].any()


def test_a_patient_or_study_that_is_there_already_is_left_out_and_counted(project):
    write(version(project, "v1"), ["a0", "a1", "a2"], patients=["p-s3", "new", "p-s39"])
    write(version(project, "v2"), ["a1", "b0"], patients=["another", "new"])
    frame, _ = run(project, task_of("official"))
    assert frame.loc[frame["part"].eq("added"), "study_id"].tolist() == ["a1", "b0"]
    dropped = read_json(project.ingest / "report.json")["dropped"]["reasons"]
    assert dropped["addition v1: the patient or study is there already"]["count"] == 2
    assert dropped["addition v2: the patient or study is there already"]["examples"] == ["a1"]


def test_what_is_known_already_is_no_loss_and_ids_are_known_in_any_spelling(project):
    write(version(project, "v1"), ["a0", "a1"], patients=["P-S3", "p-s4"])
    none = PARAMS.model_copy(update={"ingest": PARAMS.ingest.model_copy(update={"max_loss": 0.0})})
    summary = ingest(task_of("official"), none, project, project.root.parent / "raw")
    assert summary.startswith("42 studies read, 40 used (image 40, note 40), 2 left out")


def test_an_addition_without_its_labels_is_an_error(project):
    write(version(project, "v1"), ["a0"])
    table = version(project, "v1") / "manifest.csv"
    table.write_text(table.read_text().replace("edema", "oedema"))
    with pytest.raises(ManifestError, match="edema"):
        run(project, task_of("official"))


def test_a_version_more_is_another_source_to_the_stages_and_its_copy_is_not(project, tmp_path):
    task, root = task_of("official"), project.root.parent / "raw"
    resolve(task, PARAMS, project, root)
    assert "additions" not in read_json(project.resolved / "source.json")
    write(version(project, "v1"), ["a0", "a1"])
    resolve(task, PARAMS, project, root)
    assert read_json(project.resolved / "source.json")["additions"].keys() == {"v1"}
    copy = TaskPaths("own", tmp_path / "copy")
    write(version(copy, "v1"), ["a0", "a1"])
    assert additions_fingerprint(copy) == additions_fingerprint(project)
    (version(copy, "v1") / "images" / "a0.png").unlink()
    assert additions_fingerprint(copy) != additions_fingerprint(project)
