"""Part `speed`: training, scoring and one prediction, each against the bare network in one run.

Bare is the same network, in the same precision and memory order, on tensors that lie in memory.
"""

import tempfile
from pathlib import Path

from benchmarks.rounds import Seconds, device, ratio
from benchmarks.rows import Row
from benchmarks.serving import (
    FILMS,
    make_films,
    one_prediction,
    scoring_from_cache,
    scoring_from_files,
)
from benchmarks.small_task import make_small_task
from benchmarks.training import training_speed
from cxr_mm.inference import Predictor, load_predictor
from cxr_mm.models.image_encoder import build_image_encoder
from cxr_mm.params import TrainImageParams

COMMAND = "make benchmark PART=speed"
BACKBONES = {"tf_efficientnet_lite0": "packaged", "small_cnn": "none", "resnet18": "none"}
LEVELS = ("none", "light", "strong")
SIZE, SIDES = 224, (256, 1024)
"""Sides in pixels of the network's input, and of the films."""
AT_LEAST, AT_MOST = 0.85, 1.5


def measure() -> list[Row]:
    """All rows of the table."""
    return [*_training(), *_serving()]


def _training() -> list[Row]:
    """Every level of augmentation on the default backbone; the default level on the others."""
    rows = []
    for backbone, weights in BACKBONES.items():
        default = TrainImageParams(backbone=backbone, weights=weights, trainable="all")
        for level in LEVELS if backbone == TrainImageParams().backbone else (default.augment,):
            params = TrainImageParams.model_validate({**default.model_dump(), "augment": level})
            encoder = build_image_encoder(
                backbone, SIZE, 1, params.dropout, params.weights, params.pool
            )
            taken = training_speed(encoder, params)
            rows.append(_speed(backbone, f"training, augment {level}", taken, AT_LEAST))
    return rows


def _serving() -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = make_small_task(
            folder / "image", size=SIZE, studies=FILMS, without=["tabular", "note"]
        )
        every = make_small_task(folder / "all", size=SIZE, studies=FILMS)
        backbone = image.params.train_image.backbone
        taken = scoring_from_cache(image)
        rows.append(_speed(backbone, "scoring from the cache", taken, AT_LEAST))
        # Films of another size than those learnt from may seem foreign; that is not asked here.
        alone, together = (
            load_predictor(task.paths.bundle, accept_any_film=True) for task in (image, every)
        )
        for side in SIDES:
            manifest = make_films(folder / f"films_{side}", side)
            taken = scoring_from_files(alone, manifest)
            rows.append(_speed(backbone, f"scoring from PNG files of {side} px", taken, None))
            rows += _single(alone, manifest, f"image of {side} px")
            rows += _single(together, manifest, f"image of {side} px, clinical features, note")
    return rows


def _single(predictor: Predictor, manifest: Path, what: str) -> list[Row]:
    encoder = predictor.bundle.image_encoder
    taken = one_prediction(predictor, manifest)
    return [
        Row(
            table="speed",
            task=encoder.spec.backbone if encoder else "",
            row=f"one prediction: {what}, {where}",
            metric="time against the bare forward",
            value=ratio(taken[way], taken["bare"]),
            must=AT_MOST,
            ceiling=True,
            n=len(taken[way]),
            seconds=sum(taken[way]),
            device=device(),
            command=COMMAND,
        )
        for way, where in (("memory", "already read"), ("file", "from a PNG file"))
    ]


def _speed(backbone: str, row: str, taken: Seconds, wanted: float | None) -> Row:
    return Row(
        table="speed",
        task=backbone,
        row=row,
        metric="images per second against bare",
        value=ratio(taken["bare"], taken["path"]),
        must=wanted,
        n=len(taken["path"]),
        seconds=sum(taken["path"]),
        device=device(),
        command=COMMAND,
    )
