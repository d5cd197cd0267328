import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from cxr_mm.core.errors import ParamsError, StageError, WeightsError
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.imaging.tensors import image_batches
from cxr_mm.models.image_encoder import build_image_encoder, load_image_encoder
from cxr_mm.models.precision import Precision
from cxr_mm.training.train_image import train_image


@pytest.fixture
def image_trainer():
    """The module that trains by Lightning, which is slow to import in every test process."""
    from cxr_mm.training import image_trainer

    return image_trainer


def history_of(paths):
    return json.loads((paths.image_encoder / "history.json").read_text())


def weights_of(paths):
    return load_file(paths.image_encoder / "encoder.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_learns_the_spot_and_leaves_nothing_but_its_outputs(spots, spot_task, spot_params):
    train_image(spot_task(), spot_params(epochs=5, lr=3e-3), spots)
    history = history_of(spots)
    assert len(history["epochs"]) == 5
    best = history["epochs"][history["best_epoch"]]
    assert best["val_auc"] > 0.85
    found = load_image_encoder(spots.image_encoder)
    rows = np.arange(80, 110)
    images = next(image_batches(open_pixels(spots.pixels), rows, 30))
    with torch.inference_mode():
        logits = found.logits(found(images)).flatten().numpy()
    labels = pd.read_parquet(spots.manifest)["finding.spot"].to_numpy()[rows]
    assert logits[labels == 1].mean() > logits[labels == 0].mean()
    assert sorted(p.name for p in spots.image_encoder.iterdir()) == [
        "encoder.json",
        "encoder.safetensors",
        "history.json",
    ]
    curves = pd.read_csv(spots.reports / "train_image/plots/metrics/val/auc.tsv", sep="\t")
    assert list(curves["step"]) == [0, 1, 2, 3, 4]
    assert not (spots.checkpoints / "train_image").exists()


def test_the_same_seed_gives_the_same_encoder_and_an_interruption_changes_nothing(
    spots, spot_task, spot_params, image_trainer, monkeypatch, caplog
):
    task, params = spot_task(), spot_params(epochs=3, dropout=0.3, ema_decay=0.5)
    train_image(task, params, spots)
    whole, history = weights_of(spots), history_of(spots)

    started, bars = [], set(tqdm._instances)

    def killed(self):
        started.append(self.current_epoch)
        if self.current_epoch == 2 and len(started) == 3:
            raise RuntimeError("power cut")
        original(self)

    original = image_trainer.ImageModule.on_train_epoch_start
    monkeypatch.setattr(image_trainer.ImageModule, "on_train_epoch_start", killed)
    with pytest.raises(RuntimeError, match="power cut"):
        train_image(task, params, spots)
    assert set(tqdm._instances) <= bars, "the bar of a training that failed stays on the terminal"
    assert equal(weights_of(spots), whole), "an interruption leaves the old encoder in place"
    with caplog.at_level(logging.WARNING):
        train_image(task, params, spots)
    assert started == [0, 1, 2, 2]
    assert "resuming" in caplog.text
    assert equal(weights_of(spots), whole)
    assert history_of(spots) == history


def test_a_checkpoint_of_other_parameters_is_not_resumed(
    spots, spot_task, spot_params, image_trainer, monkeypatch, caplog
):
    started = []

    def killed(self):
        started.append(self.current_epoch)
        if len(started) == 2:
            raise RuntimeError("power cut")
        original(self)

    original = image_trainer.ImageModule.on_train_epoch_start
    monkeypatch.setattr(image_trainer.ImageModule, "on_train_epoch_start", killed)
    with pytest.raises(RuntimeError, match="power cut"):
        train_image(spot_task(), spot_params(), spots)
    train_image(spot_task(), spot_params(lr=1e-3), spots)
    assert started == [0, 1, 0, 1]
    assert "resuming" not in caplog.text


def test_frozen_leaves_the_backbone_as_it_came(spots, spot_task, spot_params):
    params = spot_params(backbone="resnet10t", trainable="frozen", seed=3)
    train_image(spot_task(), params, spots)
    torch.manual_seed(3)
    fresh = build_image_encoder("resnet10t", 32, 1, 0.1, "none").backbone.state_dict()
    assert equal(load_image_encoder(spots.image_encoder).backbone.state_dict(), fresh)
    assert history_of(spots)["epochs"] == []
    assert not list((spots.reports / "train_image").iterdir())


def test_last_stage_moves_that_stage_alone(spots, spot_task, spot_params):
    train_image(spot_task(), spot_params(trainable="last_stage", epochs=1), spots)
    torch.manual_seed(0)
    fresh = build_image_encoder("small_cnn", 32, 1, 0.1, "none").backbone.state_dict()
    after = load_image_encoder(spots.image_encoder).backbone.state_dict()
    moved = {
        name.rsplit(".", 2)[0][:8] for name in fresh if not torch.equal(fresh[name], after[name])
    }
    assert moved == {"stages.3"}


@pytest.mark.parametrize(
    ("backbone", "frozen"),
    [
        ("small_cnn", {"stem", "stages.0", "stages.1"}),
        ("tf_efficientnet_lite0", {"conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2"}),
        ("resnet10t", {"conv1", "bn1", "layer1", "layer2"}),
    ],
)
def test_upper_leaves_the_layers_that_see_edges(backbone, frozen, image_trainer):
    encoder = build_image_encoder(backbone, 32, 1, 0.0, "none")
    image_trainer.choose_trainable(encoder, "upper")
    still = {n for n, p in encoder.backbone.named_parameters() if not p.requires_grad}
    assert still
    assert all(any(n.startswith(f"{part}.") for part in frozen) for n in still)
    for part in frozen:
        assert any(n.startswith(f"{part}.") for n in still)


def test_folds_protocol_wants_a_frozen_encoder(spots, spot_task, spot_params):
    task = spot_task(split={"protocol": "folds"})
    with pytest.raises(ParamsError, match="frozen"):
        train_image(task, spot_params(), spots)
    table = pd.read_parquet(spots.split / "split.parquet")
    table["part"], table["fold"] = "", np.arange(len(table)) // 2 % 5
    table.to_parquet(spots.split / "split.parquet")
    train_image(task, spot_params(trainable="frozen"), spots)
    assert load_image_encoder(spots.image_encoder).spec.outputs == 1


def test_a_task_without_images_is_passed_over(spots, spot_task, spot_params):
    task = spot_task(has_image=False, note={})
    train_image(task, spot_params(), spots)
    assert [p.name for p in spots.image_encoder.iterdir()] == ["history.json"]


def test_no_usable_validation_study(spots, spot_task, spot_params):
    manifest = pd.read_parquet(spots.manifest)
    manifest.loc[80:, "pixel_row"] = -1
    manifest.to_parquet(spots.manifest)
    with pytest.raises(StageError, match="validation"):
        train_image(spot_task(), spot_params(), spots)
    assert not spots.image_encoder.exists()


def test_weights_that_cannot_be_had_leave_nothing(spots, spot_task, spot_params):
    with pytest.raises(WeightsError):
        train_image(spot_task(), spot_params(weights="packaged"), spots)
    assert not spots.image_encoder.exists()


def test_what_does_not_learn_keeps_its_statistics_in_training_mode(spot_params, image_trainer):
    encoder = build_image_encoder("small_cnn", 32, 1, 0.0, "none")
    params = spot_params(trainable="last_stage").train_image
    module = image_trainer.ImageModule(
        encoder, "binary", torch.ones(2, 1), params, Precision("fp32")
    ).train()
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    module.encoder(torch.randn(4, 1, 32, 32))
    changed = {n for n, t in encoder.state_dict().items() if not torch.equal(before[n], t)}
    assert changed
    assert all(name.startswith("backbone.stages.3") for name in changed)
