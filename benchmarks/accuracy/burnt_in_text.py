"""Part `text`: how many burnt-in words are found, who has them, and what masking them changes.

Words are burnt into radiographs of the COVID-19 set; the models with and without masking are
compared on the same folds and studies.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.accuracy.ablation import difference, ungated
from benchmarks.harness.outputs import FUSED, fields_of
from benchmarks.harness.parts import Row
from benchmarks.harness.runs import Finished, Overrides, Wanted, setting, side_by_side
from cxr_mm.core.paths import TaskPaths
from cxr_mm.data.manifest import ABSENT, TEXT, Manifest, load_manifest, load_quality
from cxr_mm.evaluation.resampling import exact_interval, rounded
from cxr_mm.imaging.burnt_in_text import Radiograph, text_mask
from cxr_mm.imaging.radiograph import read_radiograph

TASKS = ("icu_early", "intubation_early", "icu", "intubation", "covid")
INPUTS = ("image", FUSED)
BURNT_INTO = "covid"
"""Task whose radiographs words are burnt into."""
WORDS = ("PORTABLE", "AP ERECT", "SUPINE", "15:50", "ITU @ 15:50", "20/11/2018", "REPEAT")
HEIGHTS, CONTRASTS = (0.02, 0.03, 0.045, 0.06), (0.25, 0.5, 1.0)
"""Size of the font as a share of the longer side; how far grey becomes white or black."""
WHITE = 0.8
"""Share of the words that are white."""
IMAGES, SEED = 100, 0
FOUND = 0.8
"""Least share of a word's strokes that is masked where it counts as found."""
MASKED = {"ingest": {"mask_text": True}}
Random = np.random.Generator


def measure() -> list[Row]:
    """Rows of every task that can be trained here, then those of the words burnt in."""
    rows: list[Row] = []
    ways: dict[str, Overrides] = {"text as it is": {}, "text masked": MASKED}
    runs = side_by_side(
        [Wanted(task, ungated(more), way) for task in TASKS for way, more in ways.items()]
    )
    for task, plain, masked in zip(TASKS, runs, runs, strict=True):
        if plain is not None and masked is not None:
            rows += [*_prevalence(plain), *_effect(task, plain, masked)]
            if task == BURNT_INTO:
                rows += _recall(plain)
    return rows


def _effect(task: str, plain: Finished, masked: Finished) -> Iterator[Row]:
    """AUC without masking, with it, and the gain."""
    chosen = setting(task, {})
    for inputs in INPUTS:
        facts = {"table": "burnt-in text: masked", "row": inputs}
        for metric, run in (("auc", plain), ("auc masked", masked)):
            found = run.rows(inputs, "auc", **facts)
            yield from (row.model_copy(update={"metric": metric}) for row in found)
        gain = difference(
            chosen.task, masked.heldout, plain.heldout, inputs, "auc", chosen.params.evaluate
        )
        if gain is not None:
            yield found[0].model_copy(update={"metric": "gain", "reference": 0, **fields_of(gain)})


def _prevalence(run: Finished) -> Iterator[Row]:
    """Share of the images with text, by the answer."""
    manifest, text = _images(run)
    labels = manifest.labels()[:, 0]
    for value, name in ((1, "positive"), (0, "negative")):
        own = text[labels == value]
        yield _share(own, table="burnt-in text: who has it", task=manifest.task.name, row=name)


def _images(run: Finished) -> tuple[Manifest, NDArray[np.bool_]]:
    """The studies with an image, and whether a word was found in it, (N,)."""
    name = str(run.metrics["task"])
    paths = TaskPaths(name, run.folder)
    manifest = load_manifest(paths, setting(name, {}).task)
    image = (manifest.frame["pixel_row"] != ABSENT).to_numpy()
    found = load_quality(paths)[TEXT].to_numpy(bool)[image]
    return Manifest(manifest.task, manifest.frame[image].reset_index(drop=True)), found


def _recall(run: Finished) -> Iterator[Row]:
    """Share of the words burnt into images without text that are masked."""
    manifest, text = _images(run)
    random = np.random.default_rng(SEED)
    files = sorted(set(manifest.frame["image_path"][~text]))
    chosen = random.choice(files, min(IMAGES, len(files)), replace=False)
    images = [read_radiograph(Path(file)).pixels for file in chosen]
    for height, contrast in product(HEIGHTS, CONTRASTS):
        found = np.array([is_found(image, height, contrast, random) for image in images])
        row = f"letters of {height:.1%} of the longer side, contrast {contrast:g}"
        yield _share(found, table="burnt-in text: found", task=manifest.task.name, row=row)


def is_found(image: Radiograph, height: float, contrast: float, random: Random) -> bool:
    """Whether a random word, burnt in near an edge, is masked for the most part."""
    strokes = word_strokes(image.shape, height, random)
    white = np.float32(random.random() < WHITE)
    burnt = image + strokes * np.float32(contrast) * (white - image)
    return bool(text_mask(burnt)[strokes > 0.5].mean() >= FOUND)


def word_strokes(shape: tuple[int, ...], height: float, random: Random) -> Radiograph:
    """A random word as opacity (H, W) in [0, 1], whole and near an edge of the image."""
    font = ImageFont.load_default(height * max(shape))
    word = str(random.choice(WORDS))
    drawn = Image.new("L", (shape[1], shape[0]))
    pen = ImageDraw.Draw(drawn)
    left, top, right, bottom = pen.textbbox((0, 0), word, font=font)
    room = np.maximum([shape[1] - right + left, shape[0] - bottom + top], 0)
    at = random.random(2)
    at[random.integers(2)] = random.choice((0.02, 0.98))
    pen.text((at[0] * room[0] - left, at[1] * room[1] - top), word, fill=255, font=font)
    return np.asarray(drawn, np.float32) / np.float32(255)


def _share(hits: NDArray[np.bool_], **facts: str) -> Row:
    """A share with the exact limits of independent trials."""
    value, limits = float(hits.mean()), exact_interval(float(hits.mean()), len(hits))
    ci95 = rounded(limits[0]), rounded(limits[1])
    return Row(metric="share", value=rounded(value), ci95=ci95, n=len(hits), **facts)
