"""Parts `speed` and `precision`: each way does the same work and becomes a ratio with a bound."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.harness.runs import make_small_task
from benchmarks.system import precision, speed
from benchmarks.system.speed import (
    Stopwatch,
    make_images,
    one_prediction,
    scoring_from_cache,
    scoring_from_files,
    training_speed,
)
from cxr_mm.core.config import TrainImageParams
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.models.image_encoder import build_image_encoder


@pytest.fixture
def measured(monkeypatch):
    """Nothing is run: scoring takes 4 s against 3, one prediction 30 and 60 ms against 20."""
    task = SimpleNamespace(
        params=SimpleNamespace(train_image=SimpleNamespace(backbone="net")),
        paths=SimpleNamespace(bundle="bundle"),
    )
    spec = SimpleNamespace(spec=SimpleNamespace(backbone="net"))
    predictor = SimpleNamespace(bundle=SimpleNamespace(image_encoder=spec))
    batch = {"path": [4.0, 8.0], "network": [3.0, 6.0]}
    single = {"memory": [0.03], "file": [0.06], "network": [0.02]}
    for name, found in {
        "build_image_encoder": None,
        "training_speed": batch,
        "make_small_task": task,
        "make_images": "manifest",
        "load_predictor": predictor,
        "scoring_from_cache": batch,
        "scoring_from_files": batch,
        "one_prediction": single,
    }.items():
        monkeypatch.setattr(speed, name, lambda *_, found=found, **__: found)
    return {row.row: row for row in speed.measure() if row.task != "small_cnn"}


def test_throughput_is_a_share_of_the_network_alone(measured):
    for name in ("training, augment strong", "scoring from the cache"):
        row = measured[name]
        assert (row.value, row.must, row.ceiling, row.n) == (0.75, 0.85, False, 2)
        assert row.met == "not met"
    assert measured["scoring from PNG files of 1024 px"].met is None


def test_one_prediction_is_a_multiple_of_the_networks_alone(measured):
    name = "one prediction: image of 256 px"
    read, file = measured[f"{name}, already read"], measured[f"{name}, from a PNG file"]
    assert (read.value, read.must, read.ceiling) == (pytest.approx(1.5), 1.5, True)
    assert (file.value, file.met) == (pytest.approx(3), "not met")


def test_the_choice_is_compared_with_plain_fp32(monkeypatch):
    for name, value in {"BACKBONES": {"small_cnn": "none"}, "SIZE": 32, "BATCH": 2}.items():
        monkeypatch.setattr(precision, name, value)
    monkeypatch.setattr(precision, "REPEATS", 2)
    rows = precision.measure()
    assert [row.row.split(":")[0] for row in rows] == ["inference", "training"]
    assert all(row.must == 0.95 and row.value > 0 for row in rows)


@pytest.fixture(scope="module")
def image_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    return make_small_task(
        folder, size=32, backbone="small_cnn", studies=60, image=96, without=("tabular", "note")
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "IMAGES", 5)
        return make_images(tmp_path_factory.mktemp("images"), 96)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(speed, "PASSES", 2)
    monkeypatch.setattr(speed, "REPEATS", 1)
    monkeypatch.setattr(speed, "STUDIES", 3)


def test_the_small_task_has_the_modalities_that_were_left(image_alone):
    assert load_predictor(image_alone.paths.bundle).bundle.task.modalities == ("image",)


def test_scoring_reads_the_images_anew_in_every_round(image_alone, monkeypatch):
    created = []
    real = speed.image_embeddings
    monkeypatch.setattr(
        speed, "image_embeddings", lambda *given: created.append(real(*given)) or created[-1]
    )
    taken = scoring_from_cache(image_alone)
    assert {name: len(seconds) for name, seconds in taken.items()} == {"path": 2, "network": 2}
    assert len(created) == 3
    assert all(len(rows) == len(created[0]) for rows in created)


def test_scoring_from_files_scores_every_image(image_alone, images):
    taken = scoring_from_files(load_predictor(image_alone.paths.bundle), images)
    assert set(taken) == {"path", "network"}
    assert images.with_suffix(".parquet").is_file()


def test_one_prediction_is_the_same_from_file_and_memory(image_alone, images, monkeypatch):
    predictor = load_predictor(image_alone.paths.bundle)
    path, study = next(speed._filed(predictor, images))
    ways = speed._ways(predictor, path, study)
    found = []
    real = predictor.predict
    monkeypatch.setattr(predictor, "predict", lambda s: found.append(real(s)))
    for name in ("file", "memory"):
        ways[name]()
    assert found[0] == found[1]
    taken = one_prediction(predictor, images)
    assert {name: len(seconds) for name, seconds in taken.items()} == dict.fromkeys(ways, 3)


def test_the_networks_of_a_study_are_all_it_needs(bundle_folder, images):
    predictor = load_predictor(bundle_folder, accept_any_image=True)
    bundle = predictor.bundle
    path, study = next(speed._filed(predictor, images))
    networks = speed._ways(predictor, path, study)["network"]
    ran = []
    for network in (bundle.image_encoder, bundle.note_encoder, bundle.fusion):
        network.register_forward_hook(lambda net, *_: ran.append(type(net).__name__))
    networks()
    assert sorted(ran) == ["Fusion", "ImageEncoder", "NoteEncoder"]
    counts = {name: len(seconds) for name, seconds in one_prediction(predictor, images).items()}
    assert counts == {"file": 3, "memory": 3, "network": 3}


def test_every_epoch_but_the_first_is_timed_beside_steps_of_the_network_alone(monkeypatch):
    monkeypatch.setattr(speed, "EPOCHS", 3)
    monkeypatch.setattr(speed, "STEPS", 2)
    params = TrainImageParams(
        backbone="small_cnn", weights="none", trainable="all", batch_size=4, precision="fp32"
    )
    encoder = build_image_encoder("small_cnn", 32, 1, weights="none")
    before = encoder.head.weight.clone()
    taken = training_speed(encoder, params)
    assert {name: len(seconds) for name, seconds in taken.items()} == {"path": 2, "network": 2}
    assert min(taken["path"] + taken["network"]) > 0
    assert not torch.equal(encoder.head.weight, before)


def test_an_epoch_lasts_from_its_first_batch_to_validation(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("benchmarks.system.speed.time.perf_counter", lambda: clock[0])

    def steps():
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        clock[0] += 2

    stopwatch = Stopwatch(lambda: steps)
    with torch.inference_mode():
        stopwatch.validation()  # before any training: nothing to time
        for seconds in (50, 3, 4):
            stopwatch.training()
            clock[0] += seconds
            stopwatch.training()
            stopwatch.validation()
            stopwatch.validation()
            clock[0] += 1000
    assert stopwatch.taken == {"path": [3, 4], "network": [2, 2]}
