"""Part `prior-systems`: every recipe runs as it is named, and nothing of ours gets into it."""

import numpy as np
import pandas as pd
import pytest
import timm
from sklearn.metrics import roc_curve

from benchmarks.accuracy import prior_systems
from benchmarks.accuracy.prior_systems import (
    HUB_RECIPES,
    MATCHED,
    PLAIN,
    RECIPES,
    Recipe,
    sensitivity_at,
)
from benchmarks.harness import runs
from benchmarks.harness.runs import Finished, setting
from cxr_mm.core.config import TrainImageParams
from cxr_mm.core.files import write_json, write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task
from cxr_mm.evaluation.metrics import Scored
from cxr_mm.models.backbones import PACKAGED, SMALL_CNN, check_backbone

EVERY = (*RECIPES, *HUB_RECIPES)


@pytest.mark.parametrize("recipe", EVERY, ids=lambda r: f"{r.task} {r.system} {r.weights}")
def test_a_recipe_resolves_to_a_network_and_its_weights(recipe: Recipe):
    found = setting(recipe.task, recipe.overrides)
    train = found.params.train_image
    check_backbone(train.backbone)
    if train.weights == "packaged":
        assert train.backbone in PACKAGED
    if train.weights == "hub":
        assert timm.get_pretrained_cfg(train.backbone).hf_hub_id
    if train.backbone == SMALL_CNN:
        assert train.weights == "none"
    if found.task.split.protocol == "folds":
        assert train.trainable == "frozen"
        assert found.params.fuse.calibrate_on == "cross_fit"
    elif train.trainable != "frozen":
        assert found.params.fuse.calibrate_on == "validation"
    for metric in recipe.claimed:
        assert metric in prior_systems.METRICS[recipe.task]


def test_no_default_of_the_task_gets_into_a_recipe(project):
    shipped = load_task("pneumonia").params
    for recipe in EVERY:
        train = setting(recipe.task, recipe.overrides).params.train_image.model_dump()
        assert {name: train[name] for name in PLAIN} == PLAIN
        if recipe.task == "pneumonia":
            for section, values in shipped.items():
                assert set(values) <= set(recipe.overrides[section])


def test_whatever_is_new_in_a_training_is_decided_for_the_recipes_too():
    chosen = {"backbone", "weights", "trainable", "epochs", "batch_size", "lr", "head_lr"}
    neutral = {"weight_decay", "dropout", "precision", "seed"}
    machine = {"accelerator", "devices", "num_nodes", "strategy"}
    assert set(TrainImageParams.model_fields) == {*PLAIN, *chosen, *neutral, *machine}


def test_the_figures_that_were_claimed():
    claimed = {(r.task, r.system): r.claimed for r in RECIPES if r.claimed}
    assert claimed["effusion", "ResNet50V2"] == {"auc": 0.952, "accuracy": 0.908}
    assert claimed["pneumonia", "CNN"] == {"accuracy": 0.86}
    assert claimed["pneumonia", "ResNet50"] == {"accuracy": 0.82}
    assert claimed["pneumonia", "VGG16"] == {"accuracy": 0.92}
    assert {v["accuracy"] for (task, _), v in claimed.items() if task == "pneumonia3"} == {0.94}


def test_a_recipe_is_named_by_what_it_runs_with(project):
    names = [recipe.name for recipe in RECIPES]
    assert "ResNet50V2: tf_efficientnet_lite0 ImageNet (packaged), frozen, 224 px" in names
    assert "VGG16: vgg16 from scratch, 96 px, 2 epochs" in names
    assert "fine-tuned: tf_efficientnet_lite0 ImageNet (packaged), all learns, 96 px, 3 epochs" in (
        names
    )
    tuned = "ResNet50: resnet50 ImageNet (hub), last stage learns, 224 px, 20 epochs"
    assert tuned in [recipe.name for recipe in HUB_RECIPES]


def test_rows_hold_the_claim_our_figure_and_the_shipped_one(project, monkeypatch):
    def metrics(auc):
        figures = {"auc": {"value": auc, "ci95": [0.8, 0.9]}, "accuracy": {"value": 0.8}}
        image = {"n": 636, "findings": {"effusion": figures}}
        return {"task": "effusion", "protocol": "folds", "folds": 5, "subsets": {"image": image}}

    done = Finished(
        name="r",
        folder=project / "run",
        metrics=metrics(0.87),
        seconds={"embed": 3.0, "fuse": 4.0},
        device="cpu, 2 threads",
        code="",
        source={},
    )
    write_heldout(done.paths, wrong=4)
    write_parquet(done.paths.divisions, pd.DataFrame({"division": pd.Series(dtype=int)}))
    for module in (runs, prior_systems):
        monkeypatch.setattr(
            module, "attempt", lambda task, *_: done if task == "effusion" else None
        )
    monkeypatch.setattr(prior_systems, "RECIPES", RECIPES[:1] + RECIPES[2:3])
    write_json(project / "reports/effusion/metrics.json", metrics(0.93))
    write_heldout(TaskPaths("effusion", project), wrong=0)
    auc, accuracy, matched, *ours = prior_systems.measure()
    assert (auc.value, auc.claimed, auc.reference, auc.seconds) == (0.87, 0.952, 0.93, 7.0)
    assert accuracy.claimed == 0.908
    assert auc.row.endswith("frozen, 224 px; 5 folds by patient")
    assert (matched.metric, matched.value, matched.reference) == (MATCHED, 0.6, 1.0)
    assert [row.value for row in ours] == [0.93, 0.8, 1.0]
    assert ours[0].row.startswith("shipped default: tf_efficientnet_lite0")


def write_heldout(paths, wrong):
    """Ten studies with effusion and ten without; so many with it score below all others."""
    scores = np.linspace(0.1, 0.9, 20)
    scores[20 - wrong :] = 0.0
    rows = pd.DataFrame({"study_id": [f"s{k:02d}" for k in range(20)], "subset": "image"})
    rows["group"] = rows["study_id"]
    rows["label.effusion"] = np.repeat([0.0, 1.0], 10)
    rows["probability.effusion"], rows["positive.effusion"] = scores, scores > 0.5
    write_parquet(paths.heldout, rows)


def test_matched_sensitivity_is_that_of_the_roc_curve():
    random = np.random.default_rng(0)
    labels = (random.random(200) < 0.4).astype(float)
    scores = np.round(np.clip(labels * 0.3 + random.random(200) * 0.7, 0, 1), 2)  # with ties
    weights = random.integers(0, 3, (5, 200)).astype(np.uint16)
    found = sensitivity_at(Scored(labels, scores, scores > 0.5), weights)
    for own, value in zip(weights, found, strict=True):
        false, true, _ = roc_curve(labels, scores, sample_weight=own, drop_intermediate=False)
        assert value == pytest.approx(true[false <= 0.1 + 1e-9].max())


def test_every_recipe_is_compared_at_the_operating_point_of_the_task():
    for recipe in EVERY:
        fuse = setting(recipe.task, recipe.overrides).params.fuse
        shipped = setting(recipe.task, {}).params.fuse
        assert fuse.operating_point == shipped.operating_point
        assert fuse.calibrate_prevalence == shipped.calibrate_prevalence
