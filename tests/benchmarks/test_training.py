"""Training speed: every epoch but the first is timed, beside as many bare steps."""

import torch

from benchmarks.system import speed
from benchmarks.system.speed import Stopwatch, training_speed
from cxr_mm.core.config import TrainImageParams
from cxr_mm.models.image_encoder import build_image_encoder


def test_every_epoch_but_the_first_is_timed_beside_bare_steps(monkeypatch):
    monkeypatch.setattr(speed, "EPOCHS", 3)
    monkeypatch.setattr(speed, "STEPS", 2)
    params = TrainImageParams(
        backbone="small_cnn", weights="none", trainable="all", batch_size=4, precision="fp32"
    )
    encoder = build_image_encoder("small_cnn", 32, 1, weights="none")
    before = encoder.head.weight.clone()
    taken = training_speed(encoder, params)
    assert {name: len(seconds) for name, seconds in taken.items()} == {"path": 2, "bare": 2}
    assert min(taken["path"] + taken["bare"]) > 0
    assert not torch.equal(encoder.head.weight, before)


def test_an_epoch_lasts_from_its_first_batch_to_validation(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("benchmarks.system.speed.time.perf_counter", lambda: clock[0])

    def raw():
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        clock[0] += 2

    progress = Stopwatch(lambda: raw)
    with torch.inference_mode():
        progress.validation()  # before any training: nothing to time
        for seconds in (50, 3, 4):
            progress.training()
            clock[0] += seconds
            progress.training()
            progress.validation()
            progress.validation()
            clock[0] += 1000
    assert progress.taken == {"path": [3, 4], "bare": [2, 2]}
