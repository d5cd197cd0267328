"""Part `prior-systems`: every recipe runs as it is named, and nothing of ours gets into it."""

import pytest
import timm

from benchmarks.accuracy import prior_systems
from benchmarks.accuracy.prior_systems import HUB_RECIPES, PLAIN, RECIPES, Recipe
from benchmarks.harness.runs import Finished, setting
from cxr_mm.core.config import TrainImageParams
from cxr_mm.core.files import write_json
from cxr_mm.core.task import load_task
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
    machine = {"accelerator", "devices"}
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
        folder=project,
        metrics=metrics(0.87),
        seconds={"embed": 3.0, "fuse": 4.0},
        device="cpu, 2 threads",
        code="",
        source={},
    )
    monkeypatch.setattr(
        prior_systems, "attempt", lambda task, *_: done if task == "effusion" else None
    )
    monkeypatch.setattr(prior_systems, "RECIPES", RECIPES[:1] + RECIPES[2:3])
    write_json(project / "reports/effusion/metrics.json", metrics(0.93))
    auc, accuracy = prior_systems.measure()
    assert (auc.value, auc.claimed, auc.reference, auc.seconds) == (0.87, 0.952, 0.93, 7.0)
    assert accuracy.claimed == 0.908
    assert auc.row.endswith("frozen, 224 px; 5 folds by patient")
