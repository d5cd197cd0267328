"""A task split by sites, from split to evaluate."""

import shutil

import pandas as pd

from cxr_mm.core.config import EvaluateParams, FuseParams
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.split import split
from cxr_mm.evaluation.evaluate import evaluate
from cxr_mm.training.fuse import fuse


def test_every_site_is_answered_by_a_model_of_the_others(pipeline, tmp_path):
    by_site = pipeline.task.split.model_copy(update={"protocol": "sites"})
    task = pipeline.task.model_copy(update={"split": by_site})
    quick = {
        "fuse": FuseParams(inner_folds=2, epochs=20, gate_images=0),
        "evaluate": EvaluateParams(bootstrap=100),
    }
    params, paths = pipeline.params.model_copy(update=quick), TaskPaths(task.name, tmp_path)
    for name in ("ingest", "embeddings", "image_encoder"):
        shutil.copytree(getattr(pipeline.paths, name), getattr(paths, name))
    split(task, params, paths)
    fuse(task, params, paths)
    evaluate(task, params, paths)
    site = load_manifest(paths, task).frame.set_index("study_id")["site"]
    rows = pd.read_parquet(paths.heldout).query("subset == 'available'")
    assert sorted(rows["study_id"]) == sorted(site.index)
    assert set(zip(site[rows["study_id"]], rows["fold"], strict=True)) == {
        (name, number) for number, name in enumerate(pd.unique(site))
    }
    groups = read_json(paths.reports / "subgroups.json")["findings"]["effusion"]["site"]["groups"]
    assert set(groups) == set(site)
    card = (paths.reports / "model_card.md").read_text()
    assert "every site is tested by a model that was fitted on the other sites alone" in card
    assert "a model fitted without its site" in card
