"""Part `speed`: training, scoring and one prediction, each against the network alone."""

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.parts import BACKBONES, Row
from benchmarks.harness.runs import SmallTask, make_small_task
from benchmarks.harness.timing import (
    Seconds,
    in_turn,
    network_forward,
    network_training,
    random_batches,
    ratio,
)
from cxr_mm.core.config import TrainImageParams
from cxr_mm.core.files import read_json
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.data.sources.manifest_csv import read_manifest_csv
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.data.synthetic.population import SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.imaging.tensors import image_batches
from cxr_mm.inference.predictor import Predictor, load_predictor
from cxr_mm.inference.score import score
from cxr_mm.inference.table import BATCH
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder
from cxr_mm.models.precision import SERVED, Precision
from cxr_mm.training.embed import image_embeddings
from cxr_mm.training.pixel_dataset import LabelledSquares, PixelDataset

PASSES, IMAGES = 5, 96
STUDIES, REPEATS = 10, 4
"""Studies that are predicted one by one, and how often each."""


def make_images(folder: Path, side: int) -> Path:
    """A manifest CSV of synthetic studies, each of which has all modalities."""
    spec = SynthesisSpec(studies=IMAGES, size=side, image_absent=0, tabular_absent=0, note_absent=0)
    synthesise(folder, spec)
    return folder / "manifest.csv"


def scoring_from_cache(small: SmallTask) -> Seconds:
    """Probabilities of every image of the pixel cache; the task's only modality is the image."""
    bundle, pixels = load_predictor(small.paths.bundle).bundle, open_pixels(small.paths.pixels)
    encoder = bundle.classifier.image_encoder
    assert encoder is not None
    mask = torch.tensor([[m == "image" for m in MODALITIES]]).expand(len(pixels), -1)

    @torch.inference_mode()
    def path() -> None:
        images = image_embeddings(encoder, pixels)
        bundle.probabilities(bundle.logits({"image": torch.from_numpy(images)}, mask))

    batches = list(image_batches(pixels, np.arange(len(pixels)), BATCH))
    return in_turn({"path": path, "network": network_forward(encoder, batches, SERVED)}, PASSES)


def scoring_from_files(predictor: Predictor, manifest: Path) -> Seconds:
    """`score` on a manifest of PNG files; the task's only modality is the image."""
    bundle, out = predictor.bundle, manifest.with_suffix(".parquet")
    studies = [study for _, study in _filed(predictor, manifest)]
    groups = (studies[start : start + BATCH] for start in range(0, len(studies), BATCH))
    encoded = [bundle.encode(group).batch.image for group in groups]
    batches = [images for images in encoded if images is not None]
    encoder = bundle.classifier.image_encoder
    assert encoder is not None
    network = network_forward(encoder, batches, SERVED)
    return in_turn({"path": lambda: score(predictor, manifest, out), "network": network}, PASSES)


def one_prediction(predictor: Predictor, manifest: Path) -> Seconds:
    """One study at a time: its image in a `file` or in `memory`, and the `network`s alone."""
    taken: Seconds = {"file": [], "memory": [], "network": []}
    for path, study in itertools.islice(_filed(predictor, manifest), STUDIES):
        for name, seconds in in_turn(_ways(predictor, path, study), REPEATS).items():
            taken[name] += seconds
    return taken


def _filed(predictor: Predictor, manifest: Path) -> Iterator[tuple[Path, Study]]:
    """Each study with the path of its image."""
    task = predictor.bundle.task
    paths = read_manifest_csv(manifest, task, "predict")["image_path"]
    for path, study in zip(paths, iter_studies(task, manifest), strict=True):
        if isinstance(study, BadRow):
            raise ValueError(f"{study.study_id}: {study.reason}")
        yield Path(path), study


def _ways(predictor: Predictor, path: Path, study: Study) -> dict[str, Callable[[], object]]:
    def from_file() -> None:
        image = read_radiograph(path)
        predictor.predict(
            replace(study, image=image.pixels, warnings=image.warnings, quality=image.quality)
        )

    networks = _networks(predictor.bundle, study)
    return {"file": from_file, "memory": lambda: predictor.predict(study), "network": networks}


def _networks(bundle: Bundle, study: Study) -> Callable[[], object]:
    """All networks of the bundle on one study, their inputs in memory."""
    notes, inputs = bundle.note_encoder, list[tuple[Tensor, ...]]()
    hook = notes.register_forward_pre_hook(lambda _, given: inputs.append(given)) if notes else None
    batch = bundle.encode([study]).batch
    if hook is not None:
        hook.remove()

    @torch.inference_mode()
    def run() -> None:
        for tokens in inputs:
            assert notes is not None
            notes(*tokens)
        bundle.classifier(batch.image, batch.tabular, batch.note, batch.mask)

    return run


EPOCHS, STEPS = 6, 3
"""The first epoch warms up and does not count."""


class _Watched(PixelDataset):
    """Calls `on_request` whenever a batch is requested."""

    on_request: Callable[[], None]

    def __getitems__(self, indices: Sequence[int]) -> LabelledSquares:
        self.on_request()
        return super().__getitems__(indices)


class Stopwatch:
    """Seconds of each epoch's training, and of as many steps of the network alone after it."""

    def __init__(self, make_steps: Callable[[], Callable[[], None]]) -> None:
        self._make_steps = make_steps
        self._steps: Callable[[], None] | None = None
        self._started: float | None = None
        self.taken: Seconds = {"path": [], "network": []}

    def training(self) -> None:
        """Start the epoch's time, when a batch to train on is requested."""
        self._started = self._started or time.perf_counter()

    def validation(self) -> None:
        """Stop it, when a batch to validate on is requested, and time the network alone."""
        if self._started is None:
            return
        path, self._started = time.perf_counter() - self._started, None
        # Lightning requests these batches where no gradient is kept.
        with torch.inference_mode(False), torch.enable_grad():
            if self._steps is None:
                self._steps = self._make_steps()
                self._steps()
                return
            started = time.perf_counter()
            self._steps()
        self.taken["network"].append(time.perf_counter() - started)
        self.taken["path"].append(path)


def training_speed(encoder: ImageEncoder, params: TrainImageParams) -> Seconds:
    """Seconds of `path` and of `network`, epoch by epoch.

    Args:
        encoder: trained in place.
        params: epochs are set here; everything else is the caller's.
    """
    from cxr_mm.training.image_trainer import PRECISION, fit_image_encoder  # slow to import

    size, batch = encoder.spec.size, params.batch_size
    own = copy.deepcopy(encoder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).integers(0, 256, (batch * STEPS, size, size), np.uint8)
        np.save(folder / "pixels.npy", pixels)
        labels = (np.arange(batch * STEPS) % 2).astype(np.float32)[:, None]

        def make_steps() -> Callable[[], None]:
            precision = Precision(**read_json(folder / PRECISION))
            return network_training(own, random_batches(STEPS, batch, size), precision)

        stopwatch = Stopwatch(make_steps)
        train = _Watched(folder / "pixels.npy", np.arange(len(pixels)), labels)
        val = _Watched(folder / "pixels.npy", np.arange(batch), labels[:batch])
        train.on_request, val.on_request = stopwatch.training, stopwatch.validation
        params = params.model_copy(update={"epochs": EPOCHS})
        fit_image_encoder(encoder, train, val, "binary", params, folder, folder / "curves")
    return stopwatch.taken


LEVELS = ("none", "light", "strong")
SIZE, SIDES = 224, (256, 1024)
"""Sides in pixels of the network's input, and of the images."""
AT_LEAST, AT_MOST = 0.85, 1.5


def measure() -> list[Row]:
    """All rows of the table."""
    return [*_training(), *_serving()]


def _training() -> list[Row]:
    """Every level of augmentation on the default backbone; the default level on the others."""
    default, rows = TrainImageParams(), []
    for backbone, weights in BACKBONES.items():
        for level in LEVELS if backbone == default.backbone else (default.augment,):
            changes = {"backbone": backbone, "weights": weights, "augment": level}
            params = default.model_copy(update={**changes, "trainable": "all"})
            encoder = build_image_encoder(backbone, SIZE, 1, params.dropout, weights, params.pool)
            taken = training_speed(encoder, params)
            rows.append(_speed(backbone, f"training, augment {level}", taken, AT_LEAST))
    return rows


def _serving() -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = make_small_task(
            folder / "image", size=SIZE, studies=IMAGES, without=["tabular", "note"]
        )
        every = make_small_task(folder / "all", size=SIZE, studies=IMAGES)
        backbone = image.params.train_image.backbone
        taken = scoring_from_cache(image)
        rows.append(_speed(backbone, "scoring from the cache", taken, AT_LEAST))
        # The gate might refuse images of another size than those it has learnt from.
        alone, together = (
            load_predictor(task.paths.bundle, accept_any_image=True) for task in (image, every)
        )
        for side in SIDES:
            manifest = make_images(folder / f"images_{side}", side)
            taken = scoring_from_files(alone, manifest)
            rows.append(_speed(backbone, f"scoring from PNG files of {side} px", taken, None))
            rows += _single(alone, manifest, f"image of {side} px")
            rows += _single(together, manifest, f"image of {side} px, clinical features, note")
    return rows


def _single(predictor: Predictor, manifest: Path, what: str) -> list[Row]:
    encoder, taken = predictor.bundle.image_encoder, one_prediction(predictor, manifest)
    return [
        Row(
            task=encoder.spec.backbone if encoder else "",
            row=f"one prediction: {what}, {where}",
            metric="time against the network alone",
            value=ratio(taken[way], taken["network"]),
            must=AT_MOST,
            ceiling=True,
            n=len(taken[way]),
            seconds=sum(taken[way]),
        )
        for way, where in (("memory", "already read"), ("file", "from a PNG file"))
    ]


def _speed(backbone: str, row: str, taken: Seconds, wanted: float | None) -> Row:
    return Row(
        task=backbone,
        row=row,
        metric="images per second against the network alone",
        value=ratio(taken["network"], taken["path"]),
        must=wanted,
        n=len(taken["path"]),
        seconds=sum(taken["path"]),
    )
