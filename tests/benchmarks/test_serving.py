"""Serving speed: each way does the same work on the same studies."""

import pytest

from benchmarks.harness.runs import make_small_task
from benchmarks.system import speed
from benchmarks.system.speed import (
    make_images,
    one_prediction,
    scoring_from_cache,
    scoring_from_files,
)
from cxr_mm.inference.predictor import load_predictor


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
    assert {name: len(seconds) for name, seconds in taken.items()} == {"path": 2, "bare": 2}
    assert len(created) == 3
    assert all(len(rows) == len(created[0]) for rows in created)


def test_scoring_from_files_scores_every_image(image_alone, images):
    taken = scoring_from_files(load_predictor(image_alone.paths.bundle), images)
    assert set(taken) == {"path", "bare"}
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


def test_the_bare_networks_of_a_study_are_all_it_needs(bundle_folder, images):
    predictor = load_predictor(bundle_folder, accept_any_image=True)
    bundle = predictor.bundle
    path, study = next(speed._filed(predictor, images))
    raw = speed._ways(predictor, path, study)["bare"]
    ran = []
    for network in (bundle.image_encoder, bundle.note_encoder, bundle.fusion):
        network.register_forward_hook(lambda net, *_: ran.append(type(net).__name__))
    raw()
    assert sorted(ran) == ["Fusion", "ImageEncoder", "NoteEncoder"]
    counts = {name: len(seconds) for name, seconds in one_prediction(predictor, images).items()}
    assert counts == {"file": 3, "memory": 3, "bare": 3}
