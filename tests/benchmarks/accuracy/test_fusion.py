"""Part `fusion`: honest folds, every model on every subset, and tasks left out with a word."""

from dataclasses import replace

import joblib
import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import fusion
from benchmarks.accuracy.fusion import compare, divided, learnt, measure, measure_task
from cxr_mm.core.config import FuseParams
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.data.split import Resample


def protocol(studies, name):
    spec = studies.task.split.model_copy(update={"protocol": name})
    return replace(studies, task=studies.task.model_copy(update={"split": spec}))


def table(part, fold=0):
    return pd.DataFrame({"part": part, "fold": fold, "study_id": [f"s{n}" for n in range(120)]})


PARTS = np.repeat(["train", "val", "test"], (70, 20, 30))


def test_folds_of_the_task_are_kept(studies):
    own = np.arange(120) // 2 % 4
    parts = divided(protocol(studies, "folds"), table("", own), learnt=False)
    assert [part.test.tolist() for part in parts] == [
        np.flatnonzero(own == k).tolist() for k in range(4)
    ]


@pytest.mark.parametrize("name", ["patient", "official"])
def test_elsewhere_every_study_is_tested_once_and_no_patient_is_on_both_sides(studies, name):
    parts = divided(protocol(studies, name), table(PARTS), learnt=False)
    tested = np.concatenate([part.test for part in parts])
    assert sorted(tested) == list(range(90 if name == "official" else 120))
    for part in parts:
        assert not set(studies.groups[part.train]) & set(studies.groups[part.test])
        assert max(part.train) < (90 if name == "official" else 120)


def test_an_encoder_that_has_learnt_is_tested_on_what_it_has_not_seen(studies):
    for name, unseen in (("patient", range(90, 120)), ("official", range(70, 90))):
        (part,) = divided(protocol(studies, name), table(PARTS), learnt=True)
        assert part.test.tolist() == list(unseen)


@pytest.mark.parametrize(
    ("history", "wanted"),
    [
        ({"params": {"trainable": "frozen"}}, False),
        ({"params": {"trainable": "all"}}, True),
        ({"skipped": "no images", "epochs": []}, False),
    ],
)
def test_whether_the_encoder_has_learnt_is_in_its_history(tmp_path, history, wanted):
    paths = TaskPaths("icu", tmp_path)
    write_json(paths.image_encoder / "history.json", history)
    assert learnt(paths) is wanted


@pytest.fixture
def few(monkeypatch):
    """One model of each sort, in this process, so that the tests take seconds."""
    monkeypatch.setattr(fusion, "KINDS", ("late", "gated"))
    monkeypatch.setattr(fusion, "RECIPES", ("late",))
    kept = "gradient boosting"
    monkeypatch.setattr(fusion, "LEARN", {kept: fusion.LEARN[kept]})
    with joblib.parallel_config(backend="sequential"):
        yield


def test_every_model_answers_every_study_of_every_fold(studies, few):
    half = [
        Resample(k, np.arange(60) + 60 * (1 - k), fusion.NOTHING, np.arange(60) + 60 * k)
        for k in range(2)
    ]
    found = compare(studies, half, FuseParams(inner_folds=2, epochs=3))
    assert set(found) == {"late", "gated", "specialist late", "gradient boosting", "late averaging"}
    for model, given in found.items():
        alone = given.table[given.table["subset"] == "image"]
        assert sorted(alone["study_id"]) == sorted(studies.ids["study_id"]), model
        assert set(alone["fold"]) == {0, 1}
        assert given.table["probability.icu"].notna().all()
        assert given.seconds > 0


def test_tasks_that_have_not_run_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXR_MM_RUNS", str(tmp_path))
    assert measure() == []
    said = capsys.readouterr().out
    assert "run dvc repro embed@synthetic" in said
    assert "pneumonia" not in said


def test_rows_of_a_task_that_has_run(pipeline, few, monkeypatch):
    monkeypatch.setattr(fusion, "FOLDS", 2)
    task = pipeline.task.model_copy(
        update={"params": {"fuse": {"inner_folds": 2, "epochs": 2}, "evaluate": {"bootstrap": 100}}}
    )
    rows = measure_task(task, pipeline.paths)
    assert {row.task for row in rows} == {"synthetic"}
    asked = [row for row in rows if not row.table]
    assert len([row for row in asked if row.metric == "ece"]) == 8
    assert len([row for row in asked if "specialist" in row.row]) == 7
    assert all(row.n <= 160 for row in rows)
