"""Part `speed`: training, scoring and one prediction, each against the bare network in one run.

Bare is the same network, in the same precision and memory order, on tensors that lie in memory.
"""

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

from benchmarks.harness.parts import Row
from benchmarks.harness.runs import SmallTask, make_small_task
from benchmarks.harness.timing import (
    Seconds,
    bare_forward,
    bare_training,
    device,
    in_turn,
    random_batches,
    ratio,
)
from cxr_mm.core.config import TrainImageParams
from cxr_mm.core.files import read_json
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES
from cxr_mm.data.pixel_cache import LabelledSquares, PixelDataset, image_batches, open_pixels
from cxr_mm.data.sources.manifest_csv import read_manifest_csv
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.data.synthetic.population import SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.inference.predictor import Predictor, load_predictor
from cxr_mm.inference.score import score
from cxr_mm.inference.table import BATCH
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder
from cxr_mm.models.precision import (
    CANDIDATES,
    MEASURED_ON,
    PLAIN,
    SERVED,
    Precision,
    choose_precision,
)
from cxr_mm.training.embed import image_embeddings
from cxr_mm.training.image_trainer import PRECISION, fit_image_encoder

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
    return in_turn({"path": path, "bare": bare_forward(encoder, batches, SERVED)}, PASSES)


def scoring_from_files(predictor: Predictor, manifest: Path) -> Seconds:
    """`score` on a manifest of PNG files; the task's only modality is the image."""
    bundle, out = predictor.bundle, manifest.with_suffix(".parquet")
    studies = [study for _, study in _filed(predictor, manifest)]
    groups = (studies[start : start + BATCH] for start in range(0, len(studies), BATCH))
    encoded = [bundle.encode(group).batch.image for group in groups]
    batches = [images for images in encoded if images is not None]
    encoder = bundle.classifier.image_encoder
    assert encoder is not None
    ways = {
        "path": lambda: score(predictor, manifest, out),
        "bare": bare_forward(encoder, batches, SERVED),
    }
    return in_turn(ways, PASSES)


def one_prediction(predictor: Predictor, manifest: Path) -> Seconds:
    """One study at a time: image read from its file (`file`), in memory (`memory`), and `raw`."""
    taken: Seconds = {"file": [], "memory": [], "bare": []}
    for path, study in itertools.islice(_filed(predictor, manifest), STUDIES):
        for name, seconds in in_turn(_ways(predictor, path, study), REPEATS).items():
            taken[name] += seconds
    return taken


def _filed(predictor: Predictor, manifest: Path) -> Iterator[tuple[Path, Study]]:
    """Each study with the path of its image."""
    task = predictor.bundle.task
    paths = read_manifest_csv(manifest, task, labels_required=False)["image_path"]
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

    return {
        "file": from_file,
        "memory": lambda: predictor.predict(study),
        "bare": _bare_networks(predictor.bundle, study),
    }


def _bare_networks(bundle: Bundle, study: Study) -> Callable[[], object]:
    """All networks of the bundle on one study, what they read ready in memory."""
    notes, read = bundle.note_encoder, list[tuple[Tensor, ...]]()
    hook = notes.register_forward_pre_hook(lambda _, given: read.append(given)) if notes else None
    batch = bundle.encode([study]).batch
    if hook is not None:
        hook.remove()

    @torch.inference_mode()
    def run() -> None:
        for tokens in read:
            assert notes is not None
            notes(*tokens)
        bundle.classifier(batch.image, batch.tabular, batch.note, batch.mask)

    return run


EPOCHS, STEPS = 6, 3
"""The first epoch warms up and does not count."""


class _Watched(PixelDataset):
    """Says when a batch is on_start for."""

    on_start: Callable[[], None]

    def __getitems__(self, indices: Sequence[int]) -> LabelledSquares:
        self.on_start()
        return super().__getitems__(indices)


class Stopwatch:
    """Seconds of each epoch's training, and of as many bare steps right after it."""

    def __init__(self, raw: Callable[[], Callable[[], None]]) -> None:
        self._make_bare = raw
        self._raw: Callable[[], None] | None = None
        self._started: float | None = None
        self.taken: Seconds = {"path": [], "bare": []}

    def training(self) -> None:
        """A batch to train on is on_start for."""
        self._started = self._started or time.perf_counter()

    def validation(self) -> None:
        """A batch to validate on is on_start for: training is over for this epoch."""
        if self._started is None:
            return
        path, self._started = time.perf_counter() - self._started, None
        # Lightning asks for these batches where no gradient is kept.
        with torch.inference_mode(False), torch.enable_grad():
            if self._raw is None:
                self._raw = self._make_bare()
                self._raw()
                return
            started = time.perf_counter()
            self._raw()
        self.taken["bare"].append(time.perf_counter() - started)
        self.taken["path"].append(path)


def training_speed(encoder: ImageEncoder, params: TrainImageParams) -> Seconds:
    """Seconds of `path` and of `raw`, epoch by epoch.

    Args:
        encoder: trained in place.
        params: epochs are set here; everything else is the caller's.
    """
    size, batch = encoder.spec.size, params.batch_size
    own = copy.deepcopy(encoder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).integers(0, 256, (batch * STEPS, size, size), np.uint8)
        np.save(folder / "pixels.npy", pixels)
        labels = (np.arange(batch * STEPS) % 2).astype(np.float32)[:, None]

        def raw() -> Callable[[], None]:
            precision = Precision(**read_json(folder / PRECISION))
            return bare_training(own, random_batches(STEPS, batch, size), precision)

        progress = Stopwatch(raw)
        train = _Watched(folder / "pixels.npy", np.arange(len(pixels)), labels)
        val = _Watched(folder / "pixels.npy", np.arange(batch), labels[:batch])
        train.on_start, val.on_start = progress.training, progress.validation
        params = params.model_copy(update={"epochs": EPOCHS})
        fit_image_encoder(encoder, train, val, "binary", params, folder, folder / "curves")
    return progress.taken


COMMAND = "make benchmark PART=speed"
BACKBONES = {"tf_efficientnet_lite0": "packaged", "small_cnn": "none", "resnet18": "none"}
LEVELS = ("none", "light", "strong")
SIZE, SIDES = 224, (256, 1024)
"""Sides in pixels of the network's input, and of the images."""
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
            folder / "image", size=SIZE, studies=IMAGES, without=["tabular", "note"]
        )
        every = make_small_task(folder / "all", size=SIZE, studies=IMAGES)
        backbone = image.params.train_image.backbone
        taken = scoring_from_cache(image)
        rows.append(_speed(backbone, "scoring from the cache", taken, AT_LEAST))
        # Images of another size than those learnt from may seem foreign; that is not on_start here.
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


PRECISION_COMMAND = "make benchmark PART=precision"
PRECISION_BACKBONES = {"tf_efficientnet_lite0": "packaged", "small_cnn": "none", "resnet18": "none"}
PRECISION_SIZE, PRECISION_BATCH, PRECISION_REPEATS = 224, 16, 7
NEVER_SLOWER = 0.95


def measure_precision() -> list[Row]:
    """Speed of what is chosen for each backbone, in inference and in training."""
    rows = []
    for backbone, weights in PRECISION_BACKBONES.items():
        encoder = build_image_encoder(backbone, PRECISION_SIZE, 1, weights=weights)
        rows += [_row(encoder, training) for training in (False, True)]
    return rows


def _row(encoder: ImageEncoder, training: bool) -> Row:
    (sample,) = random_batches(1, MEASURED_ON, PRECISION_SIZE)
    chosen = choose_precision(encoder, sample, training=training)
    ways = {
        "plain": _way(encoder, CANDIDATES[PLAIN], training),
        "auto": _way(encoder, chosen, training),
    }
    taken = in_turn(ways, PRECISION_REPEATS)
    order = "last" if chosen.channels_last else "first"
    return Row(
        table="precision",
        task=encoder.spec.backbone,
        row=f"{'training' if training else 'inference'}: {chosen.name}, channels {order}",
        metric="speed against plain fp32",
        value=ratio(taken["plain"], taken["auto"]),
        must=NEVER_SLOWER,
        n=PRECISION_REPEATS * PRECISION_BATCH,
        seconds=sum(map(sum, taken.values())),
        device=device(),
        command=PRECISION_COMMAND,
    )


def _way(encoder: ImageEncoder, precision: Precision, training: bool) -> Callable[[], None]:
    own, batches = copy.deepcopy(encoder), random_batches(1, PRECISION_BATCH, PRECISION_SIZE)
    return (bare_training if training else bare_forward)(own, batches, precision)
