"""Speed and precision: what is measured becomes a ratio with the bound it must keep."""

from types import SimpleNamespace

import pytest

from benchmarks.system import speed
from benchmarks.system import speed as precision


@pytest.fixture
def measured(monkeypatch):
    """Nothing is run: scoring takes 4 s against 3, one prediction 30 and 60 ms against 20."""
    task = SimpleNamespace(
        params=SimpleNamespace(train_image=SimpleNamespace(backbone="net")),
        paths=SimpleNamespace(bundle="bundle"),
    )
    spec = SimpleNamespace(spec=SimpleNamespace(backbone="net"))
    predictor = SimpleNamespace(bundle=SimpleNamespace(image_encoder=spec))
    batch = {"path": [4.0, 8.0], "bare": [3.0, 6.0]}
    single = {"memory": [0.03], "file": [0.06], "bare": [0.02]}
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


def test_throughput_is_a_share_of_the_bare_network(measured):
    for name in ("training, augment strong", "scoring from the cache"):
        row = measured[name]
        assert (row.value, row.must, row.ceiling, row.n) == (0.75, 0.85, False, 2)
        assert row.met is False
    assert measured["scoring from PNG files of 1024 px"].met is None


def test_one_prediction_is_a_multiple_of_the_bare_networks(measured):
    name = "one prediction: image of 256 px"
    read, file = measured[f"{name}, already read"], measured[f"{name}, from a PNG file"]
    assert (read.value, read.must, read.ceiling) == (pytest.approx(1.5), 1.5, True)
    assert (file.value, file.met) == (pytest.approx(3), False)


def test_the_choice_is_compared_with_plain_fp32(monkeypatch):
    for name, value in {"BACKBONES": {"small_cnn": "none"}, "SIZE": 32, "BATCH": 2}.items():
        monkeypatch.setattr(precision, f"PRECISION_{name}", value)
    monkeypatch.setattr(precision, "PRECISION_REPEATS", 2)
    rows = precision.measure_precision()
    assert [row.row.split(":")[0] for row in rows] == ["inference", "training"]
    assert all(row.must == 0.95 and row.value > 0 for row in rows)
